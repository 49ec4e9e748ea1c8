"""A text-only model beside a vision-language model in a run: its rows, its states, and what the report says of both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from cmrm.errors import UserError
from flows.commands.doctor_checks import find_models
from flows.plan.plan import make_plan, resolve_beside, resolve_use
from flows.run import Result
from flows.spec.spec import check_spec, read_spec
from flows.watch.history import find_past_runs
from flows.watch.poll import _find_fingerprints
from storage.records.manifest import Manifest
from storage.sql.open_store import open_store
from storage.store import Store
from tasks.compare.matching import match_arms
from tasks.job_codec import pack_jobs, unpack_jobs
from tests.flows.shared_runs import run_plainly
from tests.text_models import save_text_model, take_language_model


class Ran(NamedTuple):
    """A finished run with a backbone, its spec file and its store."""

    spec: Path
    store: Path
    result: Result


def make_spec(folder: Path, llava: Path, text: Path) -> Path:
    Image.new("RGB", (32, 32), (200, 0, 0)).save(folder / "red.png")
    rows = [
        {
            "id": str(number),
            "question": f"how do I frobnicate number {number}?",
            "image": "red.png",
            "caption": "a red square",
        }
        for number in range(16)
    ]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    content = {
        "model": {
            "id": str(llava),
            "name": "llava",
            "dtype": "float32",
            "device": "cpu",
            "backbone": {"id": str(text), "name": "vicuna"},
        },
        "datasets": {"mine": {"format": "jsonl", "path": "questions.jsonl", "images": "."}},
        "anchors": {"from": {"mine": 0.5}},
        "conditions": ["query", "caption", "image"],
        "target_states": [],
        "interventions": [{"name": "CMRM", "alpha": 1.0}],
        "images": {"size": 32},
        "generation": {"max_new_tokens": 4},
        "judges": ["refusal"],
    }
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def ran(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("backbone")
    model = take_language_model(llava_folder, moved=0.05)
    spec = make_spec(folder, llava_folder, save_text_model(folder / "text", model, llava_folder))
    return Ran(spec=spec, store=folder / "store", result=run_plainly(spec, folder / "store"))


def ask(ran: Ran, query: str) -> list[dict[str, Any]]:
    with open_store(ran.store) as store:
        return store.sql(query).table.to_pylist()


def test_the_backbone_answers_the_same_samples_as_text_alone(ran: Ran) -> None:
    rows = ask(
        ran, "SELECT split_part(model, '@', 1) AS model, condition, intervention, sample_id FROM responses"
    )
    asked: dict[tuple[str, str, str], set[str]] = {}
    for row in rows:
        asked.setdefault((row["model"], row["condition"], row["intervention"]), set()).add(row["sample_id"])
    own = {key for key in asked if key[0] == "vicuna (backbone)"}
    assert own == {("vicuna (backbone)", "query", ""), ("vicuna (backbone)", "caption", "")}
    for _, condition, _ in own:
        assert asked["vicuna (backbone)", condition, ""] == asked["llava", condition, ""]
    assert len(asked["llava", "query", ""]) == 8


def test_its_states_are_held_against_the_models_and_against_the_shift_of_an_image(ran: Ran) -> None:
    rows = ask(
        ran,
        "SELECT split_part(model, '@', 1) AS model, condition, sample_id, block, vector FROM hidden_states "
        "WHERE dataset = 'mine' AND intervention = '' ORDER BY sample_id",
    )

    def read(model: str, condition: str, block: int) -> np.ndarray:
        wanted = (model, condition, block)
        return np.array(
            [r["vector"] for r in rows if (r["model"], r["condition"], r["block"]) == wanted], float
        )

    found = ran.result.summary.backbone_blocks
    assert [one.block for one in found] == [0, 1, 2, 3]
    for one in found:
        alone, inside = (read(name, "query", one.block) for name in ("vicuna (backbone)", "llava"))
        blank = read("llava", "blank", one.block)
        lengths = np.linalg.norm(alone, axis=1)
        cosines = (alone * inside).sum(axis=1) / lengths / np.linalg.norm(inside, axis=1)
        assert one.samples == len(alone) == 8
        assert one.cosine == pytest.approx(cosines.mean())
        assert one.least == pytest.approx(cosines.min())
        assert one.relative == pytest.approx((np.linalg.norm(inside - alone, axis=1) / lengths).mean())
        assert one.shift == pytest.approx(np.linalg.norm((inside - alone).mean(axis=0)))
        assert one.state == pytest.approx(lengths.mean())
        assert one.images == {"blank": pytest.approx(np.linalg.norm((blank - inside).mean(axis=0)))}


def test_the_query_of_the_page_gives_the_cosines_of_the_report(ran: Ran) -> None:
    page = (Path(__file__).parents[2] / "docs" / "backbone.md").read_text(encoding="utf-8")
    query = page.partition("```sql\n")[2].partition("```")[0]
    found = {row["block"]: row["cosine"] for row in ask(ran, query)}
    expected = {one.block: pytest.approx(one.cosine, abs=1e-6) for one in ran.result.summary.backbone_blocks}
    assert found == expected


def test_its_rows_are_compared_with_the_models_rows_as_text_in_pairs(ran: Ran) -> None:
    verdicts = ask(
        ran, "SELECT split_part(model, '@', 1) AS model, condition, sample_id, verdict FROM judgements"
    )
    table = ran.result.summary.table
    (column,) = [place for place, one in enumerate(table.columns) if one.kind == "unsafe"]
    rows = {(row.arm.model.partition("@")[0], row.name): row for row in table.rows}
    assert [*rows][-2:] == [("vicuna (backbone)", "Query"), ("vicuna (backbone)", "Caption")]
    for condition in ("query", "caption"):
        row = rows["vicuna (backbone)", condition.title()]
        assert row.baseline == f"{condition.title()}, llava"
        sides = [
            {
                one["sample_id"]: one["verdict"] == "unsafe"
                for one in verdicts
                if (one["model"], one["condition"]) == (model, condition)
                and one["verdict"] in {"safe", "unsafe"}
            }
            for model in ("llava", "vicuna (backbone)")
        ]
        common = sides[0].keys() & sides[1].keys()
        change = row.cells[column].change
        assert change is not None
        assert change.n == len(common) > 0
        assert change.before == pytest.approx(np.mean([sides[0][one] for one in common]))
        assert change.after == pytest.approx(np.mean([sides[1][one] for one in common]))


def test_the_report_says_what_it_is_and_whose_prompts_it_was_shown(ran: Ran) -> None:
    (file,) = (ran.store / "reports").glob("*/report.md")
    text = file.read_text()
    assert "#### vicuna (backbone)" in text
    assert "It was shown that model's text prompts, token by token" in text
    assert "| Block | Length | Cosine | Least cosine | Difference | Mean shift | \\|Δ\\| blank |" in text
    assert "It is text-only, and was asked by the prompts of llava@" in text
    about_images, *about_text = ran.result.summary.headline.splitlines()
    assert "backbone" not in about_images
    shown = ("as text", "as text with the caption")
    assert len(about_text) == len(shown)
    for line, how in zip(about_text, shown, strict=True):
        assert line.startswith("Unsafe answers of vicuna (backbone)@")
        assert f", {how}, in pairs: mine " in line


def test_the_same_spec_reuses_all_of_it_and_another_template_is_another_key(ran: Ran) -> None:
    store = Store.open(ran.store)
    before = {path for path in ran.store.rglob("*.json") if "runs" not in path.parts}
    run_plainly(ran.spec, ran.store)
    assert {path for path in ran.store.rglob("*.json") if "runs" not in path.parts} == before
    plan = make_plan(read_spec(ran.spec), store=store)
    (backbone,) = plan.backbones.values()
    assert backbone.backbone is not None
    assert backbone.content()["backbone"].keys() == {"template", "settings"}
    assert "backbone" not in plan.models[0].content()
    assert "backbone" not in plan.models[0].describe()


def test_its_keys_hold_what_its_prompts_depend_on_and_not_the_models_weights(
    ran: Ran, llava_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    fields = yaml.safe_load(ran.spec.read_text())
    fields["model"] |= {"id": str(model), "attn_implementation": "eager"}
    text = Path(shutil.copytree(fields["model"]["backbone"]["id"], tmp_path / "text"))
    (text / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    fields["model"]["backbone"] |= {"id": str(text), "attn_implementation": "sdpa"}

    def read_content(template: str) -> dict[str, Any]:
        fields["model"]["backbone"]["template"] = template
        (section,) = check_spec(fields, where="spec").all_models()
        use = resolve_use(section)
        (backbone,) = resolve_beside(section, use)
        assert (use.attn_implementation, backbone.attn_implementation) == ("eager", "sdpa")
        return {**backbone.content(), "of": use.fingerprint}

    first = {one: read_content(one) for one in ("model", "own")}
    file = model / "model.safetensors"
    weights = {name: one + 1 for name, one in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    second = {one: read_content(one) for one in ("model", "own")}
    for one in ("model", "own"):
        assert second[one].pop("of") != first[one].pop("of")
        assert second[one] == first[one]
    (model / "chat_template.jinja").write_text((model / "chat_template.jinja").read_text() + "\n")
    assert read_content("model")["backbone"] != first["model"]["backbone"]
    assert read_content("own")["backbone"] == first["own"]["backbone"]


def test_its_jobs_reach_workers_with_their_keys_and_are_done_again_where_a_result_is_lost(ran: Ran) -> None:
    store = Store.open(ran.store)
    plan = make_plan(read_spec(ran.spec), store=store)
    (model,) = plan.by_model()
    backbone = model.for_backbone()
    assert backbone is not None
    ingested = [Manifest.from_json(one.read_bytes()) for one in ran.store.glob("manifests/ingest/*")]
    jobs = backbone.generate_jobs({"mine": ingested[0]}, [])
    assert [job.slice.condition for job in jobs] == ["query", "caption"]
    _, decoded = unpack_jobs("generate", pack_jobs(jobs))
    assert decoded == jobs
    assert [job.key for job in decoded] == [job.key for job in jobs]
    lost = ran.store / "manifests" / "generate" / f"{jobs[0].key}.json"
    kept = json.loads(lost.read_text())
    lost.unlink()
    run_plainly(ran.spec, ran.store)
    assert json.loads(lost.read_text())["files"] == kept["files"]


def test_the_doctor_of_a_spec_loads_the_backbone_after_its_model(ran: Ran) -> None:
    models, _ = find_models(str(ran.spec), {})
    assert [one.name.partition("@")[0] for one in models] == ["llava", "vicuna (backbone)"]


def test_a_watch_follows_the_revision_of_the_backbone(ran: Ran) -> None:
    spec = read_spec(ran.spec)
    (past, *_) = find_past_runs(Store.open(ran.store), spec)
    assert _find_fingerprints(spec) == past.fingerprints
    assert len(past.fingerprints) == 2
    config = ran.spec.parent / "text" / "generation_config.json"
    kept = config.read_text()
    config.write_text(kept + " ")
    try:
        now = _find_fingerprints(spec)
    finally:
        config.write_text(kept)
    assert now[0] == past.fingerprints[0]
    assert now[1] != past.fingerprints[1]


class Report(NamedTuple):
    content: Mapping[str, Any]


def name_report(models: Sequence[str], backbones: Sequence[str]) -> Any:
    named = [[{"name": one} for one in names] for names in (models, backbones)]
    return Report(content={"models": named[0], "backbones": {"models": named[1]}})


def test_backbones_of_two_runs_are_matched_among_themselves() -> None:
    old, new = match_arms(
        [name_report(["a@1"], ["t (backbone)@1"]), name_report(["b@2"], ["u (backbone)@3"])]
    )
    assert old == {"a@1": "b", "t (backbone)@1": "u (backbone)"}
    assert new == {"b@2": "b", "u (backbone)@3": "u (backbone)"}


def check(**model: Any) -> Any:
    content = {
        "model": {"id": "llava", **model},
        "datasets": {"mine": {"format": "jsonl", "path": "q.jsonl"}},
        "anchors": {"from": {"mine": 0.5}},
    }
    return check_spec(content, where="spec")


def test_inside_is_the_language_model_inside_and_leaves_no_trace_in_the_record() -> None:
    plain, inside = check(), check(backbone="inside")
    assert inside == plain
    assert "backbone" not in inside.model_dump(mode="json")["model"]
    given = check(backbone="lmsys/vicuna-7b-v1.5")
    assert given == check(backbone={"id": "lmsys/vicuna-7b-v1.5"})
    assert given.model_dump(mode="json")["model"]["backbone"]["id"] == "lmsys/vicuna-7b-v1.5"


def test_a_backbone_without_a_text_condition_or_of_a_captioner_is_refused() -> None:
    content = check(backbone="text").model_dump(mode="json", by_alias=True)
    with pytest.raises(UserError, match="conditions has neither"):
        check_spec({**content, "conditions": ["image"]}, where="spec")
    captioned = {**content, "captions": {"by": {"id": "other", "backbone": "text"}}}
    with pytest.raises(UserError, match=r"captions\.by.*has no backbone"):
        check_spec(captioned, where="spec")
    with pytest.raises(UserError, match=r"model\.backbone.*write the id of a text-only model"):
        check(backbone=3)
