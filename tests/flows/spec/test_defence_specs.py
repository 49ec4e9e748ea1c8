"""A mistake in an intervention of another kind than CMRM costs one line, which names the place and the fix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cmrm.errors import UserError
from flows.spec.interventions import DefenceSpec
from flows.spec.spec import Spec, read_spec

PROJECT, ADD = {"name": "a", "kind": "project"}, {"name": "b", "kind": "direction"}
# What is wrong with the first of them, or with the last where there are several, and how the line begins.
MISTAKES: tuple[tuple[list[Any], str], ...] = (
    (
        [{"kind": "nope"}],
        r"0: defence 'nope' is unknown; known defences: .*coca, direction, .*project, prompt, random",
    ),
    ([{"kind": None}], r"0\.kind \(it is None\): Input should be a valid string"),
    ([{"kind": ["project"]}], r"0\.kind \(it is \['project'\]\): Input should be a valid string"),
    ([{"kind": {"a": "b"}}], r"0\.kind: Input should be a valid string"),
    (
        [PROJECT | {"level": "dataset"}],
        r"0\.level: defence 'project' has no such option; it has states, count",
    ),
    ([PROJECT | {"count": "many"}], r"0\.count \(it is 'many'\): Input should be a valid integer"),
    ([PROJECT | {"count": 0}], r"0: count is 0; give 1 to 8 directions"),
    ([PROJECT | {"count": 9}], r"0: count is 9; give 1 to 8 directions"),
    ([PROJECT | {"count": 2, "gate": "relu"}], r"0: gate relu is for one direction; leave out count"),
    (
        [PROJECT | {"gate": "step"}],
        r"0\.gate \(it is 'step'\): Input should be 'projection', 'cosine' or 'relu'",
    ),
    ([PROJECT | {"scope": "last"}], r"0\.scope \(it is 'last'\): Input should be 'prefill'"),
    ([PROJECT | {"blocks": []}], r"0: blocks: \[\] are not distinct and ascending, at least one; sort them"),
    ([PROJECT | {"blocks": [2, 1]}], r"0: blocks: \[2, 1\] are not distinct and ascending"),
    ([ADD | {"blocks": [1, 1]}], r"0: blocks: \[1, 1\] are not distinct and ascending"),
    ([ADD | {"blocks": [-1, 0]}], r"0: blocks: no block -1; blocks are counted from 0"),
    ([ADD | {"states": "caption"}], r"0\.states \(it is 'caption'\): Input should be 'query' or 'image'"),
    ([{"kind": "shiftdc", "blocks": [3, 2]}], r"0: blocks: \[3, 2\] are not distinct and ascending"),
    ([{"kind": "random", "blocks": [3, 2]}], r"0: blocks: \[3, 2\] are not distinct and ascending"),
    ([{"kind": "random", "seed": -1}], r"0: seed is -1; give a whole number from 0"),
    ([{"kind": "random", "image": "photo"}], r"0\.image \(it is 'photo'\): Input should be 'blank'"),
    ([PROJECT | {"alpha": -1}], r"0\.alpha \(it is -1\): a strength below 0 would push .*; give 0 or more"),
    ([PROJECT | {"alpha": [1, 1.0]}], r"0\.alpha .*: 1\.0 is given more than once; name it once"),
    ([PROJECT | {"alpha": []}], r"0\.alpha .*: give at least one strength"),
    ([PROJECT | {"alpha": "much"}], r"0\.alpha \(it is 'much'\): Input should be a valid number"),
    ([PROJECT | {"alpha": float("nan")}], r"0\.alpha \(it is nan\): Input should be a finite number"),
    ([{"kind": "prompt"}], r"0: nothing is asked; give preset \(safety-prompt or adashield-s\), template or"),
    (
        [{"kind": "prompt", "preset": "safety-prompt", "alpha": 1}],
        r"0: kind prompt has no strength; leave out alpha",
    ),
    (
        [{"kind": "prompt", "preset": "other"}],
        r"0\.preset \(it is 'other'\): Input should be 'safety-prompt'",
    ),
    ([{"kind": "prompt", "template": "ask"}], r"0: the template does not hold {question}, .*; put it in"),
    ([{"kind": "prompt", "template": 5}], r"0\.template \(it is 5\): Input should be a valid string"),
    (
        [{"kind": "prompt", "preset": "adashield-s", "template": "{question}"}],
        r"0: a preset and a template \(or file\) are both given; give one of them",
    ),
    (
        [{"kind": "prompt", "preset": "adashield-s", "file": "good"}],
        r"0: a preset and a template \(or file\) are both given; give one of them",
    ),
    (
        [{"kind": "prompt", "template": "{question}", "file": "good"}],
        r"0: file and template are both given; give one of them",
    ),
    (
        [{"kind": "coca", "principle": "{question}", "file": "good"}],
        r"0: file and principle are both given; give one of them",
    ),
    ([PROJECT | {"file": "good"}], r"0: file: kind project has no template; leave it out"),
    ([{"kind": "prompt", "file": "none"}], r"x\.file: .*none is not there; correct the path"),
    ([{"kind": "prompt", "file": "unmarked"}], r"x\.file: .*unmarked: the template does not hold {question}"),
    ([{"kind": "coca", "file": "unmarked"}], r"x\.file: .*unmarked: the principle does not hold {question}"),
    (
        [{"kind": "prompt", "file": "binary"}],
        r"x\.file: .*binary: line 1: is not UTF-8 .*; save the file as UTF-8",
    ),
    (
        [{"kind": "prompt", "file": "large"}],
        r"x\.file: .*large: is longer than 0\.0625 MiB, .*; give another one",
    ),
    ([{"kind": "prompt", "file": "fifo"}], r"x\.file: .*fifo: is a FIFO .*; correct the path"),
    ([{"kind": "prompt", "file": "."}], r"x\.file: .*: is a folder, not a regular file; correct the path"),
    ([{"kind": "prompt", "file": "/dev/zero"}], r"x\.file: /dev/zero: is a device, .*; correct the path"),
    ([{"kind": "prompt", "file": "a" * 300}], r"x\.file: .*: cannot be read \(File name too long\); correct"),
    ([{"kind": "coca", "principle": "be safe"}], r"0: the principle does not hold {question}, .*; put it in"),
    ([ADD | {"conditions": []}], r"0\.conditions \(it is \[\]\): give at least 1"),
    (
        [ADD | {"conditions": ["image", "image"]}],
        r"0\.conditions .*: 'image' is given more than once; name it",
    ),
    ([ADD | {"conditions": ["photo"]}], r"0\.conditions\.0 \(it is 'photo'\): Input should be 'query'"),
    ([PROJECT | {"name": "  "}], r"0\.name \(it is '  '\): give a name with visible characters"),
    ([PROJECT, PROJECT | {"count": 2}], r": names must differ; a is given more than once"),
    ([{"name": "a", "alpha": 1.0}, PROJECT], r": names must differ; a is given more than once"),
    (
        [{"kind": "stack", "of": ["a", "b"]}],
        r": the stack 'x' names 'a'; it may name nothing, since the spec has no",
    ),
    ([PROJECT, {"kind": "stack", "of": ["a"]}], r"1\.of \(it is \['a'\]\): give at least 2"),
    ([PROJECT, {"kind": "stack"}], r"1\.of: this field is missing. Add it"),
    ([PROJECT, {"kind": "stack", "of": ["a", "a"]}], r"1\.of .*: 'a' is given more than once; name it once"),
    ([PROJECT, ADD, {"kind": "stack", "of": ["a", "c"]}], r": the stack 'x' names 'c'; it may name a, b"),
    (
        [PROJECT, ADD, {"kind": "stack", "name": "s", "of": ["a", "b"]}, {"kind": "stack", "of": ["a", "s"]}],
        r": the stack 'x' names 's'; it may name a, b",
    ),
    (
        [PROJECT | {"alpha": [1, 2]}, ADD, {"kind": "stack", "of": ["a", "b"]}],
        r": 'a' has several strengths or a grid, and the stack 'x' needs one; give one of its own",
    ),
    (
        [{"name": "a", "kind": "coca"}, ADD, {"kind": "stack", "of": ["a", "b"]}],
        r": 'a' mixes logits .*cannot be part of the stack 'x'; leave it out there",
    ),
    (
        [PROJECT, ADD, {"kind": "stack", "of": ["a", "b"], "alpha": 1}],
        r"2\.alpha: no such field. Known: kind,",
    ),
    (
        [PROJECT, ADD, {"kind": "stack", "of": ["a", "b"], "conditions": []}],
        r"2\.conditions .*: give at least 1",
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with data and templates: a good one, and some that cannot be used."""
    (tmp_path / "own.jsonl").write_text('{"question": "why?"}\n')
    (tmp_path / "good").write_text("be good. {question}\n")
    (tmp_path / "unmarked").write_text("be good.")
    (tmp_path / "binary").write_bytes(b"\xff\xfe{question}")
    (tmp_path / "large").write_text("{question}" + "a" * 2**16)
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


def read(folder: Path, interventions: list[Any], *, share: float = 0.5) -> Spec:
    content = {
        "model": {"id": "organism"},
        "datasets": {"own": {"format": "jsonl", "path": "own.jsonl"}},
        "anchors": {"from": {"own": share}},
        "interventions": [{"name": "x", **one} for one in interventions],
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(content))
    return read_spec(folder / "spec.yaml")


@pytest.mark.parametrize(("interventions", "line"), MISTAKES, ids=[line for _, line in MISTAKES])
def test_a_mistake_costs_one_line_with_place_and_fix(
    folder: Path, interventions: list[Any], line: str
) -> None:
    place = r"^.*/spec\.yaml: interventions" + ("" if line.startswith(":") else r"\.")
    with pytest.raises(UserError, match=place + line) as error:
        read(folder, interventions)
    text = str(error.value)
    assert text.endswith(".")
    assert text.isprintable(), "one line"


@pytest.mark.parametrize(
    ("intervention", "fields"),
    [
        ({"alpha": True, "blocks": [True]}, ["alpha", "blocks.0"]),
        ({"alpha": -1, "blocks": "upper", "scop": "all"}, ["alpha", "blocks", "scop"]),
        ({"kind": "project", "alpha": -1, "name": 3}, ["name", "alpha"]),
        ({"kind": "stack", "name": 3, "of": ["a"]}, ["name", "of"]),
    ],
)
def test_each_mistake_in_one_intervention_costs_a_line_of_its_own(
    folder: Path, intervention: dict[str, Any], fields: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        read(folder, [intervention])
    places = [line.split(": ")[1].split(" ")[0] for line in str(error.value).splitlines()]
    assert places == [f"interventions.0.{field}" for field in fields]


def test_a_template_file_is_read_and_becomes_the_template(folder: Path) -> None:
    asked, mixed = read(
        folder, [{"kind": "prompt", "file": "good"}, {"name": "y", "kind": "coca", "file": "good"}]
    ).interventions
    assert isinstance(asked, DefenceSpec)
    assert isinstance(mixed, DefenceSpec)
    assert (asked.options, mixed.options) == (
        {"template": "be good. {question}"},
        {"principle": "be good. {question}"},
    )


@pytest.mark.parametrize("kind", ["project", "direction", "random"])
def test_a_defence_that_is_measured_needs_a_share_of_anchors(folder: Path, kind: str) -> None:
    with pytest.raises(
        UserError,
        match=r"anchors\.from: Δ, its parts and labelled directions are measured on anchors; give a share",
    ):
        read(folder, [{"kind": kind}], share=0.0)
    assert not read(folder, [{"kind": "coca"}], share=0.0).needs_anchors()
