"""`cmrm export` and `cmrm verify-serving` as their users meet them: on a run, on a file of Δ, and with mistakes."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import cmrm.doctor.admission
from cmrm.doctor.examination import Check
from cmrm.doctor.fixture import CheckFailedError
from flows.cli import main
from flows.export.card import read_licence
from flows.export.source import Asked, read_source
from storage.store import Store
from tests.endpoint_server import Endpoint, complete
from tests.invented_types import register_tarsier, save_tarsier


def status(*arguments) -> int:
    try:
        main([str(one) for one in arguments])
    except SystemExit as ended:
        return int(ended.code)
    return 0


@pytest.fixture(scope="module")
def exported(finished, questions, tmp_path_factory):
    """The run's arm at its last block, exported by the command."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    done = status(
        "export", "latest", "--store", finished / "store", "--arm", "CMRM@60", "--blocks", "last", "--to", "checkpoint",
        "-o", folder, "--canary-prompts", questions, "--device", "cpu",
    )  # fmt: skip
    assert done == 0
    return folder


def find_delta(store):
    """The file of the run's Δ: the tensors as they are stored."""
    (path,) = (store / "shifts").rglob("*.safetensors")
    return path, load_file(path)


def test_an_arm_of_a_run_is_exported_with_its_own_shift(finished, exported, llava_folder):
    _, measured = find_delta(finished / "store")
    delta = measured["delta"][measured["blocks"].tolist().index(3)]
    weights = load_file(exported / "model.safetensors")
    biases = {name: value for name, value in weights.items() if name.endswith("down_proj.bias")}
    assert len(biases) == 4
    for name, value in biases.items():
        expected = -60 * delta if ".3." in name else torch.zeros(32)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    own = load_file(llava_folder / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in own.items())


def test_the_card_says_where_the_export_comes_from_and_what_was_proved(finished, exported):
    card = (exported / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "image-text-to-text"
    assert front["library_name"] == "transformers"
    assert front["license"] == "other"
    assert "cmrm" in front["tags"]
    run = Store.open(str(finished / "store")).find_run("latest")["run_id"]
    for part in (
        run,
        "α = 60 at block 3 of 4",
        "logits differ from hooks'",
        "At the last block",
        "has no answers under this arm at block 3 (it has answers at blocks 2, 3)",
        "verify-serving",
    ):
        assert part in card


def test_verify_serving_tells_the_export_from_its_source_and_from_another_model(
    exported, llava_folder, tmp_path, capsys
):
    canary = exported / "canary.json"
    assert status("verify-serving", exported, "--canary", canary, "--device", "cpu") == 0
    assert "steered: it serves" in " ".join(capsys.readouterr().out.split())
    assert status("verify-serving", llava_folder, "--canary", canary, "--device", "cpu") == 1
    assert "the shift was dropped" in " ".join(capsys.readouterr().out.split())
    content = json.loads(canary.read_text())
    for prompt in content["prompts"]:
        prompt["steered"]["tokens"], prompt["unsteered"]["tokens"] = [1, 1], [1, 2]
        prompt["differ_at"] = 1
    other = tmp_path / "canary.json"
    other.write_text(json.dumps(content))
    assert status("verify-serving", exported, "--canary", other, "--device", "cpu") == 2
    assert "neither" in capsys.readouterr().out


@pytest.mark.parametrize(("side", "expected"), [("steered", 0), ("unsteered", 1)])
def test_a_server_is_asked_the_canarys_messages_and_read_by_its_text(exported, side, expected, capsys):
    prompts = json.loads((exported / "canary.json").read_text())["prompts"]
    answers = {json.dumps(one["messages"]): one for one in prompts}

    def act(handler, asked):
        if asked.path.endswith("/models"):
            handler.give(200, json.dumps({"object": "list", "data": [{"id": "mine", "object": "model"}]}))
            return
        one = answers[json.dumps(asked.body["messages"])]
        handler.give(200, complete(f" {one[side]['text']}", usage=(len(one["token_ids"]), 3)))

    with Endpoint(act) as server:
        assert status("verify-serving", server.url, "--canary", exported / "canary.json") == expected
    assert [one.path for one in server.asked] == ["/v1/models", *["/v1/chat/completions"] * len(prompts)]
    bodies = [one.body for one in server.asked[1:]]
    assert all((body["model"], body["temperature"]) == ("mine", 0) for body in bodies)
    assert [body["max_tokens"] for body in bodies] == [one["max_tokens"] for one in prompts]
    shown = capsys.readouterr().out
    assert f"{len(prompts)} of {len(prompts)} answers equal the expected ones" in shown
    assert "another chat template" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def give_ids(kind, prompt, tokens, text):
    """A completion with token ids, as vLLM or llama-server gives them, or none as others do."""
    body = json.loads(complete(text, usage=(len(prompt), 3)))
    if kind == "vllm":
        body["prompt_token_ids"], body["choices"][0]["token_ids"] = prompt, tokens
    elif kind == "llama-server":
        body["choices"][0]["logprobs"] = {"content": [{"id": one, "token": "?"} for one in tokens]}
    elif kind == "broken":
        body["prompt_token_ids"], body["choices"][0]["token_ids"] = "no ids", [1, "2", True]
    return json.dumps(body)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("vllm", "Compared by token ids."),
        ("llama-server", "Compared by token ids."),
        ("broken", "Compared by text"),
        ("strict", "Compared by text"),
        ("lacking", "Compared by text"),
    ],
)
def test_a_servers_token_ids_are_compared_where_it_gives_them(exported, capsys, monkeypatch, kind, said):
    monkeypatch.setattr("cmrm.export.endpoint.RETRIES", 0)
    warned: list[str] = []
    monkeypatch.setattr("cmrm.judges.connection.log.warning", lambda text, *_: warned.append(text))
    refusals = {"strict": 422, "lacking": 501}
    prompts = json.loads((exported / "canary.json").read_text())["prompts"]

    def act(handler, asked):
        asks = asked.body.get("return_token_ids"), asked.body.get("logprobs")
        if kind in refusals and asks != (None, None):
            handler.give(refusals[kind], json.dumps({"detail": "Unexpected fields in the request"}))
            return
        assert kind in refusals or asks == (True, True)
        (one,) = [one for one in prompts if one["messages"] == asked.body["messages"]]
        # Where ids are compared, the text says nothing.
        text = "hm" if "ids" in said else one["steered"]["text"]
        handler.give(200, give_ids(kind, one["token_ids"], one["steered"]["tokens"], text))

    with Endpoint(act) as server:
        given = [server.url, "--canary", exported / "canary.json", "--served-model", "mine"]
        assert status("verify-serving", *given) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    assert f"{len(prompts)} of {len(prompts)} answers equal the expected ones" in shown
    # One refused request is enough to know.
    assert len(server.asked) == len(prompts) + (kind in refusals)
    # To ask without the fields is no retry.
    assert warned == []


def test_texts_that_begin_as_expected_of_other_tokens_are_neither_and_told_so(exported, capsys):
    prompts = json.loads((exported / "canary.json").read_text())["prompts"]

    def act(handler, asked):
        (one,) = [one for one in prompts if one["messages"] == asked.body["messages"]]
        other = [10**6 + token for token in one["steered"]["tokens"]]
        read = [10**6 + token for token in one["token_ids"]]
        handler.give(200, give_ids("vllm", read, other, one["steered"]["text"]))

    with Endpoint(act) as server:
        given = [server.url, "--canary", exported / "canary.json", "--served-model", "mine"]
        assert status("verify-serving", *given) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{len(prompts)} of {len(prompts)} texts begin as expected, of other tokens" in shown
    assert "It reads other tokens than the canary's prompts have" in shown


@pytest.mark.parametrize("penalty", [None, 1.0])
def test_a_request_says_a_repetition_penalty_where_the_canary_does(exported, tmp_path, penalty):
    content = json.loads((exported / "canary.json").read_text())
    assert content["repetition_penalty"] is None
    (tmp_path / "canary.json").write_text(json.dumps({**content, "repetition_penalty": penalty}))
    with Endpoint(lambda handler, _asked: handler.give(200, complete("hm"))) as server:
        status("verify-serving", server.url, "--canary", tmp_path / "canary.json", "--served-model", "mine")
    assert all(one.body.get("repetition_penalty") == penalty for one in server.asked)
    assert all(("repetition_penalty" in one.body) is (penalty is not None) for one in server.asked)


def test_a_server_that_steers_single_requests_is_sent_the_fields_that_ask_for_it(exported, tmp_path):
    canary = json.loads((exported / "canary.json").read_text())
    asking = {"vllm_xargs": {"apply_steering_vectors": "[1]"}}
    (tmp_path / "fields.json").write_text(json.dumps(asking))

    def act(handler, asked):
        side = "steered" if asked.body.get("vllm_xargs") == asking["vllm_xargs"] else "unsteered"
        (found,) = [one for one in canary["prompts"] if one["messages"] == asked.body["messages"]]
        handler.give(200, complete(found[side]["text"]))

    with Endpoint(act) as server:
        given = [server.url, "--canary", exported / "canary.json", "--served-model", "mine"]
        assert status("verify-serving", *given) == 1
        assert status("verify-serving", *given, "--request-fields", tmp_path / "fields.json") == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "is not a JSON object"),
        ("{", "is not JSON"),
        ('{"steering": NaN}', "it holds NaN"),
        ('{"model": "other", "top_k": 1}', "the canary itself says model;"),
    ],
)
def test_fields_that_no_request_can_have_cost_a_line_and_status_two(
    exported, tmp_path, capsys, content, said
):
    (tmp_path / "fields.json").write_text(content)
    given = ["--canary", exported / "canary.json", "--request-fields", tmp_path / "fields.json"]
    assert status("verify-serving", "http://127.0.0.1:9/v1", *given) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    (tmp_path / "fields.json").write_text("{}")
    assert status("verify-serving", exported, *given) == 2
    assert "leave them out for a folder" in " ".join(capsys.readouterr().err.split())


def test_a_server_that_formats_prompts_otherwise_is_told_so(exported, capsys):
    with Endpoint(lambda handler, _asked: handler.give(200, complete("hm", usage=(1, 1)))) as server:
        done = status(
            "verify-serving", server.url, "--canary", exported / "canary.json", "--served-model", "mine"
        )
    assert done == 2
    assert "another chat template" in " ".join(capsys.readouterr().out.split())


def test_a_hostile_servers_answer_is_shown_without_what_a_terminal_obeys(exported, capsys):
    with Endpoint(
        lambda handler, _asked: handler.give(200, complete("\x1b[2J\x1b]0;owned\x07\u202e" * 99))
    ) as server:
        done = status(
            "verify-serving", server.url, "--canary", exported / "canary.json", "--served-model", "mine"
        )
    assert done == 2
    shown = capsys.readouterr().out
    assert not set(shown) & {"\x1b", "\x07", "\u202e"}


def test_a_key_is_read_from_the_environment_alone_and_never_shown(exported, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "sk-very-secret-key")
    canary = exported / "canary.json"

    def echo(handler, asked):
        handler.give(200, complete(asked.headers["authorization"]))

    with Endpoint(echo) as server:
        given = ("--canary", canary, "--served-model", "mine", "--key-variable", "MY_KEY")
        assert status("verify-serving", server.url, *given) == 2
        assert server.asked[0].headers["authorization"] == "Bearer sk-very-secret-key"
    assert "very-secret" not in capsys.readouterr().out
    assert status("verify-serving", "http://elsewhere.example/v1", *given) == 2
    assert "unencrypted" in capsys.readouterr().err


def test_a_server_that_refuses_or_is_not_there_costs_a_line_and_status_two(exported, capsys, monkeypatch):
    monkeypatch.setattr("cmrm.export.endpoint.RETRIES", 0)
    with Endpoint(
        lambda handler, _asked: handler.give(404, '{"error": {"message": "no such model"}}')
    ) as server:
        given = ("--canary", exported / "canary.json", "--served-model", "mine")
        assert status("verify-serving", server.url, *given) == 2
    assert re.search(r"no such model\. \(404\)", capsys.readouterr().err)
    assert status("verify-serving", server.url, *given) == 2
    assert "gives no answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    "body",
    [
        "<html>hello</html>",
        '"mine"',
        "[1]",
        "null",
        '{"data": {"id": "mine"}}',
        '{"data": ["mine"]}',
        "[" * 99999,
    ],
)
def test_a_page_that_is_no_list_of_models_costs_a_line_and_status_two(exported, body, capsys):
    with Endpoint(lambda handler, _asked: handler.give(200, body)) as server:
        assert status("verify-serving", server.url, "--canary", exported / "canary.json") == 2
    assert "the server lists no model; name the one to ask" in " ".join(capsys.readouterr().err.split())


def test_what_nobody_foresaw_does_not_end_with_the_status_of_an_unsteered_server(exported, tmp_path, capsys):
    content = json.loads((exported / "canary.json").read_text())
    for prompt in content["prompts"]:
        # The processor refuses an image's mark without an image.
        prompt["messages"] = [{"role": "user", "content": "<image>"}]
    (tmp_path / "canary.json").write_text(json.dumps(content))
    assert status("verify-serving", exported, "--canary", tmp_path / "canary.json", "--device", "cpu") == 2
    assert "cannot be asked: ValueError" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--arm", "own"], "'own' subtracts a Δ of each question's own"),
        (["--arm", "begin"], "scope prefill"),
        (["--arm", "asked"], "is of kind prompt"),
        (["--arm", "nobody"], "its arms: CMRM, "),
        (["--arm", "CMRM@much"], "'much' is no strength"),
        (["--arm", "CMRM"], "α = 30, 60 and its report selects none"),
        ([], "several arms that can be exported"),
        (["--arm", "CMRM@60", "--alpha", "30"], "names another strength"),
        (["--arm", "CMRM@0"], "adds nothing at α = 0"),
        (["--arm", "both", "--alpha", "2"], "'both' has no strength of its own"),
        (["--arm", "both@2"], "'both' has no strength of its own"),
        (["--arm", "CMRM@60", "--blocks", "9"], "no block 9"),
        (["--arm", "CMRM@60", "--blocks", "some"], "--blocks 'some'"),
        (["--arm", "CMRM@60", "--revision", "main"], "--revision"),
        (["--arm", "CMRM@60", "--to", "elsewhere"], "export format 'elsewhere' is unknown"),
    ],
)
def test_what_cannot_be_exported_costs_a_line_and_status_two(finished, tmp_path, capsys, options, said):
    given = ["export", "latest", "--store", finished / "store", "-o", tmp_path / "out"]
    given += [] if "--to" in options else ["--to", "checkpoint"]
    assert status(*given, *options) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert list(tmp_path.iterdir()) == []


def test_a_question_that_the_processor_refuses_costs_a_line_and_status_two(finished, tmp_path, capsys):
    (tmp_path / "questions.txt").write_text("what is <image>?\n")
    given = ("export", "latest", "--store", finished / "store", "--arm", "CMRM@60", "--to", "checkpoint")
    assert status(*given, "-o", tmp_path / "out", "--canary-prompts", tmp_path / "questions.txt") == 2
    assert "the processor refuses a canary's question" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_not_written_to(finished, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    given = ("export", "latest", "--store", finished / "store", "--arm", "CMRM@60", "--to", "checkpoint")
    assert status(*given, "-o", tmp_path) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_model_that_is_not_the_runs_is_refused(finished, make_llava, tmp_path, capsys):
    other = make_llava(tmp_path / "other", image_size=32, patch_size=16)
    given = ("export", "latest", "--store", finished / "store", "--arm", "CMRM@60", "--to", "checkpoint")
    assert status(*given, "-o", tmp_path / "out", "--model", other) == 2
    assert "not those on which the run's Δ was measured" in " ".join(capsys.readouterr().err.split())


def test_an_export_into_the_models_own_folder_is_refused(finished, llava_folder, capsys):
    given = ("export", "latest", "--store", finished / "store", "--arm", "CMRM@60", "--to", "checkpoint")
    assert status(*given, "-o", llava_folder / "out") == 2
    assert "inside the model's own folder" in " ".join(capsys.readouterr().err.split())
    assert not (llava_folder / "out").exists()


def test_a_file_of_delta_is_refused_for_other_files_than_it_was_measured_on(
    finished, llava_folder, tmp_path, capsys
):
    path, _ = find_delta(finished / "store")
    model = shutil.copytree(llava_folder, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    name = min(weights)
    save_file({**weights, name: weights[name] + 1}, model / "model.safetensors", metadata={"format": "pt"})
    given = ("--alpha", 60, "--to", "checkpoint", "-o", tmp_path / "out")
    assert status("export", path, "--model", model, *given) == 2
    assert "Give the model that it was measured on" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("front", ["license: [mit", 'license: "mit\x1b"', "license: m\udcff", "- a list", ""])
def test_a_damaged_card_of_the_source_says_nothing_and_stops_nothing(finished, llava_folder, tmp_path, front):
    source = read_source(
        "latest",
        Asked(model=None, revision=None, arm="CMRM@60", alpha=None, blocks=None, dtype="auto", device="cpu"),
        store=str(finished / "store"),
    )
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n", errors="surrogateescape")
    request = replace(source.request, model=replace(source.request.model, folder=tmp_path))
    assert read_licence(request) == {"license": "other", "license_name": "as-the-base-model"}


def test_a_file_of_delta_is_exported_for_a_model_elsewhere(
    finished, llava_folder, questions, tmp_path, capsys
):
    path, measured = find_delta(finished / "store")
    model = shutil.copytree(llava_folder, tmp_path / "model")
    given = ("--to", "checkpoint", "--canary-prompts", questions, "--device", "cpu")
    given = ("export", path, "--model", model, "--alpha", 60, *given, "-o", tmp_path / "file")
    assert status(*given, "--evaluate", "own") == 2
    assert "a file of Δ has no arm to hold its export against" in " ".join(capsys.readouterr().err.split())
    assert status(*given) == 0
    found = load_file(tmp_path / "file" / "model.safetensors")
    blocks = measured["blocks"].tolist()
    for place, block in enumerate(blocks):
        before = measured["delta"][place - 1] if place else torch.zeros(32)
        (name,) = (one for one in found if one.endswith(f"layers.{block}.mlp.down_proj.bias"))
        torch.testing.assert_close(found[name], -60 * (measured["delta"][place] - before))
    assert "Its Δ is from a file, without answers under it" in (tmp_path / "file" / "README.md").read_text()


@pytest.fixture
def tarsier(finished, llava_folder, questions, tmp_path, monkeypatch):
    """A command: the run's Δ for its model as a type that no table lists, with the blocks in another place."""
    register_tarsier(monkeypatch)
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path / "cache"))
    path, measured = find_delta(finished / "store")
    with safe_open(path, "pt") as opened:
        said = {name: value for name, value in opened.metadata().items() if name != "fingerprint"}
    delta = tmp_path / "delta.safetensors"
    save_file(measured, delta, metadata=said)
    model = save_tarsier(llava_folder, tmp_path / "tarsier")
    return (
        "export",
        delta,
        "--model",
        model,
        "--alpha",
        60,
        "--canary-prompts",
        questions,
        "--device",
        "cpu",
    )


def test_a_type_that_no_table_lists_is_exported_under_the_row_that_is_derived(tarsier, tmp_path, monkeypatch):
    # Whether the row is right, the tests of the examination ask.
    monkeypatch.setattr(cmrm.doctor.admission, "CHECKS", [])
    kept = {"checkpoint": "model.safetensors", "peft": "adapter_model.safetensors"}
    for kind, file in kept.items():
        assert status(*tarsier, "--blocks", "last", "--to", kind, "-o", tmp_path / kind) == 0
        tensors = load_file(tmp_path / kind / file)
        ((name, added),) = (
            (name, one)
            for name, one in tensors.items()
            if name.endswith(".bias") and "down_proj" in name and one.any()
        )
        assert ".tree.branches.3.mlp.down_proj." in name
        torch.testing.assert_close(added, -60 * load_file(tmp_path / "delta.safetensors")["delta"][-1])


def test_a_type_that_no_table_lists_is_exported_only_if_its_row_passes_the_checks(
    tarsier, tmp_path, monkeypatch, capsys
):
    def fail(_fixture):
        raise CheckFailedError("it is 7")

    monkeypatch.setattr(cmrm.doctor.admission, "CHECKS", [Check(name="seven", run=fail)])
    assert status(*tarsier, "--to", "checkpoint", "-o", tmp_path / "out") == 2
    assert "fails the check “seven”: it is 7" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--alpha", "1"], "--model: a file of Δ"),
        (["--model", "organism"], "--alpha: a file of Δ"),
        (["--alpha", "1", "--model", "organism", "--arm", "x"], "--arm"),
    ],
)
def test_a_file_of_delta_needs_its_model_and_a_strength(finished, tmp_path, capsys, options, said):
    path, _ = find_delta(finished / "store")
    assert status("export", path, "--to", "checkpoint", "-o", tmp_path / "out", *options) == 2
    assert said in capsys.readouterr().err
