"""The section `captions` of a spec: its mistakes, its paths, and what a spec without it records."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cmrm.defences.ecso import Ecso
from cmrm.defences.shiftdc import ShiftDC
from cmrm.errors import UserError
from cmrm.prompts.captions import CaptionPrompt
from cmrm.prompts.conditions import Prompt
from flows.spec.spec import Spec, read_spec
from flows.watch.history import identify_spec

BASE: dict[str, Any] = {
    "model": {"id": "m"},
    "datasets": {"d": {"format": "jsonl", "path": "d.jsonl"}},
    "anchors": {"from": {"d": 0.5}},
    "interventions": [],
}
ECSO = {"name": "E", "kind": "ecso"}
UNUSED = "captions: nothing in this spec shows a caption, and no defence asks for the same; name caption in conditions"
# The section, the rest of the spec, and the line that it costs.
MISTAKES: tuple[tuple[Any, dict[str, Any], str], ...] = (
    ({"style": "poem"}, {}, r"captions\.style \(it is 'poem'\): Input should be 'plain' or 'query'"),
    (
        {"style": "query", "prompt": "say"},
        {},
        r"captions: prompt: style query .* does not hold {question}; put it in",
    ),
    ({"prompt": "say {question}"}, {}, r"captions: prompt: it holds {question}, .*; write style: query"),
    ({"prompt": " "}, {}, r"captions\.prompt \(it is ' '\): write what the model is asked, or leave it out"),
    ({"by": ""}, {}, r"captions\.by\.id \(it is ''\): give an id on the hub"),
    ({"by": 3}, {}, r"captions\.by \(it is 3\): write the id of a model, or a mapping as in model"),
    ({"by": {"id": "m", "typ": 1}}, {}, r"captions\.by\.typ: no such field"),
    ({"model": "m"}, {}, r"captions\.model: no such field\. Known: by, style, prompt"),
    ({"max_new_tokens": 0}, {}, r"captions\.max_new_tokens \(it is 0\)"),
    ({"max_new_tokens": True}, {}, r"captions\.max_new_tokens \(it is True\): give a number"),
    ({"samples": "some"}, {}, r"captions\.samples \(it is 'some'\): Input should be 'uncaptioned' or 'all'"),
    ({}, {"conditions": ["image"]}, UNUSED),
    ({}, {"conditions": ["image"], "interventions": [ECSO]}, UNUSED),
    ({"style": "query", "by": "other"}, {"conditions": ["image"], "interventions": [ECSO]}, UNUSED),
    ({"style": "query", "max_new_tokens": 9}, {"conditions": ["image"], "interventions": [ECSO]}, UNUSED),
)


def write(folder: Path, **fields: Any) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({**BASE, **fields}))
    return path


@pytest.mark.parametrize(("captions", "more", "line"), MISTAKES)
def test_a_mistake_costs_one_line(tmp_path: Path, captions: Any, more: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        read_spec(write(tmp_path, captions=captions, **more))
    said = str(error.value)
    assert "\n" not in said
    assert re.search(line if line is not UNUSED else re.escape(UNUSED), said), said


@pytest.mark.parametrize(
    ("captions", "more"),
    [
        ({}, {}),
        ({"style": "query"}, {"conditions": ["image"], "interventions": [ECSO]}),
        ({}, {"conditions": ["image"], "interventions": [{"name": "S", "kind": "shiftdc"}]}),
        ({}, {"conditions": ["query"], "target_states": ["caption"]}),
        (
            {"style": "query"},
            {
                "conditions": ["image"],
                "interventions": [{"name": "S", "kind": "shiftdc", "states": "caption"}],
            },
        ),
    ],
)
def test_captions_that_something_shows_are_accepted(
    tmp_path: Path, captions: dict[str, Any], more: dict[str, Any]
) -> None:
    assert read_spec(write(tmp_path, captions=captions, **more)).captions is not None


def test_the_model_that_captions_is_a_folder_beside_the_spec_and_is_among_the_loaded(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    spec = read_spec(write(tmp_path, captions={"by": "small"}))
    assert [one.id for one in spec.list_loaded()] == ["m", str(tmp_path / "small")]
    full = {"by": {"id": "small", "revision": "v1", "dtype": "bfloat16"}}
    (judged, captioner) = read_spec(write(tmp_path, captions=full)).list_loaded()
    assert (judged.id, captioner.revision, captioner.dtype) == ("m", "v1", "bfloat16")


def test_a_spec_without_captions_is_recorded_as_it_was_and_the_device_is_no_difference(
    tmp_path: Path,
) -> None:
    without = read_spec(write(tmp_path))
    assert "captions" not in without.model_dump(mode="json", by_alias=True)
    assert Spec.model_validate(without.model_dump(mode="json", by_alias=True)) == without
    given = read_spec(write(tmp_path, captions={"by": {"id": "m", "device": "cpu"}}))
    assert Spec.model_validate(given.model_dump(mode="json", by_alias=True)) == given
    other = read_spec(write(tmp_path, captions={"by": {"id": "m", "device": "cuda"}}))
    plain = read_spec(write(tmp_path, captions={}))
    assert identify_spec(given) == identify_spec(other) != identify_spec(plain) != identify_spec(without)


def test_what_is_asked_by_default_is_what_the_defences_ask(tmp_path: Path) -> None:
    asked = {}
    for style in ("plain", "query"):
        captions = read_spec(write(tmp_path, captions={"style": style})).captions
        assert captions is not None
        asked[style] = captions.asked
    assert asked["plain"] == ShiftDC().caption_prompt("caption")
    assert asked["query"] == Ecso().caption_prompt("caption")
    assert ShiftDC().caption_prompt("answer") is Ecso().caption_prompt("judgement") is None
    prompt = Prompt(text="why {question}?", system="be brief")
    assert CaptionPrompt(style="query", text="{question} and {question}").ask(prompt) == Prompt(
        text="why {question}? and why {question}?", system="be brief"
    )
    assert CaptionPrompt(style="plain", text="{question}").ask(prompt).text == "{question}"
