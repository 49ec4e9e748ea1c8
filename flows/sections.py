"""The sections of a spec; those of its models are in `model_sections.py`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cmrm.conditions import Meaningless
from cmrm.datasets import get_format
from cmrm.interventions import DEFAULT_COMPOSITION, DEFAULT_SCOPE, Composition, Level, Method, Scope
from flows.section import Section


class ClipSpec(Section):
    """The CLIP that pairs questions with images: a local folder or a hub id."""

    id: str = Field(min_length=1)
    revision: str = "main"
    device: str = "auto"


class DatasetSpec(Section):
    """One data set: a format, its file, and the folder of its images; the rest depends on the format.

    `pair_with` and `clip` give questions without an image one of their own, by its captions or by CLIP. `limit` keeps
    so many samples, for a first look.
    """

    format: str
    path: Path
    images: Path | None = None
    pair_with: Path | None = None
    clip: ClipSpec | None = None
    limit: int | None = Field(default=None, ge=1)
    categories: list[str] | None = Field(default=None, min_length=1)
    answers: Path | None = None
    captions: Path | None = None
    columns: dict[str, str] | None = None
    harmful: bool | None = None
    variant: str | None = None
    split: str | None = None
    revision: str | None = None
    config: str | None = None

    @field_validator("format")
    @classmethod
    def _know_the_format(cls, name: str) -> str:
        get_format(name)
        return name

    @model_validator(mode="after")
    def _have_images_to_pair_with(self) -> Self:
        if (self.pair_with or self.clip) and self.images is None:
            raise ValueError("pair_with and clip choose among images; give their folder as `images`")
        return self

    def options(self) -> dict[str, Any]:
        """The format's own options that the spec gives."""
        names = (
            "answers",
            "captions",
            "columns",
            "harmful",
            "variant",
            "split",
            "revision",
            "config",
            "categories",
        )
        return {name: value for name in names if (value := getattr(self, name)) is not None}


Share = Annotated[float, Field(ge=0, le=1)]


class AnchorsSpec(Section):
    """Which share of each data set measures Δ and is never judged."""

    from_: dict[str, Share] = Field(alias="from")
    seed: int = 42


class ImagesSpec(Section):
    """The meaningless images: side in pixels, the blank one's colour, the noise's seed."""

    size: int = Field(default=336, ge=1, le=4096)
    color: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(
        default=(255, 255, 255), min_length=3, max_length=3
    )
    seed: int = Field(default=0, ge=0)


Blocks = Literal["upper_half", "middle", "last", "all"] | list[Annotated[int, Field(ge=0)]]
Strength = Annotated[float, Field(allow_inf_nan=False)]


def refuse_repeats(values: list[Any]) -> list[Any]:
    """Return a list as it is; raises `ValueError` for a value named twice, which would be counted twice."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value!r} stands there more than once; name it once")
    return values


class GridSpec(Section):
    """Values to be tried in all combinations; each axis takes the place of the intervention's field of that name."""

    blocks: list[Blocks] | None = Field(default=None, min_length=1)
    scope: list[Scope] | None = Field(default=None, min_length=1)
    composition: list[Composition] | None = Field(default=None, min_length=1)
    image: list[Meaningless] | None = Field(default=None, min_length=1)
    method: list[Method] | None = Field(default=None, min_length=1)

    @field_validator("*")
    @classmethod
    def _name_each_once(cls, values: list[Any] | None) -> list[Any] | None:
        return None if values is None else refuse_repeats(values)

    def combine(self) -> Iterator[dict[str, Any]]:
        """Each combination of the axes that are given."""
        axes = {name: values for name in type(self).model_fields if (values := getattr(self, name))}
        for values in product(*axes.values()):
            yield dict(zip(axes, values, strict=True))


class InterventionSpec(Section):
    """What is done to the states while answering (`DESIGN.md` §1); a list of strengths is one intervention each."""

    name: str = Field(min_length=1)
    level: Level = "dataset"
    image: Meaningless = "blank"
    method: Method = "mean"
    alpha: Strength | list[Strength] = 1.0
    blocks: Blocks = "upper_half"
    scope: Scope = DEFAULT_SCOPE
    composition: Composition = DEFAULT_COMPOSITION
    grid: GridSpec | None = None

    @field_validator("alpha")
    @classmethod
    def _never_push_away_from_safety(cls, alpha: float | list[float]) -> float | list[float]:
        values = alpha if isinstance(alpha, list) else [alpha]
        if not values:
            raise ValueError("give at least one strength")
        refuse_repeats(values)
        if any(value < 0 for value in values):
            raise ValueError(
                "a strength below 0 would push the model away from its safety training, which cmrm does not do; "
                "give 0 or more (the paper uses 0 to 1)"
            )
        return alpha

    @field_validator("blocks")
    @classmethod
    def _ascend(cls, blocks: str | list[int]) -> str | list[int]:
        if isinstance(blocks, list) and (not blocks or blocks != sorted(set(blocks))):
            raise ValueError("give distinct block numbers in ascending order, at least one")
        return blocks

    @model_validator(mode="after")
    def _have_a_mean_of_one(self) -> Self:
        methods = [self.method, *((self.grid and self.grid.method) or ())]
        if self.level == "sample" and "pca" in methods:
            raise ValueError(
                "method pca is the common direction of many differences, and a sample-level Δ is one; "
                "use level: dataset, or method: mean"
            )
        return self

    def describe(self) -> dict[str, str]:
        """Its settings for a table: what tells one of a grid from the others."""
        blocks = self.blocks if isinstance(self.blocks, str) else ", ".join(map(str, self.blocks))
        return {
            "level": self.level,
            "image": self.image,
            "method": self.method,
            "blocks": blocks,
            "scope": self.scope,
            "composition": self.composition,
        }

    def strengths(self) -> Iterator[float]:
        """Each strength in turn."""
        yield from self.alpha if isinstance(self.alpha, list) else [self.alpha]

    def spread(self) -> list[InterventionSpec]:
        """The interventions that the grid makes, named after what differs; without a grid this one alone."""
        if self.grid is None:
            return [self]
        return [
            self.model_copy(
                update={
                    **chosen,
                    "name": ", ".join([self.name, *map(_name_value, chosen.values())]),
                    "grid": None,
                }
            )
            for chosen in self.grid.combine()
        ]


def _name_value(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    together = len(value) > 2 and value == list(range(value[0], value[-1] + 1))
    return f"blocks {value[0]}–{value[-1]}" if together else f"block {' '.join(map(str, value))}"


class GenerationSpec(Section):
    """How answers are decoded: greedily, up to a length."""

    max_new_tokens: int = Field(default=256, ge=1)


class OverheadSpec(Section):
    """What is timed: how many samples of each data set, how often, in batches of which size."""

    samples: int = Field(default=32, ge=1)
    repeats: int = Field(default=3, ge=1)
    batch_size: int = Field(default=1, ge=1)


class ChoiceSpec(Section):
    """The bound that picks a strength: how much utility may be lost, and how much harmless may be refused."""

    utility_loss: Share = 0.01
    over_refusal: Share | None = None


class RegressionSpec(Section):
    """By how much a new revision may become worse (`cmrm compare`), as fractions; None is shown and not judged."""

    unsafe_rise: Share = 0.02
    utility_loss: Share | None = None
    over_refusal: Share | None = None
