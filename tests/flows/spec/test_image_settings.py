"""A spec's `images`: a size that it leaves out is the family's, with the keys that all families but one had before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmrm.errors import UserError
from flows.plan.plan import resolve_use
from flows.plan.prompts import make_prompt_builder
from flows.spec.spec import Spec, check_spec
from tasks.shards.prompts import PromptBuilder
from tests.conformance.builders import BUILDERS

SEEN_BEFORE = {"kind": "blank", "size": 336, "color": [255, 255, 255]}
NOISE_BEFORE = {"kind": "noise", "size": 336, "seed": 0, "distribution": "uniform"}


def read(model: Path, **images: Any) -> Spec:
    content = {
        "model": {"id": str(model), "dtype": "float32"},
        "datasets": {"mine": {"format": "jsonl", "path": "mine.jsonl"}},
        "anchors": {"from": {"mine": 0.5}},
        "images": images,
    }
    return check_spec(content, where="spec.yaml")


@pytest.fixture(scope="module")
def make_builder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PromptBuilder]:
    """The prompt builder of a spec for a family's tiny model."""
    folders = {name: BUILDERS[name](tmp_path_factory.mktemp(name)) for name in ("llava_next", "paligemma")}

    def make(family: str, **images: Any) -> PromptBuilder:
        spec = read(folders[family], **images)
        return make_prompt_builder(spec, "mine", store="store", model=resolve_use(spec.all_models()[0]))

    return make


@pytest.mark.parametrize("given", [{}, {"size": "auto"}])
def test_a_size_that_is_left_out_is_the_familys(
    make_builder: Callable[..., PromptBuilder], given: dict[str, Any]
) -> None:
    usual, wide = make_builder("paligemma", **given), make_builder("llava_next", **given)
    assert (usual.content("blank"), usual.content("noise")) == (SEEN_BEFORE, NOISE_BEFORE)
    assert wide.content("blank") == {**SEEN_BEFORE, "size": 672}
    assert usual.size_from == wide.size_from == "family"


def test_a_size_that_is_given_is_that_size_for_every_family(
    make_builder: Callable[..., PromptBuilder],
) -> None:
    for family in ("paligemma", "llava_next"):
        builder = make_builder(family, size=336)
        assert builder.content("blank") == SEEN_BEFORE
        assert builder.size_from == "spec"


def test_the_mean_colour_is_the_processors_and_the_contrast_is_in_the_key(
    make_builder: Callable[..., PromptBuilder],
) -> None:
    assert make_builder("paligemma").content("blank-mean") == {**SEEN_BEFORE, "color": [128, 128, 128]}
    assert make_builder("llava_next", size=336).content("blank-mean") == {
        **SEEN_BEFORE,
        "color": [123, 117, 104],
    }
    assert make_builder("paligemma", noise_contrast=40).content("noise") == {**NOISE_BEFORE, "contrast": 40.0}


@pytest.mark.parametrize(
    ("images", "field"),
    [
        ({"size": 0}, "images.size"),
        ({"size": "large"}, "images.size"),
        ({"noise_contrast": 0}, "images.noise_contrast"),
        ({"noise_contrast": 128}, "images.noise_contrast"),
        ({"noise_contrast": True}, "images.noise_contrast"),
    ],
)
def test_what_is_no_size_and_no_contrast_is_refused_with_its_field(
    images: dict[str, Any], field: str
) -> None:
    with pytest.raises(UserError) as raised:
        read(Path("model"), **images)
    assert f"{field} " in str(raised.value)
