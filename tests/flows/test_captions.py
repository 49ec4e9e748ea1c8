"""Captions as a stage of a run: what they say, when they are made again, who is shown them, and what goes wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import render
from cmrm.prompts.conditions import Prompt
from flows.plan.finished import find_answers, read_finished
from flows.plan.plan import make_plan
from flows.spec.judge_fields import read_judge_field
from flows.spec.spec import read_spec
from flows.stages import Stages
from storage.sql.database import connect
from storage.store import Store
from tasks.core import models
from tasks.generate.captions import CaptionJob
from tasks.report import all_figures
from tasks.shards.samples import Captions, Shard, Slice
from tests.flows.shared_runs import run_plainly

NEW = 6
ASKED = "what is it"
FEW: dict[str, Any] = {
    "conditions": ["caption", "image"],
    "target_states": [],
    "interventions": [],
    "anchors": {"from": {}},
    "judges": ["refusal"],
    "generation": {"max_new_tokens": NEW},
    "batch_size": 4,
    "captions": {"prompt": ASKED},
}


@pytest.fixture(scope="module")
def finished(
    llava_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_spec: Callable[..., Path]
) -> Path:
    """A finished run: `own` has images without captions, in two shards, and `vlsafe` has captions of its own."""
    folder = tmp_path_factory.mktemp("captions")
    run_plainly(write_spec(folder / "data", llava_folder, **FEW), folder / "store")
    return folder


def change(folder: Path, name: str, **fields: Any) -> Path:
    """Write the finished run's spec with other fields, beside it."""
    spec = yaml.safe_load((folder / "data" / "spec.yaml").read_text())
    path = folder / "data" / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**spec, **fields}))
    return path


def ask_sql(store: Path, query: str) -> list[tuple[Any, ...]]:
    with connect(store, run="latest") as sql:
        return sql.sql(query).fetchall()


def list_keys(store: Path, stage: str = "caption") -> set[str]:
    return {path.stem for path in (store / "manifests" / stage).glob("*.json")}


class Naive:
    """A model that is asked by plain `generate`, one prompt at a time."""

    def __init__(self, folder: Path) -> None:
        self._vlm = load_model(resolve_model(str(folder)), dtype="float32", device="cpu")

    def ask(self, text: str, image: Image.Image | None) -> str:
        inputs = render(self._vlm, [Prompt(text=text, image=image)])
        with torch.inference_mode():
            output = self._vlm.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        return str(self._vlm.processor.tokenizer.decode(new, skip_special_tokens=True)).strip()


def open_image(folder: Path, number: int) -> Image.Image:
    return Image.open(folder / "data" / "images" / f"{number % 4}.png").convert("RGB")


def test_captions_are_what_plain_generate_gives_and_are_shown_above_the_question(
    finished: Path, llava_folder: Path
) -> None:
    naive = Naive(llava_folder)
    found = ask_sql(finished / "store", "SELECT dataset, sample_id, style, prompt, caption FROM captions")
    assert len(found) == 10
    assert {(dataset, style, prompt) for dataset, _, style, prompt, _ in found} == {("own", "plain", ASKED)}
    captions = {int(sample): caption for _, sample, _, _, caption in found}
    answers = dict(
        ask_sql(
            finished / "store",
            "SELECT sample_id, answer FROM responses WHERE dataset = 'own' AND condition = 'caption'",
        )
    )
    assert {int(sample) for sample in answers} == set(captions)
    for number in (0, 3, 7):
        caption = naive.ask(ASKED, open_image(finished, number))
        assert captions[number] == caption
        answer = naive.ask(f"{caption}\nwhat colour is square number {number}?", None)
        assert answers[str(number)] == answer


def test_a_caption_of_its_own_stays(finished: Path, llava_folder: Path) -> None:
    ((sample, question, caption, answer),) = ask_sql(
        finished / "store",
        "SELECT sample_id, question, caption, answer FROM samples JOIN responses USING (dataset, sample_id) "
        "WHERE dataset = 'vlsafe' AND condition = 'caption' ORDER BY question LIMIT 1",
    )
    assert caption.startswith("square"), sample
    assert answer == Naive(llava_folder).ask(f"{caption}\n{question}", None)


def test_a_second_run_reuses_all_and_a_removed_shard_is_captioned_again_alone(
    finished: Path, commits: Counter[str]
) -> None:
    spec, store = finished / "data" / "spec.yaml", finished / "store"
    before, told = list_keys(store), ask_sql(store, "FROM captions ORDER BY sample_id")
    run_plainly(spec, store)
    assert commits == {}
    assert len(before) == 2
    (store / "manifests" / "caption" / f"{min(before)}.json").unlink()
    run_plainly(spec, store)
    assert commits == {"caption": 1}
    assert list_keys(store) == before
    assert ask_sql(store, "FROM captions ORDER BY sample_id") == told


def test_a_shard_that_was_interrupted_goes_on_from_its_finished_rows(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, original = change(finished, "interrupted", shard_size=64), CaptionJob.to_row
    written: list[str] = []

    def write(self: CaptionJob, stored: Any, answer: Any) -> dict[str, Any]:
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(stored.sample.id)
        return original(self, stored, answer)

    with monkeypatch.context() as patch:
        patch.setattr(CaptionJob, "to_row", write)
        with pytest.raises(KeyboardInterrupt):
            run_plainly(spec, tmp_path / "store")
    assert list_keys(tmp_path / "store") == set()
    more: list[str] = []

    def count(self: CaptionJob, stored: Any, answer: Any) -> dict[str, Any]:
        more.append(stored.sample.id)
        return original(self, stored, answer)

    monkeypatch.setattr(CaptionJob, "to_row", count)
    run_plainly(spec, tmp_path / "store")
    assert len(written) == 4
    assert sorted(written + more) == sorted(str(number) for number in range(10))
    query = "SELECT sample_id, caption FROM captions ORDER BY sample_id"
    assert ask_sql(tmp_path / "store", query) == ask_sql(finished / "store", query)


class StopError(Exception):
    """Ends a run once its captions are planned."""


def plan_keys(spec: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The keys of a spec's caption jobs; nothing is captioned."""
    keys: set[str] = set()
    run = Stages.run

    def stop(self: Stages, stage: Any, jobs: Sequence[Any], **more: Any) -> Any:
        if stage.name != "caption":
            return run(self, stage, jobs, **more)
        keys.update(job.key for job in jobs)
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(Stages, "run", stop)
        with pytest.raises(StopError):
            run_plainly(spec, store)
    return keys


def test_keys_change_with_what_decides_a_caption_and_with_nothing_else(
    finished: Path, make_llava: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = finished / "store"
    model = yaml.safe_load((finished / "data" / "spec.yaml").read_text())["model"]
    other = make_llava(tmp_path / "other", image_size=48, patch_size=8)

    def keys(**fields: Any) -> set[str]:
        return plan_keys(change(finished, "other", **fields), store, monkeypatch)

    known = list_keys(store)
    same: list[dict[str, Any]] = [
        {},
        {"batch_size": 2, "title": "again", "conditions": ["query", "caption"], "judges": ["match"]},
        {"captions": {"prompt": ASKED, "max_new_tokens": NEW, "samples": "uncaptioned"}},
        {"captions": {"prompt": ASKED, "by": model}},
    ]
    for fields in same:
        assert keys(**fields) == known, fields
    changed: list[dict[str, Any]] = [
        {"captions": {"prompt": "what is that"}},
        {"captions": {"style": "query", "prompt": "what is it {question}"}},
        {"captions": {"prompt": ASKED, "max_new_tokens": NEW + 1}},
        {"captions": {"prompt": ASKED, "by": str(other)}},
        {"captions": {"prompt": ASKED, "by": {**model, "dtype": "bfloat16"}}},
        {"captions": {"prompt": ASKED}, "reproducible": True},
    ]
    found = [keys(**fields) for fields in changed]
    assert all(one.isdisjoint(known) for one in found)
    assert len(set().union(*found)) == 2 * len(changed)


def test_another_model_captions_for_all_judged_models_and_is_loaded_once(
    finished: Path, make_llava: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_llava(tmp_path / "other", image_size=48, patch_size=8)
    model = yaml.safe_load((finished / "data" / "spec.yaml").read_text())["model"]
    spec = change(
        finished,
        "two",
        model=None,
        models=[{**model, "name": "first"}, {**model, "name": "second", "dtype": "bfloat16"}],
        captions={"by": {"id": str(other), "dtype": "float32"}, "style": "query", "samples": "all"},
    )
    loaded: list[str] = []
    load_once, store = models.load_once, tmp_path / "store"

    def load(use: Any, load: Callable[[], Any]) -> Any:
        if use not in models._loaded:
            loaded.append(use.name)
        assert len(models._loaded) <= 1
        return load_once(use, load)

    monkeypatch.setattr(models, "load_once", load)
    models.forget_models()
    run_plainly(spec, store)
    assert [name.partition("@")[0] for name in loaded] == ["other", "first", "second"]
    rows = ask_sql(
        store, "SELECT dataset, sample_id, model, style, caption, prompt FROM captions ORDER BY ALL"
    )
    assert Counter(row[0] for row in rows) == {"own": 10, "vlsafe": 14}
    assert {(model.partition("@")[0], style) for _, _, model, style, *_ in rows} == {("other", "query")}
    question = "what colour is square number 0?"
    prompt = rows[0][5].replace("{question}", question)
    assert rows[0][1] == "0"
    assert rows[0][4] == Naive(other).ask(prompt, open_image(finished, 0))
    answered = ask_sql(
        store, "SELECT model, count(*) FROM responses WHERE condition = 'caption' GROUP BY ALL"
    )
    assert sorted(count for _, count in answered) == [24, 24]


@pytest.fixture
def without_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do without the figure of defences, which nothing here shows."""
    monkeypatch.setattr(all_figures, "draw_defences", lambda _: [])


@pytest.mark.usefixtures("without_figure")
def test_defences_that_ask_the_same_are_given_the_same_captions(finished: Path, tmp_path: Path) -> None:
    shiftdc = {"kind": "shiftdc", "caption": ASKED}
    few = {"shard_size": 64, "conditions": ["image"]}
    anchors = {"from": {"own": 0.3, "vlsafe": 0.3}}
    alone = change(
        finished, "alone", **few, captions=None, anchors=anchors, interventions=[{"name": "S", **shiftdc}]
    )
    both = [{"name": "S", **shiftdc}, {"name": "half", **shiftdc, "alpha": 0.5}]
    shared = change(finished, "shared", **few, anchors=anchors, interventions=both)
    # Those of ECSO are shared as soon as they ask the same as the section.
    query = {"style": "query", "prompt": "what is it {question}"}
    ecso = {"name": "E", "kind": "ecso", "caption": query["prompt"]}
    judged = change(finished, "judged", **few, captions=query, interventions=[ecso])

    def run(spec: Path) -> tuple[set[str], list[Any]]:
        store = tmp_path / spec.stem
        run_plainly(spec, store)
        steps = {name for (name,) in ask_sql(store, "SELECT DISTINCT intervention FROM responses")}
        return steps, ask_sql(store, "SELECT dataset, sample_id, caption FROM captions ORDER BY ALL")

    answers = "SELECT dataset, sample_id, answer FROM responses WHERE intervention = '{}' ORDER BY ALL"
    assert run(alone) == ({"", "S", "S: caption"}, [])
    assert run(shared) == ({"", "S", "half"}, ask_sql(tmp_path / "alone", answers.format("S: caption")))
    assert ask_sql(tmp_path / "shared", answers.format("S")) == ask_sql(
        tmp_path / "alone", answers.format("S")
    )
    steps, captions = run(judged)
    assert steps == {"", "E", "E: judgement"}
    assert {sample for dataset, sample, _ in captions if dataset == "own"} == {str(one) for one in range(10)}


@pytest.mark.usefixtures("without_figure")
def test_captions_with_control_tokens_and_empty_ones_quarantine_their_samples(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_row, find_lack = CaptionJob.to_row, CaptionJob.find_lack
    seen: list[str] = []
    spoilt: list[str] = []

    def spoil(self: CaptionJob, stored: Any, answer: Any) -> dict[str, Any]:
        spoilt.append(stored.sample.id)
        row = to_row(self, stored, answer)
        return {**row, "caption": "a </s> b"} if len(spoilt) == 1 else row

    def lack(self: CaptionJob, answer: Any) -> str | None:
        seen.append(answer.text)
        return find_lack(self, replace(answer, text=" \n") if len(seen) == 1 else answer)

    monkeypatch.setattr(CaptionJob, "to_row", spoil)
    monkeypatch.setattr(CaptionJob, "find_lack", lack)
    data = finished / "data" / "mixed.jsonl"
    rows = [json.loads(line) for line in (finished / "data" / "own.jsonl").read_text().splitlines()]
    data.write_text("".join(json.dumps({**row, "harmful": row["id"] % 2 == 0}) + "\n" for row in rows))
    spec = change(
        finished, "spoilt", shard_size=64, anchors={"from": {"own": 0.4}},
        datasets={"own": {"format": "jsonl", "path": data.name, "images": "images"}},
        interventions=[{"name": "ShiftDC", "kind": "shiftdc", "caption": ASKED}],
    )  # fmt: skip
    store = tmp_path / "store"
    run_plainly(spec, store)
    quarantined = ask_sql(store, "SELECT sample_id, stage, reason FROM quarantine")
    ((empty, reason),) = [(sample, reason) for sample, stage, reason in quarantined if stage == "caption"]
    assert reason == "the model wrote an empty caption"
    asked = {row[0] for row in ask_sql(store, "SELECT sample_id FROM samples WHERE split = 'target'")}
    answered = "SELECT sample_id FROM responses WHERE condition = '{}' AND intervention = '{}'"
    for arm in (("caption", ""), ("image", "ShiftDC")):
        assert {row[0] for row in ask_sql(store, answered.format(*arm))} == asked - {empty, spoilt[0]}
    reasons = Counter((sample, stage) for sample, stage, _ in quarantined)
    assert reasons[spoilt[0], "generate"] == 2
    token = "'</s>', which this model reads as a control token"
    assert all(token in reason for sample, _, reason in quarantined if sample == spoilt[0])


def test_a_shift_is_measured_on_anchors_whose_captions_are_shown_to_measure_a_direction(
    finished: Path, tmp_path: Path
) -> None:
    spec = change(finished, "shift", anchors={"from": {"own": 0.4}}, interventions=[{"name": "CMRM"}])
    (plan,) = make_plan(read_spec(spec), store=Store.create(tmp_path)).by_model()
    shard = Shard(dataset="own", ingest="0" * 64, split="anchor", start=0, stop=3)
    captioned = replace(shard, captions=Captions(key="1" * 64, given_to="all"))
    plain = [Slice(shard=shard, condition=name, rows=3, digest=name) for name in ("query", "blank")]
    shown = Slice(shard=captioned, condition="caption", rows=3, digest="caption")
    (job,) = plan.shift_jobs({one: f"states of {one.condition}" for one in (*plain, shown)})
    assert job.pairs == (("states of blank", "states of query"),)


def test_the_report_counts_captions_and_the_run_can_be_judged_again(finished: Path) -> None:
    store = finished / "store"
    before = run_plainly(finished / "data" / "spec.yaml", store)
    (told,) = before.summary.captions
    assert (told.dataset, told.style, told.prompt, told.captions, told.quarantined) == (
        "own",
        "plain",
        ASKED,
        10,
        0,
    )
    ((tokens, cut),) = ask_sql(store, "SELECT avg(tokens), count_if(finish_reason = 'length') FROM captions")
    assert (told.tokens, told.cut) == (pytest.approx(tokens), cut)
    written = (store / "reports" / before.run_id / "report.md").read_text()
    assert f"| own | plain | {ASKED} | 10 | {cut} | 0 | {tokens:.1f} |" in written
    again = read_finished(Store.open(store), before.run_id, [read_judge_field("match")])
    answers = list(find_answers(again))
    shown = {one.slice.label: one.slice.shard.captions for one in answers if one.slice.condition == "caption"}
    given = {label: None if captions is None else captions.key for label, captions in shown.items()}
    assert {key for key in given.values() if key} == list_keys(store)
    assert {label.split()[0] for label, key in given.items() if key} == {"own"}
    assert {label.split()[0] for label, key in given.items() if key is None} == {"vlsafe"}
