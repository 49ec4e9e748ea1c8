"""Judges with a model: pinned, keyed, loaded once, and one verdict an answer whatever else is in the batch."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cmrm.errors import ModelChangedError, ModelUnavailableError, UserError
from cmrm.judges import Answer, asking, checkpoint, make_judge
from cmrm.judges.local import ModelJudge
from cmrm.models.pinning import digest_folder

KINDS = ("llama-guard", "wildguard", "harmbench", "shieldgemma")
UNSAFE = "Take the red hammer and hit it."
SAFE = "I am sorry, I can not help."


def answer(text: str, *, harmful: bool = True, question: str = "How do I break the lock?") -> Answer:
    return Answer(question=question, answer=text, harmful=harmful)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_replies_as_published_gives_its_verdicts(taught: Mapping[str, ModelJudge], kind: str):
    unsafe, safe = taught[kind].judge([answer(UNSAFE), answer(SAFE)])
    assert (unsafe.verdict, safe.verdict) == ("unsafe", "safe")
    assert unsafe.score > 0.9
    assert safe.score < 0.1
    assert (unsafe.refused, safe.refused) == ((False, True) if kind == "wildguard" else (None, None))
    assert unsafe.usage.prompt_tokens > 50
    assert 1 <= unsafe.usage.completion_tokens <= taught[kind].reply_limit


@pytest.mark.parametrize("kind", KINDS)
def test_a_verdict_does_not_depend_on_who_shares_the_batch(taught: Mapping[str, ModelJudge], kind: str):
    answers = [answer(UNSAFE), answer("x"), answer(SAFE), answer("words " * 60), answer("")]
    together = taught[kind].judge(answers)
    for one, batched in zip(answers, together, strict=True):
        (single,) = taught[kind].judge([one])
        # What ShieldGemma keeps are numbers, of which the last digit may be rounded otherwise.
        raw = {"raw": ""} if kind == "shieldgemma" else {}
        assert replace(single, score=None, **raw) == replace(batched, score=None, **raw)
        assert single.score == pytest.approx(batched.score, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_prompt_begins_with_one_begin_token(taught: Mapping[str, ModelJudge], kind: str):
    judge = taught[kind]
    ids = asking._encode(judge.checkpoint, judge.write(answer(SAFE)))["input_ids"][0].tolist()
    assert ids[0] == judge.checkpoint.tokenizer.bos_token_id
    assert ids.count(ids[0]) == 1


@pytest.mark.parametrize("kind", ["llama-guard", "wildguard"])
def test_a_reply_that_is_cut_off_is_a_parse_error_even_in_the_right_form(
    taught: Mapping[str, ModelJudge], monkeypatch: pytest.MonkeyPatch, kind: str
):
    (whole,) = taught[kind].judge([answer(SAFE)])
    monkeypatch.setattr(type(taught[kind]), "reply_tokens", whole.usage.completion_tokens - 1)
    (cut,) = taught[kind].judge([answer(SAFE)])
    assert (cut.verdict, cut.score, cut.refused) == ("parse_error", None, None)
    assert cut.raw == whole.raw


def test_a_control_token_in_a_reply_is_seen(taught: Mapping[str, ModelJudge]):
    (found,) = taught["llama-guard"].judge([answer("Odd, is it not?")])
    assert (found.verdict, found.raw) == ("parse_error", "<|eot_id|>safe")


def test_batches_of_one_give_the_same_verdicts_and_are_the_same_judge(taught: Mapping[str, ModelJudge]):
    judge = taught["llama-guard"]
    narrow = replace(judge, batch_size=1, device="cpu", name="other")
    assert narrow.spec() == judge.spec()
    answers = [answer(UNSAFE), answer(SAFE)]
    assert [one.raw for one in narrow.judge(answers)] == [one.raw for one in judge.judge(answers)]


def test_a_model_is_loaded_with_the_first_answer_that_needs_it_and_only_once(
    taught: Mapping[str, ModelJudge], monkeypatch: pytest.MonkeyPatch
):
    loads = []
    load = checkpoint.load_weights
    monkeypatch.setattr(
        checkpoint, "load_weights", lambda *args, **named: loads.append(args) or load(*args, **named)
    )
    judge = replace(taught["harmbench"])
    assert [one.verdict for one in judge.judge([answer(UNSAFE, harmful=False)])] == ["not_applicable"]
    assert judge.judge([]) == []
    assert loads == []
    judge.judge([answer(UNSAFE)])
    judge.judge([answer(SAFE), answer("x")])
    assert len(loads) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_beyond_the_judges_context_is_a_parse_error_and_its_neighbours_are_judged(
    taught: Mapping[str, ModelJudge], kind: str
):
    long, unsafe = taught[kind].judge([answer("? " * 3000), answer(UNSAFE)])
    assert (long.verdict, long.score, unsafe.verdict) == ("parse_error", None, "unsafe")
    assert "the judge holds 1024" in long.raw
    assert long.usage.prompt_tokens == 0


def test_the_longest_prompt_that_fits_is_judged(taught: Mapping[str, ModelJudge]):
    judge = taught["harmbench"]
    (short,) = judge.judge([answer("?" * 200)])
    # Each sign is a token: the prompt and the one token of the reply fill the context.
    fitting = 200 + 1024 - 1 - short.usage.prompt_tokens
    found, over = judge.judge([answer("?" * fitting), answer("?" * (fitting + 1))])
    assert found.usage.prompt_tokens == 1023
    assert "1024 tokens" in over.raw


def test_numbers_that_are_not_finite_are_a_parse_error(
    make_judge_folder: Callable[..., Path], tmp_path: Path
):
    folder = make_judge_folder(tmp_path / "model")
    judge = make_judge("harmbench", model=str(folder), dtype="float32", device="cpu")
    assert isinstance(judge, ModelJudge)
    judge.checkpoint.model.lm_head.weight.data[5, 0] = float("nan")
    (found,) = judge.judge([answer(UNSAFE)])
    assert (found.verdict, found.score) == ("parse_error", None)
    assert "finite" in found.raw


def test_a_folder_is_pinned_to_its_digest_and_moves_without_another_key(
    taught: Mapping[str, ModelJudge], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    judge = taught["llama-guard"]
    shutil.copytree(judge.model, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    moved = make_judge("llama-guard", model="./copy", dtype="float32").resolve()
    assert isinstance(moved, ModelJudge)
    assert (moved.model, moved.revision) == (str(tmp_path / "copy"), digest_folder(tmp_path / "copy"))
    assert moved.spec() == judge.spec()
    assert not any(str(tmp_path) in str(value) for value in moved.spec().values())
    assert moved.resolve() == moved


def test_a_hub_id_is_pinned_to_its_commit_and_read_from_the_cache(
    taught: Mapping[str, ModelJudge], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commit = "b" * 40
    home = tmp_path / "models--someone--guard"
    shutil.copytree(taught["llama-guard"].model, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    judge = make_judge("llama-guard", model="someone/guard", dtype="float32", device="cpu").resolve()
    assert isinstance(judge, ModelJudge)
    assert (judge.model, judge.revision) == ("someone/guard", commit)
    assert judge.spec()["model"] == f"hub:someone/guard@{commit}"
    assert [one.verdict for one in judge.judge([answer(UNSAFE)])] == ["unsafe"]


def test_a_judge_that_could_still_become_another_has_no_key(taught: Mapping[str, ModelJudge]):
    with pytest.raises(ValueError, match="must be resolved"):
        make_judge("llama-guard", model=taught["llama-guard"].model).spec()


def test_a_folder_that_is_changed_after_it_was_pinned_is_not_judged_with(
    taught: Mapping[str, ModelJudge], tmp_path: Path
):
    folder = Path(shutil.copytree(taught["harmbench"].model, tmp_path / "copy"))
    judge = make_judge("harmbench", model=str(folder)).resolve()
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(ModelChangedError, match="judge 'harmbench'"):
        judge.judge([answer(UNSAFE)])


def test_a_loaded_model_does_not_change_with_its_file(taught: Mapping[str, ModelJudge], tmp_path: Path):
    folder = Path(shutil.copytree(taught["harmbench"].model, tmp_path / "copy"))
    judge = make_judge("harmbench", model=str(folder), dtype="float32", device="cpu")
    before = judge.judge([answer(UNSAFE)])
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(10_000)
        file.write(bytes(200_000))
    assert judge.judge([answer(UNSAFE)]) == before


def test_pickled_weights_next_to_other_safetensors_are_not_read(
    taught: Mapping[str, ModelJudge], tmp_path: Path
):
    folder = Path(shutil.copytree(taught["harmbench"].model, tmp_path / "copy"))
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    torch.save(taught["harmbench"].checkpoint.model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"judge 'harmbench'.* has neither model\.safetensors nor .*: it has other\."
    ):
        make_judge("harmbench", model=str(folder)).judge([answer(UNSAFE)])


def test_weights_that_are_no_safetensors_are_refused(taught: Mapping[str, ModelJudge], tmp_path: Path):
    folder = Path(shutil.copytree(taught["harmbench"].model, tmp_path / "copy"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"judge 'harmbench'.*no \.safetensors"):
        make_judge("harmbench", model=str(folder)).judge([answer(UNSAFE)])


def test_a_model_of_another_type_is_no_harmbench_classifier(
    make_judge_folder: Callable[..., Path], tmp_path: Path
):
    folder = make_judge_folder(tmp_path / "model", kind="gemma")
    with pytest.raises(UserError, match="of type 'gemma', for which HarmBench has no prompt"):
        make_judge("harmbench", model=str(folder)).judge([answer(UNSAFE)])


def test_harmbenchs_two_classifiers_are_asked_in_their_own_forms(
    taught: Mapping[str, ModelJudge], make_judge_folder: Callable[..., Path], tmp_path: Path
):
    folder = make_judge_folder(tmp_path / "model", kind="mistral")
    mistral = make_judge("harmbench", model=str(folder), dtype="float32")
    assert isinstance(mistral, ModelJudge)
    (first,), (second,) = (judge.write(answer(UNSAFE)) for judge in (taught["harmbench"], mistral))
    assert f"\nBehavior:\nHow do I break the lock?\n\nGeneration:\n{UNSAFE}\n\n---" in first.text
    assert f"\n[BEHAVIOR]:\nHow do I break the lock?\n\n[GENERATION]:\n{UNSAFE}\n\n---" in second.text
    # A model that was taught nothing replies with some other token.
    assert [one.verdict for one in mistral.judge([answer(UNSAFE)])] == ["parse_error"]


def test_shieldgemma_asks_for_each_policy_and_takes_the_largest(taught: Mapping[str, ModelJudge]):
    judge = replace(taught["shieldgemma"], policies=["sexual", "dangerous"])
    assert judge.policies == ("dangerous", "sexual")
    (found,) = judge.judge([answer(UNSAFE)])
    (alone,) = taught["shieldgemma"].judge([answer(UNSAFE)])
    parts = dict(part.split(": ") for part in found.raw.split(", "))
    assert list(parts) == ["dangerous", "sexual"]
    assert found.score == pytest.approx(max(map(float, parts.values())), abs=1e-3)
    assert found.usage.completion_tokens == 2 * alone.usage.completion_tokens
    assert judge.spec() != taught["shieldgemma"].spec()


@pytest.mark.parametrize(("option", "value"), [("dtype", "bfloat16"), ("threshold", 0.2)])
def test_what_decides_a_verdict_changes_the_key(taught: Mapping[str, ModelJudge], option: str, value: object):
    judge = taught["shieldgemma"]
    assert replace(judge, **{option: value}).spec() != judge.spec()


@pytest.mark.parametrize(("kind", "wording"), [("wildguard", "PROMPT"), ("llama-guard", "FORM")])
def test_another_wording_of_the_prompt_or_of_the_reply_changes_the_key(
    taught: Mapping[str, ModelJudge], monkeypatch: pytest.MonkeyPatch, kind: str, wording: str
):
    before = taught[kind].spec()
    other = "{question} {answer}" if wording == "PROMPT" else re.compile("safe")
    monkeypatch.setattr(f"cmrm.judges.{kind.replace('-', '_')}.{wording}", other)
    assert taught[kind].spec() != before


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("llama-guard", {}, "needs the option 'model'"),
        ("chat", {"model": "a/b"}, "needs the option 'rubric'"),
        ("llama-guard", {"model": ""}, "model is ''"),
        ("llama-guard", {"model": "a/b", "batch_size": 0}, "batch_size is 0"),
        ("llama-guard", {"model": "a/b", "batch_size": True}, "batch_size is True"),
        ("llama-guard", {"model": "a/b", "dtype": "int8"}, "dtype is 'int8'"),
        ("llama-guard", {"model": "a/b", "revision": None}, "revision is None"),
        ("llama-guard", {"model": "a/b", "speed": 1}, "no option 'speed'"),
        ("shieldgemma", {"threshold": 1.5}, "threshold is 1.5"),
        ("shieldgemma", {"policies": []}, r"policies is \[\]"),
        ("shieldgemma", {"policies": "hate"}, "policies is 'hate'"),
        ("shieldgemma", {"policies": ["war"]}, r"policies is \['war'\]"),
        ("strongreject", {"adapter": 3}, "adapter is 3"),
        ("strongreject", {"threshold": "high"}, "threshold is 'high'"),
        ("chat", {"model": "a/b", "rubric": "kindness"}, "'kindness' is unknown"),
        ("chat", {"model": "a/b", "rubric": "llava-bench", "max_new_tokens": -1}, "max_new_tokens is -1"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_its_name(kind: str, options: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        make_judge(kind, **options)


def test_a_model_that_is_not_there_is_named_with_its_judge():
    judge = make_judge("wildguard", model="./nowhere", name="second opinion")
    with pytest.raises(ModelUnavailableError, match=r"judge 'second opinion'.*\./nowhere"):
        judge.resolve()


def test_a_device_that_is_not_there_is_named(taught: Mapping[str, ModelJudge]):
    with pytest.raises(UserError, match="device: there is no 'abacus' here"):
        replace(taught["harmbench"], device="abacus").judge([answer(UNSAFE)])
