"""The summary of a run: all that its report shows, as the report stage stores it in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, TypeVar

from cmrm.errors import UserError
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.report.backbones import Backbone, BackboneBlock
from tasks.report.captions import CaptionSummary
from tasks.report.categories import CategoryRate
from tasks.report.defences import DefenceTable
from tasks.report.imported import ImportedArm, ImportedChange
from tasks.report.judge_costs import JudgeTotals
from tasks.report.questions import QuestionRate
from tasks.report.reasoning import ReasoningRate
from tasks.report.table import Table
from tasks.report.twins import TwinRate
from tasks.shards.precision import Precision

# Raise it when a key of the JSON changes its meaning or goes; a new key with a default does not need it.
SCHEMA = 1

Record = Mapping[str, Any]
Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class QuarantineCount:
    """How many rows of a data set a stage quarantined for one reason."""

    stage: str
    dataset: str
    reason: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class WithoutEffect:
    """Of `prompts` steered answers, how many have a state that did not move: αΔ was lost in the dtype's rounding."""

    model: str
    intervention: str
    alpha: float
    prompts: int
    without_effect: int


@dataclass(frozen=True, kw_only=True)
class ShiftSummary:
    """One dataset-level Δ or a part of it: its key, the meaningless image, the method, and the number of anchors."""

    key: str
    model: str
    image: str
    method: str
    anchors: int
    part: str = "all"

    def to_json(self) -> dict[str, Any]:
        """As JSON types, without a part where it is all of Δ, as in earlier releases."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("part", "all")}


@dataclass(frozen=True, kw_only=True)
class StimulusSummary:
    """What a model's vision tower saw of a meaningless image, as `cmrm.models.stimulus.Stimulus` says it.

    `size_from` is `family` or `spec`. `stated_contrast` is what the spec asks of noise, None for noise as it is drawn.
    """

    model: str
    image: str
    width: int
    height: int
    size_from: str
    low: Sequence[float]
    high: Sequence[float]
    contrast: Sequence[float] | None
    uniform: bool
    tokens: int
    distinct: int | None
    stated_contrast: float | None = None


@dataclass(frozen=True, kw_only=True)
class FigureCaption:
    """One figure of the report: the name of its files, and its caption."""

    name: str
    caption: str


# The keys that hold a list of JSON objects, and those whose objects have a type.
MAPPINGS = (
    "models",
    "curves",
    "states",
    "overhead",
    "agreement",
    "parts",
    "directions",
    "direction_cosines",
    "turned",
    "state_blocks",
)
RECORDS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "judges": JudgeTotals,
        "quarantined": QuarantineCount,
        "without_effect": WithoutEffect,
        "precision": Precision,
        "shifts": ShiftSummary,
        "captions": CaptionSummary,
        "categories": CategoryRate,
        "questions": QuestionRate,
        "reasoning": ReasoningRate,
        "twins": TwinRate,
        "stimuli": StimulusSummary,
        "figures": FigureCaption,
        "imported": ImportedArm,
        "imported_changes": ImportedChange,
        "backbones": Backbone,
        "backbone_blocks": BackboneBlock,
    }
)
# The keys that only some runs have.
OPTIONAL = frozenset(
    (
        "state_blocks",
        "parts",
        "directions",
        "direction_cosines",
        "turned",
        "categories",
        "questions",
        "reasoning",
        "twins",
        "defences",
        "captions",
        "stimuli",
        "imported",
        "imported_changes",
        "backbones",
        "backbone_blocks",
    )
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The summary of a run. `schema` is that of the JSON, `version` that of the report stage.

    `models` are as `ModelUse.describe` returns them; `curves`, `states`, `overhead` and `agreement` as `make_curves`,
    `describe_panel`, `describe_costs` and `describe_agreement` do. `software` lists versions by package.
    """

    schema: int = SCHEMA
    version: int
    title: str | None
    headline: str
    models: tuple[Record, ...]
    judges: tuple[JudgeTotals, ...]
    table: Table
    curves: tuple[Record, ...]
    states: tuple[Record, ...]
    overhead: tuple[Record, ...]
    agreement: tuple[Record, ...]
    quarantined: tuple[QuarantineCount, ...]
    # Earlier releases wrote none of these three.
    without_effect: tuple[WithoutEffect, ...] = ()
    precision: tuple[Precision, ...] = ()
    software: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shifts: tuple[ShiftSummary, ...]
    figures: tuple[FigureCaption, ...]
    # Only of a run that takes Δ apart: the rows of `shift_parts`, as `read_parts` returns them.
    parts: tuple[Record, ...] = ()
    # Only of a run with directions: the rows of two tables, and of answers that turned unsafe, as `gather_directions`
    # returns them.
    directions: tuple[Record, ...] = ()
    direction_cosines: tuple[Record, ...] = ()
    turned: tuple[Record, ...] = ()
    # Only of a run with states of text and images: rows by block, as `BlockMeasures` collects them.
    state_blocks: tuple[Record, ...] = ()
    # Only of a run with data sets that have categories; earlier releases did not rate them.
    categories: tuple[CategoryRate, ...] = ()
    # Only of a run with judges of questions.
    questions: tuple[QuestionRate, ...] = ()
    # Only of a run with a model whose answers have traces.
    reasoning: tuple[ReasoningRate, ...] = ()
    # Only of a run with data sets of harmful samples and their harmless twins.
    twins: tuple[TwinRate, ...] = ()
    # Only of a run with defences of other kinds than CMRM.
    defences: DefenceTable | None = None
    # Only of a run that generated captions; the JSON of others lacks the key.
    captions: tuple[CaptionSummary, ...] = ()
    # Only of a run that showed a meaningless image; earlier releases did not measure them.
    stimuli: tuple[StimulusSummary, ...] = ()
    # Only of a run with arms that other systems answered.
    imported: tuple[ImportedArm, ...] = ()
    imported_changes: tuple[ImportedChange, ...] = ()
    # Only of a run with text-only models beside others.
    backbones: tuple[Backbone, ...] = ()
    backbone_blocks: tuple[BackboneBlock, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            **{name: value for name, value in own.items() if name not in OPTIONAL},
            **({} if self.defences is None else {"defences": self.defences.to_json()}),
            **{
                name: [dict(one) for one in own[name]]
                for name in MAPPINGS
                if own[name] or name not in OPTIONAL
            },
            **{
                name: [asdict(one) for one in own[name]]
                for name in RECORDS
                if own[name] or name not in OPTIONAL
            },
            "shifts": [one.to_json() for one in self.shifts],
            "table": self.table.to_json(),
            "software": {name: list(versions) for name, versions in self.software.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Summary:
        """Restore a summary from `to_json` of this or an earlier release.

        Raises `UserError` for a newer schema, and for a key that is missing or has another shape.
        """
        # Earlier releases wrote the same keys without a schema.
        schema = content.get("schema", SCHEMA)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise UserError(f"it has schema {schema} and this release reads schema {SCHEMA}")
        try:
            known = {one.name: content[one.name] for one in fields(cls) if one.name in content}
            return cls(
                **{
                    **known,
                    **{name: tuple(known[name]) for name in MAPPINGS if name in known},
                    **{
                        name: tuple(_restore(kind, one) for one in known[name])
                        for name, kind in RECORDS.items()
                        if name in known
                    },
                    "schema": SCHEMA,
                    "table": Table.from_json(known["table"]),
                    "defences": known.get("defences") and DefenceTable.from_json(known["defences"]),
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"a key is missing or has another shape ({error})") from error


def write_summary(summary: Summary) -> bytes:
    """Serialize a summary as JSON, UTF-8."""
    return json.dumps(summary.to_json(), ensure_ascii=False, indent=1).encode()


def read_summary(store: Store, report: Manifest) -> Summary:
    """Read the summary that the report stage stored under a manifest.

    Raises `UserError` if this release cannot read it, `StoreError` if it is missing.
    """
    (path,) = (path for path in report.paths("reports") if path.endswith(".json"))
    data = store.read(path)
    try:
        content = json.loads(data)
        if not isinstance(content, dict):
            raise UserError("it is no JSON object")
        return Summary.from_json(content)
    except (ValueError, UserError) as error:
        raise UserError(
            f"cannot read the summary {store.url}/{path}: {error}; use the release that wrote it, or remove the file "
            "and run the spec again, which makes it again."
        ) from error


def _restore(kind: type[Kind], record: Record) -> Kind:
    """Make a typed record of the keys that it knows; a later release may add others."""
    return kind(**{one.name: record[one.name] for one in fields(kind) if one.name in record})  # type: ignore[arg-type] # a dataclass
