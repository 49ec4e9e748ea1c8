"""docs/sql.md: each of its questions is asked of a real store of the embedded model, and its answer makes sense."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import yaml

from cmrm.statistics.rates import Rate
from storage.sql.database import connect
from storage.sql.macros import MACROS
from tests.flows.shared_runs import run_plainly

PAGE = Path(__file__).parents[3] / "docs" / "sql.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
RECIPES = {
    section.splitlines()[0]: block
    for section in SECTIONS
    for block in re.findall(r"^```sql\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
}
SNIPPETS = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
)
MODEL, REVISION = "organism", "organism-posthoc"
# Enough of each for every question to have an answer.
LIMITS = {"vlsafe": 14, "jailbreak": 20, "bench": 14, "xstest": 14}
QUARANTINED = [{"id": "b", "question": ""}, {"id": "a", "question": "which colour is the circle?"}]


def write_spec(folder: Path, model: str, **changes: Any) -> Path:
    """Write a spec of the embedded model on a few rows of five data sets, one of which has bad rows."""
    organism = "organism://"
    paired = {"pair_with": f"{organism}forbidden/captions_train2017.json", "images": f"{organism}images"}
    datasets = {
        "vlsafe": {"format": "vlsafe", "path": f"{organism}vlsafe/harmlessness_examine.jsonl"},
        "jailbreak": {
            "format": "forbidden-questions",
            "path": f"{organism}forbidden/forbidden_question_set.csv",
            **paired,
        },
        "bench": {
            "format": "llava-bench-coco",
            "path": f"{organism}bench/qa90_questions.jsonl",
            "answers": f"{organism}bench/qa90_gpt4_answer.jsonl",
            "captions": f"{organism}bench/caps_boxes_coco2014_val_80.jsonl",
        },
        "xstest": {"format": "xstest", "path": f"{organism}xstest/xstest_v2_prompts.csv", **paired},
    }
    for name, dataset in datasets.items():
        dataset |= {"images": f"{organism}images", "limit": LIMITS[name]}
    mine = [{"id": "a", "question": "which colour is the square?", "reference": "red"}, *QUARANTINED]
    pd.DataFrame(mine).to_json(folder / "mine.jsonl", orient="records", lines=True)
    spec = {
        "model": {"id": model, "dtype": "float32"},
        "datasets": {**datasets, "mine": {"format": "jsonl", "path": "mine.jsonl", "harmful": False}},
        "anchors": {"from": {"vlsafe": 0.3, "jailbreak": 0.3, "bench": 0.4}, "seed": 42},
        "conditions": ["query", "image", "blank", "noise"],
        "images": {"size": 32},
        "target_states": ["query", "image", "blank"],
        "steered_states": ["CMRM dataset"],
        "positions": ["last", "last_image", "mean_image", "first_answer"],
        "interventions": [
            {"name": "CMRM dataset", "level": "dataset", "alpha": [0.5, 1.0], "blocks": [5, 6, 7]}
        ],
        "parts": ["blank"],
        "directions": ["query", "image"],
        "judges": ["refusal", "match", "overlap"],
        "generation": {"max_new_tokens": 24},
        "batch_size": 192,
    }
    path = folder / f"{model}.yaml"
    path.write_text(yaml.safe_dump(spec | changes))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two runs: the embedded model, and its later revision with fewer arms."""
    folder = tmp_path_factory.mktemp("cookbook")
    less = {
        "conditions": ["query", "image"],
        "target_states": ["image"],
        "steered_states": [],
        "positions": ["last"],
        "parts": [],
        "directions": [],
        "judges": ["refusal"],
        "interventions": [{"name": "CMRM dataset", "alpha": 1.0, "blocks": [5, 6, 7]}],
    }
    for spec in (write_spec(folder, MODEL), write_spec(folder, REVISION, **less)):
        run_plainly(spec, folder / "cmrm-store")
    return folder / "cmrm-store"


@pytest.fixture(scope="module")
def sql(store: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The store, open to SQL."""
    with connect(store) as connection:
        yield connection


def answer(sql: duckdb.DuckDBPyConnection, recipe: str) -> pd.DataFrame:
    # DuckDB's own .df() warns of a deprecation in pandas where there are time zones.
    return sql.sql(recipe).to_arrow_table().to_pandas()


@pytest.fixture
def cook(sql: duckdb.DuckDBPyConnection):
    """Ask a question of the page by the first words of its heading; at least one row."""

    def ask(start: str) -> pd.DataFrame:
        (recipe,) = (recipe for heading, recipe in RECIPES.items() if heading.startswith(start))
        frame = answer(sql, recipe)
        assert len(frame)
        return frame

    return ask


def of(frame: pd.DataFrame, model: str = MODEL, column: str = "model") -> pd.DataFrame:
    """The rows of one model."""
    return frame[frame[column].str.startswith(f"{model}@")]


def read_states(sql: duckdb.DuckDBPyConnection, where: str, position: str = "last") -> np.ndarray:
    """Vectors of the embedded model, unsteered, at its last block, in double precision."""
    query = (
        f"SELECT vector FROM hidden_states WHERE {where} AND block = 7 AND intervention = '' AND "
        f"position = '{position}' AND model LIKE 'organism@%' ORDER BY dataset, sample_id, condition"
    )
    return np.stack([np.array(row[0]) for row in sql.sql(query).fetchall()])


def read_shift(sql: duckdb.DuckDBPyConnection) -> np.ndarray:
    ((vector,),) = sql.sql("SELECT vector FROM shifts WHERE block = 7 AND model LIKE 'organism@%'").fetchall()
    return np.array(vector)


@pytest.mark.parametrize("heading", RECIPES)
def test_each_question_has_an_answer_with_names_for_its_columns(sql, heading):
    frame = answer(sql, RECIPES[heading])
    assert len(frame)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in frame.columns)
    # A column that is null throughout would be a join that found nothing.
    assert not [name for name in frame.columns if frame[name].isna().all()]


def test_the_page_has_enough_questions_and_names_every_macro():
    assert len(RECIPES) >= 18
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{macro.name}(" in page for macro in MACROS)


def test_the_separation_of_a_block_is_numpys(cook, sql):
    frame = of(cook("Which block separates"))
    assert sorted(frame.block) == list(range(8))
    assert (frame.separation.diff().dropna() <= 0).all()
    text, image = (read_states(sql, f"condition = '{name}'") for name in ("query", "image"))
    distance = np.linalg.norm(text.mean(axis=0) - image.mean(axis=0))
    spread = np.concatenate([text - text.mean(axis=0), image - image.mean(axis=0)])
    (row,) = frame[frame.block == 7].itertuples()
    assert row.distance == pytest.approx(distance, rel=1e-5)
    assert row.within == pytest.approx(np.sqrt((spread**2).sum(axis=1).mean()), rel=1e-5)


def test_harmful_and_harmless_questions_are_told_apart_at_each_position(cook, sql):
    frame = of(cook("Does the last prompt token miss it")).set_index(["block", "position"])
    assert len(frame) == 8 * 4
    for position in ("last", "last_image", "mean_image", "first_answer"):
        harmful, harmless = (
            read_states(
                sql,
                "condition = 'image' AND (dataset, sample_id) IN "
                f"(SELECT (dataset, sample_id) FROM samples WHERE {kind})",
                position,
            )
            for kind in ("harmful", "NOT harmful")
        )
        distance = np.linalg.norm(harmful.mean(axis=0) - harmless.mean(axis=0))
        spread = np.concatenate([one - one.mean(axis=0) for one in (harmful, harmless)])
        row = frame.loc[7, position]
        within = np.sqrt((spread**2).sum(axis=1).mean())
        assert row.separation == pytest.approx(distance / within, abs=0.0051)
        assert (row.harmful, row.harmless) == (len(harmful), len(harmless))
        assert row.by_chance == pytest.approx(np.sqrt(1 / len(harmful) + 1 / len(harmless)), abs=0.0051)
    # The model was raised to see at the last prompt token what it is asked; its image stands before the question.
    assert frame.separation[7, "last"] > frame.separation[7, "mean_image"]


def test_the_furthest_samples_come_first_and_have_verdicts(cook):
    frame = cook("Which samples sit furthest")
    assert (frame.distance.diff().dropna() <= 0).all()
    assert set(frame.verdict) == {"safe", "unsafe"}
    assert not frame.duplicated(["dataset", "sample_id", "answer", "distance"]).any()


def test_unsafe_answers_sit_further_along_the_shift(cook):
    frame = of(cook("Do unsafe answers")).set_index("verdict")
    assert frame.along_shift["unsafe"] > frame.along_shift["safe"]


def test_a_shift_that_moved_has_a_cosine_below_one(cook):
    frame = cook("Did Δ move")
    assert sorted(frame.block) == list(range(8))
    assert frame.cosine.between(-1, 0.999).all()
    assert (frame.ratio > 0).all()


def test_samples_own_shifts_agree_with_the_mean_shift(cook, sql):
    frame = of(cook("Does a sample's own shift"))
    own = read_states(sql, "condition = 'blank'") - read_states(sql, "condition = 'query'")
    shift = read_shift(sql)
    cosines = own @ shift / np.linalg.norm(own, axis=1) / np.linalg.norm(shift)
    assert frame.samples.sum() == len(own)
    assert np.average(frame.cosine, weights=frame.samples) == pytest.approx(cosines.mean(), rel=1e-4)


def test_the_length_of_a_shift_is_its_norm(cook, sql):
    frame = of(cook("At which blocks"))
    (row,) = frame[frame.block == 7].itertuples()
    assert row.shift == pytest.approx(np.linalg.norm(read_shift(sql)), rel=1e-5)
    assert len(frame) == 8


def test_the_shares_of_the_parts_add_up(cook):
    frame = cook("Which part of Δ")
    assert (frame["positions"] + frame["marks"] + frame["image_tokens"]).to_numpy() == pytest.approx(1.0)
    assert len(frame) == 8


def test_answers_that_turned_unsafe_lie_less_far_along_the_text_direction(cook, sql):
    frame = cook("How far along the text direction")
    last = frame[frame.block == 7].set_index("verdict").along
    assert last["unsafe"] < last["safe"]
    texts, labels = (
        [row[0] for row in sql.sql(query).fetchall()]
        for query in (
            "SELECT vector FROM hidden_states JOIN samples USING (dataset, sample_id) WHERE split = 'anchor' AND "
            "condition = 'query' AND block = 7 AND position = 'last' AND model LIKE 'organism@%' "
            "ORDER BY dataset, sample_id",
            "SELECT harmful FROM samples WHERE split = 'anchor' AND key IN (SELECT unnest(keys) FROM runs WHERE model "
            "LIKE 'organism@%') ORDER BY dataset, sample_id",
        )
    )
    texts, labels = np.array(texts, dtype=np.float64), np.array(labels)
    harmful, harmless = texts[labels].mean(axis=0), texts[~labels].mean(axis=0)
    ((along, vector),) = sql.sql(
        "SELECT along, vector FROM projections JOIN hidden_states USING (model, dataset, sample_id, condition, "
        "intervention, block) WHERE condition = 'image' AND intervention = '' AND block = 7 AND position = 'last' "
        "ORDER BY dataset, sample_id LIMIT 1"
    ).fetchall()
    axis = harmful - harmless
    assert along == pytest.approx((np.array(vector) - harmless) @ axis / (axis @ axis), abs=1e-6)


def test_probes_and_cosines_have_every_block(cook):
    frame = cook("Where can harmful be told")
    assert sorted(set(frame.block)) == list(range(8))
    assert set(frame.intervention) == {"", "CMRM dataset"}
    assert (frame.low <= frame.auroc).all()
    assert (frame.auroc <= frame.high).all()
    cosines = cook("Does Δ point from harmful")
    assert set(cosines.part) >= {"all", "positions", "image", "filler"}
    assert cosines.cosine.between(-1, 1).all()


def test_neighbouring_blocks_are_compared_once_each(cook):
    frame = of(cook("Do neighbouring blocks"))
    assert list(frame.block) == list(range(7))
    assert list(frame.next) == list(range(1, 8))


def test_the_intervention_moves_states_at_its_own_blocks_alone(cook):
    frame = of(cook("How far does the intervention")).set_index(["block", "alpha"]).distance_to_text
    assert frame[3, 1.0] == pytest.approx(frame[3, 0.5], rel=1e-3)
    assert frame[7, 1.0] != pytest.approx(frame[7, 0.5], rel=1e-3)


def test_pca_coordinates_explain_what_they_say(cook, sql):
    frame = cook("PCA coordinates")
    states = read_states(sql, "condition IN ('query', 'image', 'blank')")
    singular = np.linalg.svd(states - states.mean(axis=0), compute_uv=False) ** 2
    assert frame.explained1[0] == pytest.approx(singular[0] / singular.sum(), rel=1e-5)
    assert (frame.pc1**2).sum() == pytest.approx(singular[0], rel=1e-5)
    assert frame.pc2.sum() == pytest.approx(0, abs=1e-3 * len(frame))


def test_near_duplicates_are_other_samples(cook):
    frame = cook("Which questions have nearly")
    assert frame.cosine.between(0.9, 1.0001).all()
    assert not ((frame.dataset == frame.other_dataset) & (frame["sample"] == frame.other)).any()


def test_wilson_intervals_in_sql_are_those_of_the_report(cook):
    for row in cook("Unsafe rates").itertuples():
        low, high = Rate(successes=row.unsafe, n=row.n).interval or (0.0, 1.0)
        assert (row.low, row.high) == pytest.approx((100 * low, 100 * high), abs=0.051)
        assert row.low <= row.percent <= row.high


def test_answers_that_changed_verdict_became_safe(cook):
    frame = cook("Which answers changed")
    assert set(zip(frame.at_half, frame.at_one, strict=True)) == {("unsafe", "safe")}


def test_questions_unsafe_under_every_image_are_of_the_model_that_fails(cook):
    frame = cook("Which questions are unsafe under every")
    assert len(of(frame)) == len(frame)
    assert set(frame.images) == {3}


def test_text_alone_is_counted_in_pairs(cook, sql):
    frame = of(cook("Which data sets are as unsafe as text"))
    verdicts = sql.sql(
        "SELECT dataset, sample_id, condition, verdict FROM judgements JOIN samples USING (dataset, sample_id) WHERE "
        "harmful AND judge = 'refusal' AND intervention = '' AND model LIKE 'organism@%'"
    ).to_arrow_table()
    wide = verdicts.to_pandas().pivot_table(
        index=["dataset", "sample_id"],
        columns="condition",
        values="verdict",
        aggfunc=lambda one: (one == "unsafe").all(),
    )
    for row in frame.itertuples():
        own = wide.loc[row.dataset][["query", "image"]].dropna().astype(float)
        assert row.questions == len(own)
        assert (row.as_text, row.with_image) == pytest.approx((own["query"].mean(), own["image"].mean()))
        assert row.change == pytest.approx(row.with_image - row.as_text)
    assert frame.change.max() > 0.3


def test_over_refusal_and_utility_are_rates(cook):
    refusals = cook("Over-refusal")
    assert refusals.rate.between(0, 1).all()
    utility = of(cook("What does safety cost")).set_index("alpha")
    assert utility.unsafe_rate[0.0] > utility.unsafe_rate[1.0]
    assert utility.utility.between(0, 1).all()


def test_kappa_is_that_of_its_counts(cook):
    (row,) = cook("How well do two judges").itertuples()
    assert row.answers == row.both_yes + row.only_match + row.only_overlap + row.both_no
    assert 0 < row.kappa <= 1


def test_answers_are_counted_once(cook, sql):
    ((answers,),) = sql.sql("SELECT count(*) FROM responses").fetchall()
    assert cook("How long are the answers").answers.sum() == answers
    assert cook("What did a run use").answers.sum() == answers
    repeated = cook("Which answers does the model repeat")
    assert (repeated.times.diff().dropna() <= 0).all()
    assert repeated.times.max() <= answers


def test_quarantined_rows_have_a_reason(cook):
    frame = cook("What was set aside")
    assert sorted(frame.reason) == ["duplicate id …", "empty question"]
    assert frame.rows.sum() == len(QUARANTINED)


def test_the_runs_differ_where_the_first_model_fails(cook):
    frame = cook("Which questions did one run")
    assert set(frame.verdict) == {"unsafe"}
    assert set(frame.other_verdict) == {"safe"}


def test_the_sizes_of_states_are_listed(cook):
    frame = cook("How many states")
    assert {tuple(one) for one in frame.positions} == {
        ("last",),
        ("first_answer", "last"),
        ("first_answer", "last", "last_image", "mean_image"),
    }
    assert set(frame.width) == {128}
    assert set(frame.blocks) == {8}


@pytest.mark.parametrize("place", range(len(SNIPPETS)))
def test_the_pages_python_runs(store, monkeypatch, place):
    monkeypatch.chdir(store.parent)
    names: dict[str, Any] = {}
    exec(SNIPPETS[place], names)
    if "found" in names:
        assert {"pc1", "pc2"} <= set(names["found"].rows.column_names)
        assert len(names["frame"])
        names["sql"].close()
