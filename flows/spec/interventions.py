"""Interventions in a spec: CMRM, other defences by their kind, and stacks of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from cmrm.defences import DEFENCES, Defence, SteppedDefence
from cmrm.errors import UserError
from cmrm.prompts.conditions import CONTROLS, Condition, Meaningless
from cmrm.steering.settings import DEFAULT_COMPOSITION, DEFAULT_SCOPE, Composition, Level, Method, Part, Scope
from cmrm.untrusted.printable import show_names, show_value
from flows.spec.section import Name, Number, Section, Whole
from flows.spec.sections import refuse_repeats
from tasks.core.options import build_plugin, check_options
from tasks.states.steering import PLAIN

Blocks = Literal["upper_half", "middle", "last", "all"] | list[Annotated[Whole, Field(ge=0)]]
Strength = Annotated[Number, Field(allow_inf_nan=False)]
# Each strength is a row of every table and a job per shard. Of a long list only the first error is reported.
MOST_ARMS = 10_000
Strengths = Annotated[list[Strength], Field(max_length=MOST_ARMS, fail_fast=True)]
# The conditions under which an intervention is answered.
Conditions = Annotated[list[Condition], Field(min_length=1)]
DEFAULT_CONDITIONS: list[Condition] = ["image"]
# The option that a file's text is given as, by kind.
TEMPLATES: Mapping[str, str] = MappingProxyType({"prompt": "template", "coca": "principle"})


class GridSpec(Section):
    """Grid over fields of an intervention, in all combinations; each axis replaces the field of that name."""

    blocks: list[Blocks] | None = Field(default=None, min_length=1)
    scope: list[Scope] | None = Field(default=None, min_length=1)
    composition: list[Composition] | None = Field(default=None, min_length=1)
    image: list[Meaningless] | None = Field(default=None, min_length=1)
    method: list[Method] | None = Field(default=None, min_length=1)
    part: list[Part] | None = Field(default=None, min_length=1)

    @field_validator("*")
    @classmethod
    def _name_each_once(cls, values: list[Any] | None) -> list[Any] | None:
        return None if values is None else refuse_repeats(values)

    def count(self) -> int:
        """Count the combinations."""
        return prod(len(values) for name in type(self).model_fields if (values := getattr(self, name)))

    def combine(self) -> Iterator[dict[str, Any]]:
        """Iterate over all combinations of the given axes."""
        axes = {name: values for name in type(self).model_fields if (values := getattr(self, name))}
        for values in product(*axes.values()):
            yield dict(zip(axes, values, strict=True))


class InterventionSpec(Section):
    """Steering of hidden states during generation (`DESIGN.md` §1); a list of strengths α is one intervention each."""

    kind: Literal["cmrm"] = "cmrm"
    name: Name
    level: Level = "dataset"
    image: Meaningless = "blank"
    method: Method = "mean"
    part: Part = "all"
    alpha: Strength | Strengths = 1.0
    blocks: Blocks = "upper_half"
    scope: Scope = DEFAULT_SCOPE
    composition: Composition = DEFAULT_COMPOSITION
    grid: GridSpec | None = None
    conditions: Conditions = DEFAULT_CONDITIONS

    @field_validator("alpha")
    @classmethod
    def _never_push_away_from_safety(cls, alpha: float | list[float]) -> float | list[float]:
        check_strengths(alpha)
        return alpha

    @field_validator("conditions")
    @classmethod
    def _name_each_once(cls, conditions: list[Condition]) -> list[Condition]:
        return refuse_repeats(conditions)

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

    @model_validator(mode="after")
    def _have_parts_that_add_up(self) -> Self:
        grid = self.grid or GridSpec()
        if {self.part, *(grid.part or ())} == {"all"}:
            return self
        if self.level == "sample":
            raise ValueError("part: parts of Δ are means over anchors; use level: dataset, or part: all")
        if "pca" in (self.method, *(grid.method or ())):
            raise ValueError(
                "part: principal directions of the parts do not add up to that of Δ; use method: mean"
            )
        if controls := [one for one in (self.image, *(grid.image or ())) if one in CONTROLS]:
            raise ValueError(
                f"part: {controls[0]} shows no image, so its Δ has no part of one; use a meaningless image such as "
                "blank"
            )
        return self

    def describe(self) -> dict[str, str]:
        """Its settings for a table, which tell interventions of a grid apart."""
        blocks = self.blocks if isinstance(self.blocks, str) else ", ".join(map(str, self.blocks))
        return {
            "level": self.level,
            "image": self.image,
            "method": self.method,
            # Reports without parts keep the keys that they had before there were any.
            **({} if self.part == "all" else {"part": self.part}),
            "blocks": blocks,
            "scope": self.scope,
            "composition": self.composition,
        }

    def strengths(self) -> Iterator[float]:
        """Iterate over the strengths."""
        yield from self.alpha if isinstance(self.alpha, list) else [self.alpha]

    def count_passes(self) -> int:
        """Count the sequences that are decoded for one answer."""
        return 1

    def count_arms(self) -> int:
        """Count its arms: grid combinations times strengths."""
        return (1 if self.grid is None else self.grid.count()) * len(list(self.strengths()))

    def spread(self) -> list[InterventionSpec]:
        """Expand the grid into interventions named after what differs; without a grid, this one alone."""
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
    contiguous = len(value) > 2 and value == list(range(value[0], value[-1] + 1))
    return f"blocks {value[0]}–{value[-1]}" if contiguous else f"block {' '.join(map(str, value))}"


def check_strengths(alpha: float | list[float] | None) -> None:
    """Raise `ValueError` for no strength, one that is given twice, or one below 0."""
    values = alpha if isinstance(alpha, list) else [] if alpha is None else [alpha]
    if isinstance(alpha, list) and not alpha:
        raise ValueError("give at least one strength")
    refuse_repeats(values)
    if any(value < 0 for value in values):
        raise ValueError(
            "a strength below 0 would push the model away from its safety training, which cmrm does not do; "
            "give 0 or more (the paper uses 0 to 1)"
        )


class DefenceSpec(Section):
    """A defence of another kind than CMRM: the other fields are the options of its kind (`cmrm.defences`).

    `file` holds the template of a kind that has one, in place of an option.
    """

    model_config = ConfigDict(extra="allow")

    kind: str
    name: Name
    alpha: Strength | Strengths | None = None
    conditions: Conditions = DEFAULT_CONDITIONS
    file: Path | None = None

    @field_validator("alpha")
    @classmethod
    def _check_strengths(cls, alpha: float | list[float] | None) -> float | list[float] | None:
        check_strengths(alpha)
        return alpha

    @field_validator("conditions")
    @classmethod
    def _name_each_once(cls, conditions: list[Condition]) -> list[Condition]:
        return refuse_repeats(conditions)

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        try:
            kind = DEFENCES.find(self.kind)
            given = dict(self.model_extra or {})
            if self.file is not None:
                if self.template_option in given:
                    raise ValueError(f"file and {self.template_option} are both given; give one of them")
                # Its text is read once the spec's folder is known.
                given |= {self.template_option: "{question}"}
            build_plugin(DEFENCES, self.kind, check_options(DEFENCES, self.kind, given)).check()
        except UserError as error:
            # The path of the field stands before it.
            raise ValueError(str(error).removeprefix("interventions.")) from None
        if self.alpha is not None and kind.default_alpha is None:
            raise ValueError(f"kind {self.kind} has no strength; leave out alpha")
        return self

    @property
    def template_option(self) -> str:
        """The option that `file` stands for; raises `ValueError` for a kind that takes no template."""
        if self.kind not in TEMPLATES:
            raise ValueError(f"file: kind {self.kind} has no template; leave it out")
        return TEMPLATES[self.kind]

    @cached_property
    def options(self) -> dict[str, Any]:
        """The options of the kind, checked, as JSON types."""
        return check_options(DEFENCES, self.kind, self.model_extra or {})

    @cached_property
    def defence(self) -> Defence:
        """The defence."""
        return build_plugin(DEFENCES, self.kind, self.options)

    def with_text(self, text: str) -> DefenceSpec:
        """The same with the text of `file` as its template; raises `ValueError` for one without the question."""
        content = self.model_dump(exclude={"file"}, exclude_unset=True)
        return DefenceSpec.model_validate({**content, self.template_option: text})

    def describe(self) -> dict[str, str]:
        """Its settings for a table."""
        return {"kind": self.kind, **{name: _name_option(value) for name, value in self.options.items()}}

    def strengths(self) -> Iterator[float | None]:
        """Iterate over the strengths; None alone for a kind that has none."""
        default = DEFENCES.find(self.kind).default_alpha
        yield from (
            self.alpha if isinstance(self.alpha, list) else [default if self.alpha is None else self.alpha]
        )

    def count_passes(self) -> int:
        """Count the sequences that are decoded for one answer, at most: two where logits of two prompts are mixed."""
        if isinstance(self.defence, SteppedDefence):
            return len(self.defence.steps) + 1
        return 1 if self.defence.contrast(1.0) is None else 2

    def count_arms(self) -> int:
        """Count its arms under one condition: its strengths."""
        return len(list(self.strengths()))

    def spread(self) -> list[DefenceSpec]:
        """List it alone: it has no grid."""
        return [self]


class StackSpec(Section):
    """Several interventions of the spec at once, by their names, as one arm."""

    kind: Literal["stack"]
    name: Name
    of: list[str] = Field(min_length=2)
    conditions: Conditions = DEFAULT_CONDITIONS

    @field_validator("of", "conditions")
    @classmethod
    def _name_each_once(cls, names: list[str]) -> list[str]:
        return refuse_repeats(names)

    def describe(self) -> dict[str, str]:
        """Its settings for a table."""
        return {"kind": "stack", "of": ", ".join(self.of)}

    def strengths(self) -> Iterator[None]:
        """It has no strength of its own."""
        yield None

    def count_passes(self) -> int:
        """Count the sequences that are decoded for one answer: nothing that mixes logits can be part of it."""
        return 1

    def count_arms(self) -> int:
        """Count its arms under one condition."""
        return 1

    def spread(self) -> list[StackSpec]:
        """List it alone: it has no grid."""
        return [self]


AnyIntervention = InterventionSpec | DefenceSpec | StackSpec


def _choose(given: Any) -> str:
    """Which section an intervention of a spec is, by its kind; the name of the class, as error messages expect."""
    if isinstance(given, Section):
        return type(given).__name__
    kind = given.get("kind", "cmrm") if isinstance(given, Mapping) else "cmrm"
    # A kind may be anything that YAML can hold; `DefenceSpec` says what is wrong with it.
    known = {"cmrm": "InterventionSpec", "stack": "StackSpec"}
    return known.get(kind, "DefenceSpec") if isinstance(kind, str) else "DefenceSpec"


InterventionField = Annotated[
    Annotated[InterventionSpec, Tag("InterventionSpec")]
    | Annotated[DefenceSpec, Tag("DefenceSpec")]
    | Annotated[StackSpec, Tag("StackSpec")],
    Discriminator(_choose),
]


def is_stepped(intervention: InterventionSpec | DefenceSpec | StackSpec) -> bool:
    """Whether an intervention generates several times."""
    return isinstance(intervention, DefenceSpec) and isinstance(intervention.defence, SteppedDefence)


def check_steps(
    interventions: list[InterventionSpec | DefenceSpec | StackSpec], *, conditions: list[Condition]
) -> None:
    """Raise `ValueError` for a defence that starts from plain answers which the spec does not ask for."""
    for one in interventions:
        if not isinstance(one, DefenceSpec) or not isinstance(one.defence, SteppedDefence):
            continue
        if PLAIN in one.defence.steps and (
            absent := [name for name in one.conditions if name not in conditions]
        ):
            raise ValueError(
                f"interventions: {show_value(one.name)} starts from the plain answers under {absent[0]}; name "
                f"{absent[0]} in conditions"
            )


def check_stacks(interventions: list[InterventionSpec | DefenceSpec | StackSpec]) -> None:
    """Raise `ValueError` for a stack of something that cannot be part of one."""
    known = {one.name: one for one in interventions}
    for stack in interventions:
        if not isinstance(stack, StackSpec):
            continue
        for name in stack.of:
            part = known.get(name)
            if part is None or isinstance(part, StackSpec):
                singles = [one.name for one in interventions if not isinstance(one, StackSpec)]
                raise ValueError(
                    f"interventions: the stack {show_value(stack.name)} names {show_value(name)}; it may name "
                    f"{show_names(singles) or 'nothing, since the spec has no other intervention'}"
                )
            if part.count_arms() != 1:
                raise ValueError(
                    f"interventions: {show_value(name)} has several strengths or a grid, and the stack "
                    f"{show_value(stack.name)} needs one; give one of its own to stack"
                )
            if is_stepped(part) or (isinstance(part, DefenceSpec) and part.defence.contrast(1.0) is not None):
                raise ValueError(
                    f"interventions: {show_value(name)} mixes logits or generates several times, and cannot be part "
                    f"of the stack {show_value(stack.name)}; leave it out there"
                )


def _name_option(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
