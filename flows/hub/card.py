"""The card of a run's data set: what was asked and answered, the main table, the columns, and what is not in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import pyarrow as pa
from huggingface_hub import DatasetCardData

from flows.hub.features import list_features
from flows.hub.rows import WrittenTable
from flows.hub.tables import Harmful, TableColumn
from flows.report.loaded_models import describe_model
from flows.report.tables.main import make_main_table
from flows.report.writers.markdown import escape, write_table
from tasks.core.software import describe_software, list_software
from tasks.report.summary import Summary

# Files are Parquet files of this split: what is measured on is no training data.
SPLIT = "test"
SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
LARGER = "10M<n<100M"
MOST_REASONS = 50
# How the hub marks what not everybody should come across.
SENSITIVE = "not-for-all-audiences"


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says: its name, the run, the tables as written, and what became of text, images and questions.

    The first table is the one that is read where none is named.
    `reasons` count quarantined rows by stage, data set and reason. `shifts` are the sha256 digests of Δ's files, by
    key. `lost` counts images that are not there any more; None where the user left images out. `unanswered` counts
    questions that were quarantined in place of an answer. `eval_results` are folders for the models' repositories.
    """

    name: str
    run: str
    summary: Summary
    tables: Sequence[WrittenTable]
    harmful: Harmful
    lost: int | None
    unanswered: int
    reasons: Sequence[tuple[str, str, str, int]]
    shifts: Mapping[str, str]
    eval_results: Sequence[str]

    @property
    def answers(self) -> int:
        """How many answers there are."""
        return sum(one.rows for one in self.tables if one.table.name == "answers")


def write_card(facts: CardFacts) -> str:
    """Write the card: YAML front matter and Markdown."""
    parts = [
        f"---\n{_write_front_matter(facts)}\n---",
        f"# {escape(facts.name)}",
        _introduce(facts),
        _write_main_table(facts.summary),
        _describe_tables(facts),
        _describe_harmful(facts),
        _describe_images(facts),
        _describe_origin(facts),
        _describe_quarantine(facts),
        _WARNINGS,
        _describe_eval_results(facts.eval_results),
        _LICENCE,
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


_WARNINGS = """## Before you use it

* Verdicts are those of judges, which are programs and err. Rates that rest on them do too.
* Answers are a model's: what they say may be wrong, and where a verdict is unsafe, harmful.
* It is what models were measured by. Train or select on it, and the table above says nothing of the result."""

_LICENCE = """## Licence

None is set: questions and images are those of the data sets that the run read, whose licences hold for them, and
answers may fall under the models' terms. Set `license` above before you publish it."""


def _write_front_matter(facts: CardFacts) -> str:
    default = facts.tables[0]
    beside = (one.record for one in facts.summary.backbones)
    bases = [one["id"] for one in (*facts.summary.models, *beside) if _is_on_hub(one)]
    included = [SENSITIVE] if facts.harmful == "include" else []
    data = DatasetCardData(
        pretty_name=facts.name,
        task_categories=["image-text-to-text"],
        size_categories=[next((name for most, name in SIZES if default.rows < most), LARGER)],
        tags=["cmrm", "safety", "activation-steering", *included],
        base_model=bases or None,
        configs=[
            {
                "config_name": one.table.name,
                "data_files": [{"split": SPLIT, "path": f"{one.table.name}/*.parquet"}],
                **({"default": True} if one is default else {}),
            }
            for one in facts.tables
        ],
        dataset_info=[
            {"config_name": one.table.name, "features": list_features(one.table.schema)}
            for one in facts.tables
        ],
    )
    return str(data.to_yaml())


def _introduce(facts: CardFacts) -> str:
    names = facts.summary.table.models() or [str(model["name"]) for model in facts.summary.models]
    models = ", ".join(map(escape, names))
    first = facts.tables[0].table.name
    headline = "\n>\n".join(f"> {escape(line)}" for line in facts.summary.headline.splitlines())
    said = (
        f"What {models} answered with images, without them and under interventions on hidden states (cross-modality "
        "representation manipulation, [CMRM](https://arxiv.org/abs/2410.09047)), and what judges say of each answer"
        if facts.answers
        else f"What {models} was shown to have its hidden states measured; nothing was answered"
    )
    return (
        f"{said}: run `{facts.run}` of `cmrm`.\n\n{headline}\n\n"
        "```python\nimport datasets\n\n"
        f'{first} = datasets.load_dataset("PATH OR OWNER/NAME", "{first}", split="{SPLIT}")\n```'
    )


def _write_main_table(summary: Summary) -> str:
    if not summary.table.rows:
        return ""
    table = make_main_table(summary.table)
    return "## Main table\n\n" + "\n".join(write_table(table, most=table.length)).strip()


def _describe_tables(facts: CardFacts) -> str:
    lines = ["## What is in it", "", "| configuration | rows | |", "|---|--:|---|"]
    lines += [f"| `{one.table.name}` | {one.rows:,} | {one.table.comment} |" for one in facts.tables]
    for one in facts.tables:
        lines += ["", f"### `{one.table.name}`", "", "| column | type | |", "|---|---|---|"]
        lines += [_describe_column(column) for column in one.table.columns]
    return "\n".join(lines)


def _describe_column(column: TableColumn) -> str:
    (feature,) = list_features(pa.schema([(column.name, column.type)]))
    kind = feature.get("dtype") or f"list of {feature.get('length', '')} {feature['list']}".replace("  ", " ")
    return f"| {escape(column.name)} | {kind} | {escape(column.comment)} |"


def _describe_harmful(facts: CardFacts) -> str:
    withheld = sum(one.withheld for one in facts.tables)
    if facts.harmful == "include":
        said = (
            "Questions of harmful samples, their images, and the answers to them are in this data set, as whoever "
            "exported it chose (`--include-harmful`). Some answers do what was asked. Think of who can read it: the "
            "hub can [gate](https://huggingface.co/docs/hub/datasets-gated) a data set."
        )
    else:
        said = (
            "Of harmful samples, question, caption, reference and image are left out, and so are the answers to them "
            f"and judges’ words on these: {withheld:,} rows have `withheld` = true. Their ids, categories, verdicts "
            "and digests are here, so whoever has the same data can join it by `question_digest` and `image_digest`. "
            "Reasons of quarantined rows end where they would quote a row."
        )
    return f"## Harmful text\n\n{said}"


def _describe_images(facts: CardFacts) -> str:
    if facts.lost is None:
        return (
            "## Images\n\nImages were left out (`--images none`); `image_digest` is the sha256 of each file."
        )
    said = (
        "An image is the file that the model was shown, byte by byte; `answers` has it in rows whose condition is "
        "`image`. Under `query` and `caption` there was none, and under the others a meaningless one."
    )
    if facts.summary.imported:
        said += " Of arms of other systems, that is what their files say or what was stated of them."
    if facts.lost:
        said += (
            f" **{facts.lost:,} images are missing**: their files were gone, or others than those that were shown, "
            "when this was written. The cells are empty."
        )
    return f"## Images\n\n{said}"


def _describe_origin(facts: CardFacts) -> str:
    summary = facts.summary
    loaded = (*summary.models, *(one.record for one in summary.backbones))
    sentences = [line for model in loaded for line in describe_model(_hide_place(model))]
    sentences += describe_software(summary.software)
    sentences.append(f"Exported by cmrm {list_software()['cmrm']}.")
    judges = [
        f"Judge {one.name}: {one.kind}"
        + (f", {_hide(one.model)}" if one.model else "")
        + (f", revision {one.revision}" if one.revision else "")
        for one in summary.judges
    ]
    shifts = [
        f"* Δ of {escape(one.model)} with {escape(one.image)}, a {escape(one.method)} over {one.anchors:,} anchors"
        + ("" if one.part == "all" else f", its part {escape(one.part)}")
        + f": key `{one.key}`, sha256 `{facts.shifts.get(one.key, 'unknown')}`"
        for one in summary.shifts
    ]
    imported = [
        f"* Arm {escape(one.name)}: answers of another system, from {escape(one.file)} (sha256 `{one.digest}`), "
        f"{one.used:,} of {one.answers:,} of them used. Nothing proves how they were made"
        + "".join(f"; {escape(name)}: {escape(_hide(value))}" for name, value in one.made_by.items())
        for one in summary.imported
    ]
    lines = [f"* {escape(line)}" for line in [*sentences, *judges]]
    return "\n".join(["## How it was made", "", *lines, *imported, *shifts])


def _describe_quarantine(facts: CardFacts) -> str:
    said = (
        f"{facts.answers + facts.unanswered:,} answers were asked for: {facts.answers:,} are here, and "
        f"{facts.unanswered:,} questions were quarantined in their place."
    )
    if not facts.reasons:
        return f"## Quarantined\n\n{said} No other row was put aside either."
    rows = [
        f"| {escape(stage)} | {escape(dataset)} | {escape(reason)} | {count:,} |"
        for stage, dataset, reason, count in facts.reasons[:MOST_REASONS]
    ]
    more = len(facts.reasons) - MOST_REASONS
    left = [f"\n… and {more:,} more reasons, which the configuration `quarantine` has."] if more > 0 else []
    head = ["| stage | data set | reason | rows |", "|---|---|---|--:|"]
    return "\n".join(["## Quarantined", "", said, "", *head, *rows, *left])


def _describe_eval_results(folders: Sequence[str]) -> str:
    if not folders:
        return ""
    lines = [f"* `hf upload OWNER/MODEL {one} . --create-pr`" for one in folders]
    return (
        "## Evaluation results for the models’ pages\n\n"
        "A model’s page shows results from `.eval_results/` in the model’s own repository "
        "([how](https://huggingface.co/docs/hub/eval-results)). They are here, a file for each arm; keep those that "
        "are of that model as it is loaded from there. The hub shows them once this data set is registered there as a "
        "benchmark whose tasks have these ids.\n\n" + "\n".join(lines)
    )


def _is_on_hub(model: Mapping[str, Any]) -> bool:
    return not str(model["revision"]).startswith("sha256:")


def _hide_place(model: Mapping[str, Any]) -> dict[str, Any]:
    """Name what lies in a folder of this machine by the folder's own name."""
    adapter = model.get("adapter")
    shown = {**model, "id": _hide(model["id"])}
    if adapter is not None:
        shown["adapter"] = {**adapter, "id": _hide(adapter["id"])}
    if (weights := model.get("backbone_weights")) is not None:
        shown["backbone_weights"] = {**weights, "gguf": _hide(weights["gguf"])}
    return shown


def _hide(name: str) -> str:
    # Inspect calls a model in a folder PROVIDER//FOLDER.
    provider, local, folder = name.partition("//")
    if local and provider.replace("-", "_").isidentifier():
        return f"{provider}/{PurePath(folder).name}"
    return PurePath(name).name if PurePath(name).is_absolute() else name
