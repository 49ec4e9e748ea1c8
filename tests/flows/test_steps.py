"""A defence of several generations: each step asks what the one before answered, is stored, and is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
import yaml
from PIL import Image

from cmrm.defences.ecso import Ecso
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import render
from cmrm.prompts.conditions import Prompt
from flows.plan.model import ModelPlan
from flows.plan.plan import make_plan
from flows.plan.states import Samples
from flows.plan.steps import Generated
from flows.spec.spec import read_spec
from storage.records.manifest import Manifest
from storage.shards.rows import read_rows
from storage.store import Store
from tasks.core.stage import Job
from tasks.data.ingest import ingest
from tasks.generate.captions import CaptionJob, caption_images
from tasks.generate.job import GenerateJob
from tasks.generate.stage import generate_answers
from tasks.job_codec import pack_jobs, unpack_jobs
from tasks.overhead import OverheadJob, measure_overhead
from tasks.report.outcomes import Arm
from tasks.report.tokens import count_tokens
from tests.commits import count_commits

NEW = 6
TEMPLATES = {
    "judge": "q {question} a {answer} ?",
    "caption": "show {question}",
    "final": "c {caption} q {question}",
}


@pytest.fixture(autouse=True)
def some_are_harmful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random model says neither yes nor no: a checksum of its judgement does."""

    def is_needed(_self: Ecso, step: str, earlier: dict[str, str]) -> bool:
        return step == "judgement" or crc32(earlier["judgement"].encode()) % 2 == 0

    monkeypatch.setattr(Ecso, "is_needed", is_needed)


@pytest.fixture
def spec_path(tmp_path: Path, llava_folder: Path, write_spec: Callable[..., Path]) -> Path:
    return write_spec(
        tmp_path / "data",
        llava_folder,
        datasets={"own": {"format": "jsonl", "path": "own.jsonl", "images": "images"}},
        anchors={"from": {}},
        conditions=["image"],
        target_states=[],
        interventions=[{"name": "ECSO", "kind": "ecso", **TEMPLATES}],
        generation={"max_new_tokens": NEW},
        batch_size=4,
        shard_size=64,
        overhead={"samples": 64, "repeats": 2, "batch_size": 4},
    )


def do(task: Callable[[Any], dict[str, Any]], job: Job) -> list[Manifest]:
    return [Manifest.from_json(made.encode()) for made in task(job)["manifests"]]


def plan_on(spec_path: Path, store: Store) -> tuple[ModelPlan, Samples]:
    plan = make_plan(read_spec(spec_path), store=store)
    samples = {job.dataset: do(ingest.do, job)[0] for job in plan.ingest_jobs({})}
    (model,) = plan.by_model()
    return model, samples


def run_steps(
    model: ModelPlan, samples: Samples, done: dict[Generated, str] | None = None
) -> dict[str, Manifest]:
    """Run the baseline and all steps as the pipeline does: the manifests by step, and their keys into `done`."""
    done = {} if done is None else done
    made: dict[str, Manifest] = {}

    def run(jobs: Sequence[GenerateJob]) -> None:
        for job in jobs:
            (manifest,) = do(generate_answers.do, job)
            done[Generated.of(job)] = manifest.key
            step = Generated.of(job)
            made[f"{step.name}/{step.step}"] = manifest

    run(model.generate_jobs(samples, model.steer({}, {})))
    stepped = model.list_stepped({})
    for number in range(model.count_steps(stepped)):
        run(model.step_jobs(number, samples, stepped, done))
    return made


def read_texts(store: Store, manifest: Manifest) -> dict[str, str]:
    rows = read_rows(store, manifest, "responses").to_pylist()
    return {row["sample_id"]: row["answer"] for row in rows}


def test_ecso_gives_what_its_algorithm_gives_step_by_step(
    spec_path: Path, tmp_path: Path, llava_folder: Path
) -> None:
    store = Store.create(tmp_path / "store")
    model, samples = plan_on(spec_path, store)
    made = run_steps(model, samples)
    assert set(made) == {"/plain", "ECSO/judgement", "ECSO/caption", "ECSO/answer"}
    found = {step: read_texts(store, manifest) for step, manifest in made.items()}

    vlm = load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")

    def ask(text: str, image: Image.Image | None) -> str:
        inputs = render(vlm, [Prompt(text=text, image=image)])
        with torch.inference_mode():
            output = vlm.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        return str(vlm.processor.tokenizer.decode(new, skip_special_tokens=True)).strip()

    rows = read_rows(store, samples["own"], "samples").to_pylist()
    asked = {row["sample_id"]: row for row in rows if row["split"] == "target" and row["image"]}
    assert set(found["ECSO/answer"]) == set(asked)
    flagged = 0
    for sample, row in asked.items():
        image = Image.open(spec_path.parent / "images" / row["image"]).convert("RGB")
        plain = ask(row["question"], image)
        judgement = ask(f"q {row['question']} a {plain[:1927]} ?", image)
        if crc32(judgement.encode()) % 2 == 0:
            flagged += 1
            caption = ask(f"show {row['question']}", image)
            answer = ask(f"c {caption} q {row['question']}", None)
        else:
            caption, answer = "", plain
        assert [
            found[step][sample] for step in ("/plain", "ECSO/judgement", "ECSO/caption", "ECSO/answer")
        ] == [
            plain,
            judgement,
            caption,
            answer,
        ]
    assert 0 < flagged < len(asked), "both ways were taken"


def test_a_run_stopped_between_its_steps_does_only_the_rest(
    spec_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Store.create(tmp_path / "whole")
    expected = run_steps(*plan_on(spec_path, whole))
    store = Store.create(tmp_path / "store")
    model, samples = plan_on(spec_path, store)
    made = run_steps(model, samples)
    for step in ("caption", "answer"):
        (tmp_path / "store" / "manifests" / "generate" / f"{made[f'ECSO/{step}'].key}.json").unlink()
    commits = count_commits(monkeypatch)
    again = run_steps(model, samples)
    assert commits["generate"] == 2
    assert {step: one.key for step, one in again.items()} == {step: one.key for step, one in expected.items()}
    assert read_texts(store, again["ECSO/answer"]) == read_texts(whole, expected["ECSO/answer"])


def test_where_no_sample_has_an_earlier_answer_all_are_quarantined(
    spec_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_self: Ecso, _step: str, prompt: Prompt, _earlier: dict[str, str]) -> Prompt:
        return Prompt(text=f"{prompt.text} </s>", image=prompt.image)

    monkeypatch.setattr(Ecso, "ask", ask)
    store = Store.create(tmp_path / "store")
    made = run_steps(*plan_on(spec_path, store))
    plain = read_texts(store, made["/plain"])
    for step in ("judgement", "caption", "answer"):
        rows = read_rows(store, made[f"ECSO/{step}"], "quarantine").to_pylist()
        assert {row["sample_id"] for row in rows} == set(plain)
        assert read_texts(store, made[f"ECSO/{step}"]) == {}


def test_a_sample_without_an_earlier_answer_is_quarantined_with_the_step_that_it_lacks(
    spec_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Templates are filled with what the model said, which may be one of its own control tokens.
    original = Ecso.ask

    def ask(self: Ecso, step: str, prompt: Prompt, earlier: dict[str, str]) -> Prompt:
        asked = original(self, step, prompt, earlier)
        if step != "judgement" or crc32(prompt.text.encode()) % 3:
            return asked
        return Prompt(text=f"{asked.text} </s>", image=asked.image)

    monkeypatch.setattr(Ecso, "ask", ask)
    store = Store.create(tmp_path / "store")
    made = run_steps(*plan_on(spec_path, store))
    judged, answered = (
        read_rows(store, made[f"ECSO/{step}"], "quarantine").to_pylist() for step in ("judgement", "answer")
    )
    assert judged
    assert {row["sample_id"] for row in judged} == {row["sample_id"] for row in answered}
    assert "control token" in judged[0]["reason"]
    assert (
        answered[0]["reason"]
        == "ecso needs its judgement answer, and there is none: see the reason of that step"
    )
    plain = read_texts(store, made["/plain"])
    assert set(read_texts(store, made["ECSO/answer"])) == set(plain) - {row["sample_id"] for row in judged}


def test_each_answer_reads_and_generates_what_its_steps_do(
    spec_path: Path, tmp_path: Path, llava_folder: Path
) -> None:
    store = Store.create(tmp_path / "store")
    model, samples = plan_on(spec_path, store)
    done: dict[Generated, str] = {}
    made = run_steps(model, samples, done)
    rows = {step: read_rows(store, one, "responses").to_pylist() for step, one in made.items()}
    flagged = {row["sample_id"] for row in rows["ECSO/judgement"] if crc32(row["answer"].encode()) % 2 == 0}
    # Everybody is asked and judged; those that are flagged are captioned and asked again.
    spent = [
        (row["prompt_tokens"], row["tokens"])
        for step, some in rows.items()
        for row in some
        if step in {"/plain", "ECSO/judgement"} or row["sample_id"] in flagged
    ]

    tokenizer = load_model(
        resolve_model(str(llava_folder)), dtype="float32", device="cpu"
    ).processor.tokenizer
    judged = next(row for row in rows["ECSO/judgement"])
    plain = next(row for row in rows["/plain"] if row["sample_id"] == judged["sample_id"])
    questions = read_rows(store, samples["own"], "samples").to_pylist()
    question = next(row["question"] for row in questions if row["sample_id"] == judged["sample_id"])
    wrapped = f"q {question} a {plain['answer'][:1927]} ?"
    # One template around both, so what they differ by is what is written in it.
    longer, shorter = (len(tokenizer(text).input_ids) for text in (wrapped, question))
    assert judged["prompt_tokens"] - plain["prompt_tokens"] == longer - shorter

    count = count_tokens(store, [made["/plain"], made["ECSO/answer"]])[Arm(plain["model"], "image", "ECSO")]
    assert count.prompt == pytest.approx(sum(prompt for prompt, _ in spent) / len(rows["/plain"]))
    assert count.generated == pytest.approx(sum(tokens for _, tokens in spent) / len(rows["/plain"]))

    (job,) = model.overhead_jobs(samples, [], model.list_stepped({}), done)
    _, (arrived,) = unpack_jobs("overhead", json.loads(json.dumps(pack_jobs([job]))))
    assert arrived == job
    assert arrived.key == job.key
    timed = read_rows(store, do(measure_overhead.do, job)[0], "timings").to_pylist()
    assert {row["intervention"] for row in timed} == {"", "ECSO"}
    for repeat in (0, 1):
        mine = [row for row in timed if (row["intervention"], row["repeat"]) == ("ECSO", repeat)]
        assert sum(row["samples"] for row in mine) == len(rows["/plain"])
        assert sum(row["tokens"] for row in mine) == sum(tokens for _, tokens in spent)
        assert all(row["seconds"] > 0 for row in mine)


def test_ecso_takes_the_runs_captions_where_they_ask_the_same_and_lacks_only_those_it_needs(
    spec_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Store.create(tmp_path / "alone")
    expected = run_steps(*plan_on(spec_path, alone))
    spec = yaml.safe_load(spec_path.read_text())
    asked = {"style": "query", "prompt": TEMPLATES["caption"]}
    with_captions = spec_path.with_name("captions.yaml")
    with_captions.write_text(yaml.safe_dump({**spec, "captions": asked}))

    timing: list[OverheadJob] = []

    def run(folder: str) -> tuple[Store, dict[str, Manifest], list[Manifest]]:
        store = Store.create(tmp_path / folder)
        model, samples = plan_on(with_captions, store)
        captioned = [(job, do(caption_images.do, job)[0]) for job in model.caption_jobs(samples)]
        model, done = model.with_captions(captioned), dict[Generated, str]()
        made = run_steps(model, samples, done)
        timing[:] = model.overhead_jobs(samples, [], model.list_stepped({}), done)
        return store, made, [manifest for _, manifest in captioned]

    store, made, _ = run("store")
    assert set(made) == {"/plain", "ECSO/judgement", "ECSO/answer"}
    answers = read_texts(alone, expected["ECSO/answer"])
    assert read_texts(store, made["ECSO/answer"]) == answers
    # A caption counts where an answer is made from it, and so both cost the same.
    costs = [count_tokens(where, [some["ECSO/answer"]]) for where, some in ((alone, expected), (store, made))]
    assert costs[0] == costs[1]
    # And so it is in the seconds, which are those of all passes.
    timed = read_rows(store, do(measure_overhead.do, timing[0])[0], "timings").to_pylist()
    generated = sum(row["tokens"] for row in timed if (row["intervention"], row["repeat"]) == ("ECSO", 0))
    (cost,) = costs[1].values()
    assert cost.generated == pytest.approx(generated / len(answers))

    monkeypatch.setattr(CaptionJob, "find_lack", lambda _self, _answer: "unusable")
    store, made, (captions,) = run("lacking")
    assert len(read_rows(store, captions, "quarantine")) == len(answers)
    judged = read_texts(store, made["ECSO/judgement"])
    stand = {sample for sample, judgement in judged.items() if crc32(judgement.encode()) % 2}
    assert read_texts(store, made["ECSO/answer"]) == {sample: answers[sample] for sample in stand}
    lacking = read_rows(store, made["ECSO/answer"], "quarantine").to_pylist()
    assert {row["sample_id"] for row in lacking} == set(answers) - stand != set()
    assert lacking[0]["reason"].startswith("ecso needs its caption answer, and there is none")
