"""`scripts/on-a-gpu`: all checks on tiny models, in an interpreter that has little more than torch and transformers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.two_devices import DEVICES, TwoDevices

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "scripts" / "on-a-gpu"
# What a machine with a GPU may lack.
ABSENT = (
    "accelerate bitsandbytes cyclopts datasets duckdb gguf inspect_ai matplotlib mlflow nnsight openai pandas "
    "peft polars prefect pyarrow pydantic ray rich scipy sklearn sqlalchemy starlette statsmodels torchvision uvicorn"
).split()
# Runs a program in an interpreter that finds none of the modules named first.
WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder
absent = set(sys.argv[1].split(","))
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
CHECKS = [
    "doctor", "exactness", "weights", "batch size", "out of memory", "device maps", "large states", "attention",
    "speed",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the program: its output, its record and its page."""
    out = tmp_path_factory.mktemp("out")
    given = ["--device", "cpu", "--tiny", "--shape", "llava-tiny", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(ABSENT), str(PROGRAM), *given],
        capture_output=True, text=True, check=False, cwd=out,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((out / "on-a-gpu.json").read_text(encoding="utf-8"))
    return done, record, (out / "on-a-gpu.md").read_text(encoding="utf-8")


@pytest.fixture
def load(monkeypatch):
    """Imports a module of the program as the program does."""
    for folder in ("benchmarks", "scripts"):
        monkeypatch.syspath_prepend(ROOT / folder)
    return import_module


@pytest.fixture
def subject(load):
    """The tiny model in float32."""
    module = load("on_a_gpu.subject")
    return module.build_subject(
        "llava-tiny",
        load("speed_shapes").SHAPES["llava-tiny"],
        device=torch.device("cpu"),
        dtype=torch.float32,
        sizes=module.SIZES["tiny"],
        budget=load("speed_budget").Budget(end=None),
    )


def run_here(load, out, *given, **more):
    """The exit status of the program in this process, and its record."""
    status = load("on_a_gpu.program").main(
        ["--device", "cpu", "--tiny", "--shape", "llava-tiny", "--out", str(out), *given], **more
    )
    return status, json.loads((out / "on-a-gpu.json").read_text(encoding="utf-8"))


def test_every_check_passes_or_says_why_it_is_not_possible_where_other_packages_are_missing(run):
    _, record, page = run
    ended = {one["check"]: one["status"] for one in record["outcomes"]}
    assert ended == {**dict.fromkeys(CHECKS, "passed"), "device maps": "not possible here"}
    assert record["machine"]["accelerate"] == record["machine"]["nnsight"] == "not installed"
    assert "| nnsight, batched                    | not measured |" in page


def test_the_page_begins_with_the_machine_then_a_line_for_each_check_then_the_tables(run):
    _, record, page = run
    head, checks, *rest = re.split(r"(?m)^## ", page)
    for name in ("machine", "card", "python", "torch", "transformers", "commit"):
        assert f"* {name}: {record['machine'][name]}\n" in head
    assert record["machine"]["torch"] == torch.__version__
    lines = re.findall(r"(?m)^\* \*\*(.+?)\*\*, llava-tiny, (.+?): ", checks)
    assert lines == [(one["status"], one["check"]) for one in record["outcomes"]]
    assert [text.partition("\n")[0] for text in rest] == ["llava-tiny"]
    assert re.findall(r"(?m)^### (.+)$", rest[0]) == [
        "doctor",
        "exactness",
        "batch size",
        "attention",
        "speed",
    ]


def test_each_check_has_its_seconds_and_its_peak_memory(run):
    for one in run[1]["outcomes"]:
        assert one["seconds"] >= 0
        assert one["peak_bytes"] > 1 << 20


def test_a_broken_check_is_reported_with_its_place_and_leaves_the_others_standing(load, tmp_path, capsys):
    checks = load("on_a_gpu.checks")

    def break_down(subject):
        return {"blocks": subject.blocks}["layers"]

    def refuse(_):
        raise checks.NotPossibleError("there is no fourth dimension")

    def pass_over(subject):
        return checks.Evidence(
            line=f"{len(subject.blocks)} blocks | of\nthem", figures={"worst": float("inf")}
        )

    chosen = [
        checks.Check(name=name, about="", run=run)
        for name, run in {"broken": break_down, "impossible": refuse, "whole": pass_over}.items()
    ]
    status, record = run_here(load, tmp_path, checks=chosen)
    broken, impossible, whole = record["outcomes"]
    assert status == 1
    assert (broken["status"], broken["line"]) == ("failed", "KeyError: 'layers'")
    assert re.fullmatch(r"tests/scripts/test_on_a_gpu\.py:\d+ in break_down", broken["where"])
    assert (impossible["status"], impossible["line"]) == ("not possible here", "there is no fourth dimension")
    assert (whole["status"], whole["line"]) == ("passed", "4 blocks | of\nthem")
    assert whole["figures"] == {"worst": "inf"}
    assert "* **passed**, llava-tiny, whole: 4 blocks | of them; " in capsys.readouterr().out


def test_a_model_that_does_not_fit_is_no_failure_and_one_that_cannot_be_made_is(load, tmp_path, monkeypatch):
    program = load("on_a_gpu.program")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(program, "build_subject", fail)
    error = torch.OutOfMemoryError("no")
    status, record = run_here(load, tmp_path, "--check", "doctor", "speed")
    assert status == 0
    assert [(one["check"], one["status"], one["line"]) for one in record["outcomes"]] == [
        (name, "not possible here", "the model does not fit into the memory of the device")
        for name in ("doctor", "speed")
    ]
    error = ValueError("no such shape")
    status, record = run_here(load, tmp_path, "--check", "doctor")
    assert status == 1
    assert record["outcomes"][0]["line"] == "ValueError: no such shape"


def test_no_check_begins_when_the_time_is_up(load, tmp_path):
    status, record = run_here(load, tmp_path, "--minutes", "0")
    assert status == 0
    assert {one["status"] for one in record["outcomes"]} == {"not possible here"}
    assert {one["line"].partition(";")[0] for one in record["outcomes"]} == {"the time is up"}


def test_a_missing_gpu_is_said_without_a_traceback(load, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load("on_a_gpu.program").main(["--device", "cuda"]) == 2
    assert "torch finds no GPU here" in capsys.readouterr().err


def test_the_naive_hook_reads_what_transformers_calls_hidden_states_and_subtracts_after_the_block(
    load, subject
):
    naive, vlm = load("on_a_gpu.naive"), subject.vlm
    prompt = subject.pictured[0]
    inputs = vlm.processor(
        text=[f"USER: <image>\n{prompt.text} ASSISTANT:"], images=[prompt.image], return_tensors="pt"
    )
    with torch.no_grad():
        hidden = vlm.model(**inputs, output_hidden_states=True).hidden_states
    wanted = torch.stack([state[0, -1] for state in hidden[1:-1]])
    assert torch.allclose(naive.read_states(vlm, [prompt])[0, :-1], wanted, atol=1e-5)
    vector = torch.linspace(-1, 1, vlm.hidden_size)
    steered = naive.read_states(vlm, [prompt], subtract={1: vector})[0]
    assert torch.allclose(steered[1], wanted[1] - vector, atol=1e-5)
    assert not torch.allclose(steered[2], wanted[2], atol=0.1)


def test_exactness_fails_where_cmrm_subtracts_another_shift_than_the_hook(load, subject, monkeypatch):
    exactness = load("on_a_gpu.exactness")
    right = exactness.Steered.intervention.fget
    assert exactness.check_exactness(subject).wrong == []

    def double(steered):
        return right(type(steered)(delta=2 * steered.delta, blocks=steered.blocks))

    monkeypatch.setattr(exactness.Steered, "intervention", property(double))
    apart, *words = exactness.check_exactness(subject).wrong
    assert apart.startswith("cmrm, steered at blocks 2, 3: ")
    assert {one.partition(":")[0] for one in words} == {
        "cmrm, steered, both arms in one pass",
        "cmrm, steered, by transformers' generate",
    }


def test_a_word_that_is_not_the_best_one_is_measured_from_it_under_the_hook(load, subject):
    naive, vlm = load("on_a_gpu.naive"), subject.vlm
    prompt, vector = subject.pictured[0], torch.linspace(-1, 1, vlm.hidden_size)
    inputs = naive.make_inputs(vlm, [prompt])
    with torch.no_grad():
        tokens = vlm.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        logits = vlm.model(input_ids=tokens, pixel_values=inputs["pixel_values"]).logits[0, -3:-1]
    answer = tokens[0, -3:].tolist()
    assert naive.measure_gap(vlm, prompt, answer) == 0
    second = logits[1].topk(2).indices[1].item()
    wanted = (logits[1].max() - logits[1][second]) / logits[1].std()
    assert naive.measure_gap(vlm, prompt, [*answer[:2], second]) == pytest.approx(wanted.item(), rel=1e-3)
    assert naive.measure_gap(vlm, prompt, answer, subtract={1: 3 * vector}) > 0.1


def test_weights_are_counted_from_a_header_alone_and_a_tied_one_once(load, subject, tmp_path):
    memory, model = load("on_a_gpu.memory"), subject.vlm.model
    found = memory.check_weights(subject)
    assert found.figures["counted_bytes"] == sum(4 * one.numel() for one in model.parameters())
    assert found.wrong == []
    memory.write_outline(model, tmp_path)
    file = tmp_path / "model.safetensors"
    assert file.stat().st_size > found.figures["counted_bytes"]
    assert file.stat().st_blocks * 512 < 1 << 18


def test_the_batch_that_is_picked_fits_its_cache_into_its_share_of_what_is_free(load, subject):
    found = load("on_a_gpu.memory").check_batch_size(subject).figures
    # Keys and values of 4 blocks of 64 numbers in float32; 93 tokens of a prompt and 2 answers of 4 are a row.
    assert found["cache_bytes_a_token"] == 2 * 4 * 64 * 4
    assert found["cache_bytes"] == 8 * (found["prompt_tokens"] + 2 * 4) * 2048
    assert found["rows_picked"] * (found["prompt_tokens"] + 8) * 2048 <= 0.6 * found["free_bytes"]


def test_batches_are_halved_until_they_fit_and_answers_that_change_are_a_failure(load, subject, monkeypatch):
    halving = load("on_a_gpu.halving")
    found = halving.check_halving(subject)
    assert (found.wrong, found.figures["sizes_tried"], found.figures["batches"]) == ([], [8, 4], [4, 4])

    strengths = iter([0.0] * 5 + [1000.0] * 2)
    right = halving.steer_slightly(subject)
    monkeypatch.setattr(
        halving,
        "steer_slightly",
        lambda _: type(right)(delta=right.delta, alpha=next(strengths), blocks=right.blocks),
    )
    assert "answers are those of the same batches uncapped" in halving.check_halving(subject).wrong[0]


def test_the_cap_on_a_gpu_lies_between_half_of_the_batch_and_all_of_it_and_is_lifted_after(load, monkeypatch):
    halving, device = load("on_a_gpu.halving"), torch.device("cuda", 0)
    # 100 GB, of which weights take 14 and torch holds 15; the whole batch took 10 more.
    gb = 10**9
    card = SimpleNamespace(total_memory=100 * gb)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 14 * gb)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 15 * gb)
    set_to = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: set_to.append(given))
    cap, how = halving.choose_cap(SimpleNamespace(device=device), rows=16, peak=24 * gb)
    with cap():
        assert set_to == [(pytest.approx(0.22), device)]
    assert set_to[1:] == [(1.0, device)]
    assert how == "a cap of 20.49 GiB on torch's allocator"


def test_a_cap_that_lets_all_through_is_a_failure(load, subject, monkeypatch):
    halving = load("on_a_gpu.halving")
    monkeypatch.setattr(
        halving,
        "choose_cap",
        lambda *_, **__: (lambda: halving.raising_above(subject.vlm.decoder, 8), "a high cap"),
    )
    assert halving.check_halving(subject).wrong == ["a high cap let all 8 prompts through at once"]


def test_a_weight_is_scaled_for_large_states_and_comes_back_to_the_bit(load, subject):
    large = load("on_a_gpu.large_states")
    vlm = subject.vlm
    vlm.model.to(torch.bfloat16)
    weight = large.find_output(vlm.blocks[1])
    before = weight.detach().clone()
    found = large.check_large_states(subject)
    assert torch.equal(weight, before)
    assert found.wrong == []
    assert found.figures["largest_state"] > 65504
    assert found.figures["numbers_beyond_float16"] > 0


def test_attention_of_another_result_is_a_failure(load, subject, monkeypatch):
    kernels = load("on_a_gpu.kernels")
    found = kernels.check_kernels(subject)
    assert found.wrong == []
    used = {name: one["apart"] for name, one in found.figures["attentions"].items()}
    assert used["cmrm, flash_attention_2"] is None or torch.cuda.is_available()
    assert used["cmrm, eager"] == 0 <= used["cmrm, SDPA"] < 1e-3
    real = kernels.list_attentions

    def change(subject, prompts):
        listed = real(subject, prompts)
        read = listed["cmrm, SDPA"].read
        other = type(listed["cmrm, SDPA"])(within=listed["cmrm, SDPA"].within, read=lambda: 1.1 * read())
        return {**listed, "cmrm, SDPA": other}

    monkeypatch.setattr(kernels, "list_attentions", change)
    assert kernels.check_kernels(subject).wrong == ["cmrm, SDPA: states 1.0e-01 apart"]


def test_a_model_spread_over_two_devices_answers_as_on_one_and_is_put_together_again(load, subject):
    device_maps = load("on_a_gpu.device_maps")
    with TwoDevices():
        found = device_maps.compare_spread(subject, DEVICES)
    assert found.wrong == []
    assert found.figures["same"] == found.figures["answers"] == 8
    assert not any(hasattr(part, "_hf_hook") for part in subject.vlm.model.modules())


def test_a_figure_of_the_speed_table_that_fails_is_named_and_the_others_are_measured(
    load, subject, monkeypatch
):
    figures, speed = load("on_a_gpu.speed_figures"), load("speed")

    def measure(_):
        raise RuntimeError("no kernel image")

    def quick(_):
        row = load("speed_table").Row(name="one", seconds=1.0)
        return load("speed_table").Figure(title="quick", about="", rows=[row])

    limits = load("speed_limits").Limits(operations=1e12, bandwidth=1e11)
    monkeypatch.setattr(figures, "measure_limits", lambda *_, **__: limits)
    monkeypatch.setattr(speed, "FIGURES", {"delta": measure, "pictures": quick})
    found = figures.measure_speed(subject)
    assert found.wrong[0].startswith("delta: RuntimeError: no kernel image (tests/scripts/test_on_a_gpu.py:")
    assert [one["title"] for one in found.figures["figures"]] == ["delta", "quick"]
    assert found.line.startswith("1 of 2 figures")
