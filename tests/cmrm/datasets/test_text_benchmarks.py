"""Benchmarks of harmful and harmless requests in text, as they were published."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmrm.datasets import screen
from cmrm.datasets.splits import SplitRow, choose_anchors
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample
from storage.tables.parquet import iterate_rows


def ids(rows) -> list[str]:
    return [row.id for row in rows]


def test_advbench_is_read(read, published):
    rows = read("advbench", published / "advbench" / "harmful_behaviors.csv")
    assert [row.question for row in rows] == [
        "Explain how a wug is frobnicated",
        "Write a poem, in two lines, about a blick",
    ]
    digest = hashlib.sha256(b"\0Explain how a wug is frobnicated").hexdigest()
    assert rows[0] == Sample(id=digest[:10], dataset="d", question=rows[0].question, harmful=True)
    assert [row.line for row in rows] == [2, 3]


def test_strongrejects_sets_give_a_prompt_one_id(read, published):
    folder = published / "strongreject"
    full = read("strongreject", folder / "strongreject_dataset.csv")
    assert [(row.question, row.category, row.harmful) for row in full] == [
        ("How is a wug frobnicated?", "Wugs and blicks", True),
        ("Name a blick, and say where it lives.", "Wugs and blicks", True),
        ("How many wugs fit into a blick?", "Numbers", True),
    ]
    small = folder / "strongreject_small_dataset.csv"
    small.write_text("category,source,forbidden_prompt\nNumbers,custom,How many wugs fit into a blick?\n")
    assert ids(read("strongreject", small)) == [full[2].id]


def test_harmbenchs_behaviours_in_text_stand_behind_their_context(read, published):
    rows = read("harmbench", published / "harmbench" / "harmbench_behaviors_text_all.csv")
    assert rows[0] == Sample(
        id="wug_frobnication",
        dataset="d",
        question="Explain how a wug is frobnicated",
        harmful=True,
        category="standard/illegal",
    )
    assert rows[1].category == "copyright/copyright"
    assert rows[2] == Sample(
        id="wug_tree",
        dataset="d",
        question="A wug lives in a tree.\nIt eats blicks.\n\n---\n\nSay where the wug of the text lives",
        harmful=True,
        category="contextual/harmful",
        group="Say where the wug of the text lives",
    )
    assert rows[3].group == rows[2].group


def test_harmbenchs_behaviours_with_images_have_captions_and_what_judges_may_see(read, published):
    rows = read("harmbench", published / "harmbench" / "harmbench_behaviors_multimodal_all.csv")
    assert rows[0] == Sample(
        id="wug_image",
        dataset="d",
        question="Explain how the thing in the image is frobnicated",
        harmful=True,
        image="wug_image.png",
        caption="A red wug on a table.",
        category="multimodal/illegal",
        context="A wug on a table.",
    )
    assert ids(rows) == ["wug_image", "blick_image"]


def test_jailbreakbenchs_twins_are_on_one_side_and_the_files_name_says_which_is_harmful(read, published):
    folder = published / "jailbreakbench"
    harmful = read("jailbreakbench", folder / "harmful-behaviors.csv")
    harmless = read("jailbreakbench", folder / "benign-behaviors.csv")
    assert harmful[0] == Sample(
        id="Frobnication",
        dataset="d",
        question="Explain how a wug is frobnicated",
        harmful=True,
        category="Wugs",
        group="Frobnication",
    )
    assert [row.harmful for row in harmless] == [False, False]
    assert [row.group for row in harmless] == [row.group for row in harmful]


@pytest.mark.parametrize("name", ["behaviors.csv", "harmful-and-benign.csv"])
def test_a_jailbreakbench_file_whose_name_does_not_say_what_it_holds_is_refused(read, published, name):
    path = (published / "jailbreakbench" / "harmful-behaviors.csv").rename(published / name)
    with pytest.raises(UserError, match=rf"{name} has [02] of harmful, benign"):
        read("jailbreakbench", path)


def test_or_benchs_toxic_prompts_are_harmful_and_the_hard_ones_are_not(read, published):
    hard = read("or-bench", published / "or_bench" / "or-bench-hard-1k.csv")
    assert [(row.question, row.category, row.harmful) for row in hard] == [
        ("How do I shoot a photograph of a wug?", "violence", False),
        ("What kills a blick, other than age?", "harmful", False),
    ]
    (toxic,) = read("or-bench", published / "or_bench" / "or-bench-toxic.csv")
    assert (toxic.question, toxic.category, toxic.harmful) == ("How is a wug frobnicated?", "violence", True)
    large = (published / "or_bench" / "or-bench-hard-1k.csv").rename(published / "or-bench-80k.csv")
    assert ids(read("or-bench", large)) == ids(hard)


def test_sorry_benchs_styles_of_an_instruction_are_on_one_side(read, published):
    folder = published / "sorry_bench"
    base = read("sorry-bench", folder / "question.jsonl")
    assert base[0] == Sample(
        id="base-1",
        dataset="d",
        question="How is a wug frobnicated?",
        harmful=True,
        category="7",
        group="SORRY-Bench 1",
    )
    (slang,) = read("sorry-bench", folder / "question_slang.jsonl")
    assert (slang.id, slang.group) == ("slang-1", base[0].group)


def test_a_sorry_bench_row_of_several_turns_is_rejected(read, published):
    path = published / "sorry_bench" / "question.jsonl"
    path.write_text('{"question_id": 1, "category": 7, "turns": ["a", "b"], "prompt_style": "base"}\n')
    (row,) = read("sorry-bench", path)
    assert isinstance(row, Rejected)
    assert row.reason == "field 'turns' has 2 turns, and a sample is one"


SORRY = [
    {"question_id": 1, "category": "7", "turns": ["How is a wug frobnicated?"], "prompt_style": "base"},
    {"question_id": 1, "category": "7", "turns": ["Yo, a wug?"], "prompt_style": "slang"},
    {"question_id": 2, "category": "8", "turns": ["Where does a blick live?"], "prompt_style": "base"},
]


def test_sorry_benchs_parquet_is_read_as_a_file_or_a_folder_of_shards_and_a_style_is_kept(read, tmp_path):
    for number, rows in enumerate((SORRY[:2], SORRY[2:])):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"train-{number:05d}-of-00002.parquet")
    rows = read("sorry-bench", tmp_path, open_rows=iterate_rows)
    assert ids(rows) == ["base-1", "slang-1", "base-2"]
    assert [row.line for row in rows] == [1, 2, 3]
    kept = read("sorry-bench", tmp_path, open_rows=iterate_rows, variant="base")
    assert ids(kept) == ["base-1", "base-2"]
    shard = tmp_path / "train-00001-of-00002.parquet"
    assert ids(read("sorry-bench", shard, open_rows=iterate_rows)) == ["base-2"]
    with pytest.raises(UserError, match="no row of the style 'morse'; there are base, slang"):
        read("sorry-bench", tmp_path, open_rows=iterate_rows, variant="morse")


def test_a_sorry_bench_row_without_a_style_is_rejected_where_one_is_asked_for(read, published):
    path = published / "sorry_bench" / "question.jsonl"
    path.write_text(path.read_text() + '{"question_id": 3, "category": 7, "turns": ["Why?"]}\n')
    assert ids(read("sorry-bench", path)) == ["base-1", "base-2", "3"]
    *_, last = read("sorry-bench", path, variant="base")
    assert last.reason == "no field 'prompt_style'"


def change(**changes):
    return [{**SORRY[0], **changes}, *SORRY[1:]]


ROWS_OF_PARQUET = {
    "a question of another type": [{**row, "turns": 7} for row in SORRY],
    "turns that are a text": [{**row, "turns": row["turns"][0]} for row in SORRY],
    "no turns": change(turns=None),
    "an empty list of turns": change(turns=[]),
    "a turn that is null": change(turns=[None]),
    "a blank question": change(turns=[" "]),
    "several turns": change(turns=["a", "b"]),
    "a NUL": change(turns=["a\0b"]),
    "no number": change(question_id=None),
    "a number of another type": [{**row, "question_id": 0.5} for row in SORRY],
    "a category that is a list": [{**row, "category": ["7"]} for row in SORRY],
    "no column of questions": [{k: v for k, v in row.items() if k != "turns"} for row in SORRY],
    "no column of numbers": [{k: v for k, v in row.items() if k != "question_id"} for row in SORRY],
    "a row twice": [*SORRY, SORRY[0]],
    "no rows": [],
}


@pytest.mark.parametrize("damage", ROWS_OF_PARQUET)
def test_damaged_rows_of_a_parquet_file_are_quarantined_or_stop_the_reading(read, tmp_path, damage):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS_OF_PARQUET[damage]), path)
    stop = ""
    rows: list[Sample | Rejected] = []
    try:
        rows = list(screen(read("sorry-bench", path, open_rows=iterate_rows), images=None))
    except UserError as error:
        stop = str(error)
    assert str(path) in stop or any(
        isinstance(row, Rejected) and row.line >= 1 and len(row.reason) > 5 for row in rows
    )


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_a_file_that_is_no_parquet_is_refused(read, tmp_path, content):
    path = tmp_path / "train.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read("sorry-bench", path, open_rows=iterate_rows)


def test_samples_that_share_an_image_or_a_behaviour_are_never_parted(read, published):
    rows = [
        *read("pope", published / "pope" / "coco_pope_random.json"),
        *read("jailbreakbench", published / "jailbreakbench" / "harmful-behaviors.csv"),
        *read("jailbreakbench", published / "jailbreakbench" / "benign-behaviors.csv"),
    ]
    for seed in range(8):
        sides = choose_anchors(map(SplitRow.of, rows), fractions={"d": 0.5}, seed=seed)
        chosen = {row.group for row in rows if sides.is_anchor_sample(row)}
        assert chosen
        assert all(sides.is_anchor_sample(row) == (row.group in chosen) for row in rows)
