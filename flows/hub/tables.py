"""The tables of the data set: their columns, each with its SQL over the store's views, its type and what it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from storage.sql.views import text
from storage.tables.schemas import KINDS

# What becomes of the text and the images of harmful samples, and of the answers to them.
Harmful = Literal["withhold", "include"]

# As `datasets.Image` stores it: the bytes of the file, and its name without a folder.
IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
VECTOR = "vector"
# A sample that is not found counts as harmful. Of a row that ingest refused nobody knows what it is.
_HARMFUL_SAMPLE = "coalesce(s.harmful, true)"
_HARMFUL_ROW = "coalesce(q.stage = 'ingest' OR s.harmful, true)"
# A reason without the folders of this machine: of a path its name alone.
_REASON = r"regexp_replace(q.reason, '(^|[\s(''\"=])/([^\s/;:,()''\"]+/)+', '\1', 'g')"
# A reason may quote the row, and what another program says of its failure may hold any of it.
_UNQUOTED = (
    rf"regexp_replace(regexp_replace({_REASON}, "
    r"'^(this model fails on it: \w+|judge .*?: \w+|.*?: error): .*', '\1: …', 's'), "
    r"'[''\"].*', '…', 's')"
)
# The names of all tables, whether a run has rows for them or not.
TABLES = ("answers", "samples", "text_verdicts", "captions", "quarantine", "states")
# Numbered ids in the order of their numbers.
_BY_SAMPLE = "{0}.dataset, length({0}.sample_id), {0}.sample_id"
# Stands for the condition of rows whose text is withheld.
_WITHHELD = ""


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """One column. Where text is withheld, `sensitive` ones hold `instead`, as SQL.

    The SQL of an image is its file's name, and that of an arm is null: both are filled in row by row.
    """

    name: str
    type: pa.DataType
    comment: str
    sql: str
    sensitive: bool = False
    instead: str = "NULL"


_QUESTION_DIGEST = TableColumn(
    name="question_digest",
    type=pa.string(),
    comment="sha256 of the question’s UTF-8",
    sql="sha256(s.question)",
)
_IMAGE_DIGEST = TableColumn(
    name="image_digest",
    type=pa.string(),
    comment="sha256 of the file of the sample’s own image",
    sql="s.image_digest",
)


@dataclass(frozen=True, kw_only=True)
class HubTable:
    """One table, a configuration of the data set: its columns, and the view with as many rows as it has.

    `hidden` is the SQL condition of rows whose text can be withheld.
    """

    name: str
    comment: str
    view: str
    columns: tuple[TableColumn, ...]
    source: str
    hidden: str = "false"
    order: str = ""

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of its files."""
        return pa.schema([(column.name, column.type) for column in self.columns])

    def make_query(self, *, harmful: Harmful) -> str:
        """Write the SELECT of its rows, with the columns in order; their names are those of `schema`."""
        hidden = self.hidden if harmful == "withhold" else "false"
        columns = ", ".join(
            f"{_select(column, hidden)} AS c{place}" for place, column in enumerate(self.columns)
        )
        order = f" ORDER BY {self.order}" if self.order else ""
        # All of it is made of constants and quoted texts.
        return f"SELECT {columns} FROM {self.source}{order}"  # noqa: S608 - our own names


@dataclass(frozen=True, kw_only=True)
class JudgeColumns:
    """One judge of a run, and which of its columns have any value beside the verdict."""

    name: str
    extra: tuple[str, ...]


def make_answers_table(judges: Sequence[JudgeColumns], *, order: str) -> HubTable:
    """Make the table of answers: a row for each sample and arm, with the columns of each judge.

    `order` is the SQL of the place of an answer's arm among those of its sample.
    """
    verdicts, aggregates = _make_judge_columns(judges)
    same = " AND ".join(
        f"v.{name} = r.{name}" for name in ("model", "dataset", "sample_id", "condition", "intervention")
    )
    grouped = "SELECT model, dataset, sample_id, condition, intervention, alpha, answer_digest"
    judged = f"({', '.join([grouped, *aggregates])} FROM judgements GROUP BY ALL)"
    return HubTable(
        name="answers",
        view="responses",
        comment="one row for each sample and arm: the answer, and what each judge says of it",
        columns=(
            _stored("responses", "model", "r.model"),
            TableColumn(
                name="arm",
                type=pa.string(),
                comment="name of the row in the table above: condition, or intervention and strength; NAME: STEP is "
                "what a defence asked before its answer, which is not judged",
                sql="CAST(NULL AS VARCHAR)",
            ),
            _stored("responses", "dataset", "r.dataset"),
            _stored("responses", "sample_id", "r.sample_id"),
            _stored("samples", "harmful", _HARMFUL_SAMPLE),
            _stored("samples", "question", "s.question", sensitive=True),
            _make_image("CASE WHEN r.condition = 'image' THEN s.image END", "the image, if it was shown"),
            _stored("responses", "answer", "r.answer", sensitive=True),
            *verdicts,
            _stored("samples", "reference", "s.reference", sensitive=True),
            _stored("samples", "category", "s.category"),
            _stored("responses", "condition", "r.condition"),
            _stored("responses", "intervention", "r.intervention"),
            _stored("responses", "alpha", "r.alpha"),
            _stored("responses", "level", "r.level"),
            _stored("responses", "tokens", "r.tokens"),
            _stored("responses", "finish_reason", "r.finish_reason"),
            _stored("responses", "prompt_tokens", "r.prompt_tokens"),
            _QUESTION_DIGEST,
            TableColumn(
                name="answer_digest",
                type=pa.string(),
                comment="sha256 of the answer as a JSON string, in UTF-8",
                sql="r.answer_digest",
            ),
            _IMAGE_DIGEST,
            _make_withheld(),
        ),
        source=f"responses r LEFT JOIN samples s USING (dataset, sample_id) LEFT JOIN {judged} v ON {same} "
        "AND v.answer_digest = r.answer_digest AND v.alpha IS NOT DISTINCT FROM r.alpha",
        hidden=_HARMFUL_SAMPLE,
        order=f"{_BY_SAMPLE.format('r')}, {order}",
    )


def make_samples_table() -> HubTable:
    """Make the table of samples: anchors and targets."""
    return HubTable(
        name="samples",
        view="samples",
        comment="one row for each sample: anchors, which measure Δ, and targets, which are answered",
        columns=(
            _stored("samples", "dataset", "s.dataset"),
            _stored("samples", "sample_id", "s.sample_id"),
            _stored("samples", "split", "s.split"),
            _stored("samples", "harmful", "s.harmful"),
            _stored("samples", "question", "s.question", sensitive=True),
            _make_image("s.image", "the sample’s own image"),
            TableColumn(
                name="media",
                type=pa.list_(pa.string()),
                comment="of a sample with several images, video or sound: the names of the files, in order, by kind",
                sql="list_transform(s.media, lambda one: one.kind || ':' || one.name)",
                sensitive=True,
            ),
            _stored("samples", "caption", "s.caption", sensitive=True),
            _stored("samples", "reference", "s.reference", sensitive=True),
            _stored("samples", "category", "s.category"),
            TableColumn(
                name="twin_digest",
                type=pa.string(),
                comment="sha256 of what a harmful sample and its harmless twin share; null without a twin",
                sql="sha256(s.twin)",
            ),
            _QUESTION_DIGEST,
            _IMAGE_DIGEST,
            _make_withheld(),
        ),
        source="samples s",
        hidden=_HARMFUL_SAMPLE,
        order=_BY_SAMPLE.format("s"),
    )


def make_text_verdicts_table() -> HubTable:
    """Make the table of verdicts on texts that are no answers."""
    names = ("model", "dataset", "sample_id", "condition", "intervention", "alpha")
    said = ("judge", "subject", "ended", "verdict", "refused", "score")
    return HubTable(
        name="text_verdicts",
        view="text_judgements",
        comment="one row for each judge and text that is no answer: a question alone, or a reasoning trace",
        columns=(
            *(_stored("text_judgements", name, f"t.{name}") for name in (*names, *said)),
            _stored("text_judgements", "raw", "t.raw", sensitive=True),
            _make_withheld(),
        ),
        source="text_judgements t LEFT JOIN samples s USING (dataset, sample_id)",
        hidden=_HARMFUL_SAMPLE,
        order=f"t.judge, t.subject, {_BY_SAMPLE.format('t')}, t.model, t.intervention, t.condition, t.alpha",
    )


def make_captions_table() -> HubTable:
    """Make the table of captions that the run generated, which stand for images under the condition `caption`."""
    return HubTable(
        name="captions",
        view="captions",
        comment="one row for each caption that the run generated, to be shown under the condition caption",
        columns=(
            *(_stored("captions", name, f"c.{name}") for name in ("model", "dataset", "sample_id", "style")),
            _stored("captions", "caption", "c.caption", sensitive=True),
            _stored("captions", "prompt", "c.prompt"),
            _stored("captions", "tokens", "c.tokens"),
            _stored("captions", "finish_reason", "c.finish_reason"),
            _make_withheld(),
        ),
        source="captions c LEFT JOIN samples s USING (dataset, sample_id)",
        hidden=_HARMFUL_SAMPLE,
        order=f"{_BY_SAMPLE.format('c')}, c.model, c.style",
    )


def make_quarantine_table() -> HubTable:
    """Make the table of quarantined rows."""
    return HubTable(
        name="quarantine",
        view="quarantine",
        comment="one row for each input that a stage put aside, with the reason",
        columns=(
            _stored("quarantine", "stage", "q.stage"),
            _stored("quarantine", "dataset", "q.dataset"),
            _stored("quarantine", "sample_id", "q.sample_id"),
            _stored("quarantine", "line", "q.line"),
            _stored("quarantine", "reason", _REASON, sensitive=True, instead=_UNQUOTED),
            _stored("quarantine", "raw", "q.raw", sensitive=True),
            _make_withheld(),
        ),
        source="quarantine q LEFT JOIN samples s USING (dataset, sample_id)",
        hidden=_HARMFUL_ROW,
        order=f"q.stage, {_BY_SAMPLE.format('q')}, q.line, q.reason",
    )


def make_states_table(width: int | None) -> HubTable:
    """Make the table of hidden states; `width` is that of all of them, None where models have several."""
    names = ("model", "dataset", "sample_id", "condition", "intervention", "alpha", "position", "block")
    kind = pa.list_(pa.float32()) if width is None else pa.list_(pa.float32(), width)
    return HubTable(
        name="states",
        view="hidden_states",
        comment="one row for each hidden state: sample, condition, arm, block and position",
        columns=(
            *(_stored("hidden_states", name, f"h.{name}") for name in names),
            TableColumn(
                name=VECTOR, type=kind, comment=_describe("hidden_states", VECTOR), sql=f"h.{VECTOR}"
            ),
        ),
        source="hidden_states h",
    )


def drop_images(table: HubTable) -> HubTable:
    """Leave out the column of images."""
    kept = tuple(column for column in table.columns if column.type != IMAGE)
    return replace(table, columns=kept)


def _select(column: TableColumn, hidden: str) -> str:
    sql = hidden if column.sql == _WITHHELD else column.sql
    return f"CASE WHEN {hidden} THEN {column.instead} ELSE {sql} END" if column.sensitive else sql


def _make_judge_columns(judges: Sequence[JudgeColumns]) -> tuple[list[TableColumn], list[str]]:
    """Make the columns of judges, and the SQL that gathers one answer's verdicts into one row."""
    columns, aggregates = [], []
    for number, judge in enumerate(judges):
        for field in ("verdict", *judge.extra):
            own = f"{field}_{number}"
            stored = _stored("judgements", field, f"v.{own}", sensitive=field == "raw")
            columns.append(
                TableColumn(
                    name=f"{field}_{judge.name}",
                    type=stored.type,
                    comment=f"{judge.name}: {stored.comment}",
                    sql=stored.sql,
                    sensitive=stored.sensitive,
                )
            )
            aggregates.append(f"any_value({field}) FILTER (WHERE judge = {text(judge.name)}) AS {own}")
    return columns, aggregates


def _stored(kind: str, name: str, sql: str, *, sensitive: bool = False, instead: str = "NULL") -> TableColumn:
    """Make a column of a view's own, with its type and what the store says of it."""
    field = KINDS[kind].schema.field(name)
    return TableColumn(
        name=name,
        type=field.type,
        comment=_describe(kind, name),
        sql=sql,
        sensitive=sensitive,
        instead=instead,
    )


def _describe(kind: str, name: str) -> str:
    comment: bytes = KINDS[kind].schema.field(name).metadata[b"comment"]
    return comment.decode()


def _make_image(sql: str, comment: str) -> TableColumn:
    return TableColumn(name="image", type=IMAGE, comment=comment, sql=sql, sensitive=True)


def _make_withheld() -> TableColumn:
    return TableColumn(
        name="withheld",
        type=pa.bool_(),
        comment="whether text and image are left out here, as the sample is harmful",
        sql=_WITHHELD,
    )
