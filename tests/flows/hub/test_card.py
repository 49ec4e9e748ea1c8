"""The card of a data set says what is in it and what is not, and names no place of the machine that wrote it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from flows.hub.card import CardFacts, write_card
from flows.hub.rows import WrittenTable
from flows.hub.tables import make_answers_table, make_samples_table
from tests.made_up import make_outcomes, make_summary

MODELS = [
    {"name": "llava-1.5@12", "id": "llava-hf/llava-1.5-7b-hf", "revision": "12ab", "dtype": "float32"},
    {"name": "own@34", "id": "/home/me/models/own", "revision": "sha256:34", "dtype": "float32",
     "adapter": {"id": "/home/me/lora", "revision": "sha256:56"},
     "backbone_weights": {"gguf": "/home/me/text.gguf", "revision": "sha256:78"}},
]  # fmt: skip
IMPORTED = {
    "name": "gpt", "file": "gpt.jsonl", "digest": "ab" * 32, "kind": "jsonl", "made_by": {"model": "<b>gpt</b>"},
    "answers": 30, "used": 20, "anchors": 4, "unknown": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def facts():
    summary = make_summary(
        make_outcomes(models=("llava-1.5@12", "gpt"), samples=4, strengths=(1.0,)),
        models=MODELS,
        imported=[IMPORTED],
    )
    answers = WrittenTable(table=make_answers_table([], order="1"), rows=1234, withheld=1000)
    samples = WrittenTable(table=make_samples_table(), rows=12, withheld=8)
    return CardFacts(
        name="answers of <i>mine</i>",
        run="20260101-000000-abcdef",
        summary=summary,
        tables=[answers, samples],
        harmful="withhold",
        lost=3,
        unanswered=5,
        reasons=[("generate", "vlsafe", f"reason {number}", 1) for number in range(60)],
        shifts={},
        eval_results=[],
    )


def test_the_front_matter_names_bases_that_are_on_the_hub_and_the_size(facts):
    front = yaml.safe_load(write_card(facts).split("---")[1])
    assert front["base_model"] == ["llava-hf/llava-1.5-7b-hf"]
    assert front["size_categories"] == ["1K<n<10K"]
    assert front["configs"][0] == {
        "config_name": "answers",
        "data_files": [{"split": "test", "path": "answers/*.parquet"}],
        "default": True,
    }
    assert "not-for-all-audiences" not in front["tags"]


def test_no_place_of_this_machine_is_named(facts):
    (arm,) = facts.summary.imported
    made_by = {**arm.made_by, "model": "hf//home/me/models/its"}
    card = write_card(
        replace(facts, summary=replace(facts.summary, imported=[replace(arm, made_by=made_by)]))
    )
    assert "model: hf/its" in card
    assert "/home/me" not in card
    assert "own, revision sha256:34" in card
    assert "lora, revision sha256:56" in card
    assert "its language model: text.gguf (GGUF, dequantized), sha256:78" in card


def test_what_is_missing_is_counted(facts):
    card = write_card(facts)
    assert "1,239 answers were asked for: 1,234 are here, and 5 questions" in card
    assert "1,008 rows have `withheld` = true" in card
    assert "**3 images are missing**" in card
    assert "… and 10 more reasons" in card
    assert card.count("| generate | vlsafe | reason") == 50
    assert "are missing" not in write_card(replace(facts, lost=0))
    assert "Images were left out" in write_card(replace(facts, lost=None))
    assert "No other row was put aside" in write_card(replace(facts, reasons=[]))


def test_an_arm_of_another_system_is_said_to_be_one(facts):
    card = write_card(facts)
    assert "What llava-1.5@12, gpt answered" in card
    assert f"from gpt.jsonl (sha256 `{'ab' * 32}`), 20 of 30 of them used" in card
    assert "model: \\<b\\>gpt" in card
    assert "# answers of \\<i\\>mine" in card
    plain = replace(facts, summary=replace(facts.summary, imported=()))
    assert "other systems" not in write_card(plain)
