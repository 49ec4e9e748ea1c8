"""Runs that keep states at more positions: their rows, the keys that stay, quarantine, memory, and mistakes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from cmrm.decoding import positions as reading
from cmrm.errors import UserError
from flows.plan.plan import make_plan
from flows.spec.spec import check_spec, read_spec
from storage.records.manifest import Manifest, manifest_file
from storage.sql.database import connect
from storage.store import Store
from tasks.data.ingest import ingest
from tasks.report.states import find_groups, make_panels
from tasks.states.extract import EmbedJob, extract_states
from tests.conformance.builders import BUILDERS
from tests.flows.shared_runs import run_plainly

ALL = ["first_answer", "mean_image", "last", "last_image"]
FEW: dict[str, Any] = {
    "conditions": ["query", "image"],
    "target_states": ["query", "image"],
    "judges": ["refusal"],
    "interventions": [{"name": "CMRM", "alpha": 1.0}],
    "steered_states": ["CMRM"],
    "shard_size": 64,
}
BLOCKS = 4


def list_keys(store: Path, stage: str) -> set[str]:
    return {path.stem for path in (store / "manifests" / stage).glob("*.json")}


@pytest.fixture(scope="module")
def runs(
    llava_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_spec: Callable[..., Path]
) -> tuple[Path, dict[str, set[str]]]:
    """A store after a run at the last prompt token and one at all positions, and the keys after the first."""
    folder = tmp_path_factory.mktemp("positions")
    store = folder / "store"
    run_plainly(write_spec(folder / "data", llava_folder, **FEW), store)
    before = {stage: list_keys(store, stage) for stage in ("embed", "shift", "generate", "judge")}
    run_plainly(write_spec(folder / "data", llava_folder, **FEW, positions=ALL), store)
    return store, before


def test_a_run_that_asks_for_more_positions_keeps_its_shifts_and_answers(
    runs: tuple[Path, dict[str, set[str]]],
) -> None:
    store, before = runs
    after = {stage: list_keys(store, stage) for stage in before}
    added = {stage: len(after[stage]) - len(keys) for stage, keys in before.items()}
    assert all(keys <= after[stage] for stage, keys in before.items())
    # Anchors and targets of two data sets, as text, with their image and blank (anchors) or steered (targets); text has
    # one further position, and an image three.
    assert added == {"embed": 4 + 3 * 8, "shift": 0, "generate": 0, "judge": 0}
    assert len(before["embed"]) == 12


def test_each_sample_has_a_row_for_each_block_and_each_position_that_its_prompt_has(
    runs: tuple[Path, dict[str, set[str]]],
) -> None:
    with connect(runs[0], run="latest") as sql:
        found = sql.sql(
            "SELECT condition, position, intervention, count(*), count(DISTINCT (dataset, sample_id, block)) "
            "FROM hidden_states GROUP BY ALL"
        ).fetchall()
        ((samples, anchors),) = sql.sql(
            "SELECT count(*), count(*) FILTER (split = 'anchor') FROM samples"
        ).fetchall()
    counts = {(condition, position, name): count for condition, position, name, count, _ in found}
    assert all(count == distinct for *_, count, distinct in found)
    shown = {("image", ""): samples, ("blank", ""): anchors, ("image", "CMRM"): samples - anchors}
    expected = {
        (condition, position, name): rows * BLOCKS
        for (condition, name), rows in shown.items()
        for position in ALL
    }
    # A text has no image token.
    expected |= {("query", position, ""): samples * BLOCKS for position in ("last", "first_answer")}
    assert counts == expected


def test_no_row_group_holds_two_blocks_or_two_positions(runs: tuple[Path, dict[str, set[str]]]) -> None:
    groups = Counter[tuple[int, str]]()
    for path in (runs[0] / "hidden_states").rglob("*.parquet"):
        metadata = pq.read_metadata(path)
        for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
            columns = {group.column(number).path_in_schema: number for number in range(group.num_columns)}
            block, place = (group.column(columns[name]).statistics for name in ("block", "position"))
            assert (block.min, place.min) == (block.max, place.max)
            groups[block.min, place.min] += 1
    assert set(groups) == {(block, position) for block in range(BLOCKS) for position in ALL}


def test_states_are_those_of_plain_transformers(
    runs: tuple[Path, dict[str, set[str]]], llava_folder: Path
) -> None:
    block = 1
    with connect(runs[0]) as sql:
        sample, question, image = sql.sql(
            "SELECT sample_id, question, image FROM samples WHERE dataset = 'own' ORDER BY sample_id LIMIT 1"
        ).fetchall()[0]
        found = dict(
            sql.execute(
                "SELECT position, vector FROM hidden_states WHERE dataset = 'own' AND sample_id = ? AND block = ? "
                "AND condition = 'image' AND intervention = ''",
                [sample, block],
            ).fetchall()
        )
    model = AutoModelForImageTextToText.from_pretrained(llava_folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(llava_folder)
    picture = Image.open(runs[0].parent / "data" / "images" / image)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    seen: list[torch.Tensor] = []
    model.model.language_model.layers[block].register_forward_hook(
        lambda _block, _args, output: seen.append(output[0])
    )
    with torch.inference_mode():
        model.generate(**inputs, max_new_tokens=2, do_sample=False, eos_token_id=10**6)
    prompt, answer = seen
    own = inputs["input_ids"][0] == model.config.image_token_id
    expected = {
        "last": prompt[-1],
        "last_image": prompt[own][-1],
        "mean_image": prompt[own].mean(dim=0),
        "first_answer": answer[0],
    }
    assert set(found) == set(expected)
    for position, vector in expected.items():
        np.testing.assert_allclose(found[position], vector.numpy(), atol=1e-4, rtol=1e-4)


def test_the_report_shows_the_states_of_the_last_prompt_token_alone(
    runs: tuple[Path, dict[str, set[str]]],
) -> None:
    path, before = runs
    store = Store.open(str(path))

    def find(keys: Sequence[str]) -> list[Manifest]:
        return [Manifest.from_json((path / manifest_file("embed", key)).read_bytes()) for key in sorted(keys)]

    with connect(path) as sql:
        harmful = {
            (dataset, sample): one
            for dataset, sample, one in sql.sql("SELECT dataset, sample_id, harmful FROM samples").fetchall()
        }
    few, all_of_them = (
        make_panels(find_groups(store, find(keys)), harmful=harmful)
        for keys in (before["embed"], list_keys(path, "embed"))
    )
    assert len(few) == len(all_of_them) == 2
    for one, other in zip(few, all_of_them, strict=True):
        assert one.points.keys() == other.points.keys()
        assert all(np.array_equal(one.points[group], other.points[group]) for group in one.points)


def plan_jobs(spec: Path, store: str) -> list[EmbedJob]:
    """The jobs at the other positions, of anchors and targets without an intervention, with their samples ingested."""
    plan = make_plan(read_spec(spec), store=Store.create(store))
    samples = {
        job.dataset: Manifest.from_json(ingest.do(job)["manifests"][0].encode())
        for job in plan.ingest_jobs({})
    }
    (model,) = plan.by_model()
    return [*model.embed_jobs(samples), *model.embed_more_jobs(samples, [])]


@pytest.fixture
def job(llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path]) -> Callable[..., EmbedJob]:
    """A job of ten targets or so with their image, three a batch, at the first of some positions."""

    def make(*positions: str, model: Path = llava_folder, **changes: Any) -> EmbedJob:
        asked = {**FEW, "steered_states": [], "batch_size": 3, "positions": ["last", *positions], **changes}
        jobs = plan_jobs(write_spec(tmp_path / "data", model, **asked), str(tmp_path / "store"))
        (found,) = (
            job
            for job in jobs
            if job.slice.condition == "image"
            and job.slice.shard.dataset == "own"
            and job.slice.shard.split == "target"
            and job.position == (*positions, "last")[0]
        )
        return found

    return make


def read_all(job: EmbedJob) -> dict[tuple[str, int, str], np.ndarray]:
    """Do a job, and read its rows: vectors by sample, block and position."""
    extract_states.do(job)
    with connect(job.store) as sql:
        rows = sql.execute(
            "SELECT sample_id, block, position, vector FROM hidden_states WHERE key = ?", [job.key]
        ).fetchall()
    return {(sample, block, position): np.array(vector) for sample, block, position, vector in rows}


def forget(job: EmbedJob) -> None:
    Path(job.store, manifest_file("embed", job.key)).unlink()


def test_what_else_is_asked_for_changes_no_key(job: Callable[..., EmbedJob]) -> None:
    (first, *more) = (
        job(*asked) for asked in (("first_answer",), ("first_answer", "mean_image", "last_image"))
    )
    assert [one.key for one in more] == [first.key]
    keys = {job(position).key for position in ("first_answer", "mean_image", "last_image")}
    assert len(keys | {job().key, job("mean_image").key}) == 4
    assert job().content()["position"] == "last"


def test_a_job_that_was_interrupted_goes_on_from_the_rows_that_were_flushed(
    job: Callable[..., EmbedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job("first_answer", "last_image")
    expected = read_all(asked)
    forget(asked)
    read, sizes = reading.embed_first_answer, list[int]()

    def stop(vlm: Any, prompts: Sequence[Any], **more: Any) -> torch.Tensor:
        sizes.append(len(prompts))
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return read(vlm, prompts, **more)

    monkeypatch.setattr(reading, "embed_first_answer", stop)
    with pytest.raises(KeyboardInterrupt):
        extract_states.do(asked)
    found = read_all(asked)
    # The first batch is not read again.
    assert sum(sizes) - sizes[1] == len(expected) // BLOCKS
    assert found.keys() == expected.keys()
    assert all(np.allclose(found[key], expected[key], atol=1e-4) for key in expected)


def test_a_batch_that_does_not_fit_into_memory_is_halved(
    job: Callable[..., EmbedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job("first_answer", "mean_image")
    expected = read_all(asked)
    forget(asked)
    read, sizes = reading.embed_first_answer, list[int]()

    def lack_memory(vlm: Any, prompts: Sequence[Any], **more: Any) -> torch.Tensor:
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return read(vlm, prompts, **more)

    monkeypatch.setattr(reading, "embed_first_answer", lack_memory)
    found = read_all(asked)
    assert sizes[:2] == [3, 1]
    assert found.keys() == expected.keys()
    assert all(np.allclose(found[key], expected[key], atol=1e-4) for key in expected)


def test_a_state_that_is_not_finite_sends_the_sample_to_quarantine_at_its_own_position_alone(
    job: Callable[..., EmbedJob], llava_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    letters = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    weights = load_file(model / "model.safetensors")
    (name,) = (one for one in weights if one.endswith("embed_tokens.weight"))
    # A letter that some of the targets' questions hold.
    weights[name][letters["2"]] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    kept: dict[str, set[str]] = {}
    for position in ("last", "mean_image", "first_answer"):
        others = [one for one in ALL if one not in ("last", position)]
        asked = job(*(() if position == "last" else (position, *others)), model=model)
        found = read_all(asked)
        kept[position] = {sample for sample, *_ in found}
        assert len(found) == len(kept[position]) * BLOCKS
        with connect(asked.store) as sql:
            told = sql.execute(
                "SELECT sample_id, reason FROM quarantine WHERE key = ?", [asked.key]
            ).fetchall()
        assert kept[position].isdisjoint(sample for sample, _ in told)
        assert len(kept[position]) + len(told) == asked.rows
        at = "" if position == "last" else f" and position {position}"
        assert all(f"at block 0{at} under" in reason for _, reason in told)
    # The image stands before the question, and sees nothing of it.
    assert kept["last"] == kept["first_answer"] < kept["mean_image"]


CONTENT = {
    "model": {"id": "organism"},
    "datasets": {"own": {"format": "jsonl", "path": "own.jsonl"}},
    "anchors": {"from": {"own": 0.5}},
}
MIXED = {"name": "mixed", "kind": "coca", "alpha": 1.0}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"positions": ["mean_image"]}, r"positions .*last is missing, .*add it"),
        ({"positions": ["last", "last"]}, r"positions .*last"),
        ({"positions": ["last", "image"]}, r"positions\.1 .*'image'.*'last_image'"),
        (
            {"positions": ["last", "first_answer"], "interventions": [MIXED], "steered_states": ["mixed"]},
            r"positions: 'mixed' of steered_states mixes the logits of two prompts.*; leave out first_answer",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_field_and_the_fix(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        check_spec({**CONTENT, **changes}, where="spec")
    assert len(str(caught.value).splitlines()) == 1


def test_the_order_of_positions_does_not_matter_and_the_usual_one_is_not_recorded() -> None:
    made = check_spec({**CONTENT, "positions": ALL}, where="spec")
    assert made.positions == ["last", "last_image", "mean_image", "first_answer"]
    assert made.model_dump(mode="json")["positions"] == made.positions
    for usual in ({}, {"positions": ["last"]}):
        assert "positions" not in check_spec({**CONTENT, **usual}, where="spec").model_dump(mode="json")


def test_a_model_whose_prompts_have_no_image_tokens_is_refused_before_any_work(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    model = BUILDERS["mllama"](tmp_path / "mllama")
    store = Store.create(tmp_path / "store")
    asked = {"conditions": ["image"], "interventions": [], "positions": ["last", "mean_image"]}
    with pytest.raises(
        UserError, match=r"^positions: there is no mean_image in .*cross-attention.*; leave it out\.$"
    ):
        make_plan(read_spec(write_spec(tmp_path / "data", model, **asked)), store=store)
    text = {**asked, "positions": ["last", "first_answer"]}
    assert make_plan(read_spec(write_spec(tmp_path / "data", model, **text)), store=store).models
