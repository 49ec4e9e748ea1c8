"""HADES: harmful instructions in five scenarios, each with an image of what the instruction names.

Get the export from Hugging Face `Monosail/HADES` (split `test`), or the folders `instructions` and
`optimized_SD_images` from the link in the README of GitHub `AoiDragon/HADES`; licence MIT.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from cmrm.datasets.documents import read_entries
from cmrm.datasets.fields import RowError, get_id, get_plain, get_text, get_text_or_none
from cmrm.datasets.format import Format, OpenRows
from cmrm.datasets.parquet_rows import find_shards, get_held_image, read_export
from cmrm.datasets.rows import Record, make_samples
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample

COLUMNS = frozenset(("id", "scenario", "keywords", "step", "instruction", "image"))
# Each instruction has an image for each of six steps; the benchmark counts the last.
LAST_STEP = "5"


def read_hades(
    path: Path, *, dataset: str, open_rows: OpenRows | None, images: Path | None
) -> Iterator[Sample | Rejected]:
    """Read the Parquet export (a file or a folder), or `<scenario>.json`, a JSON list (one or a folder of them).

    Fields `id`, `keywords`, `instruction`; the export has `scenario`, `step` and `image` too, and its rows of the last
    step, 5, are kept. With JSON, the image is `<scenario>/<id>/opt_5.jpg`. The question is the instruction as it
    stands, and not the benchmark's variant that names the image in place of the keywords. id = scenario-id; the
    category is the scenario; the keywords are the caption, and decide the side of the split. Raises `UserError` if no
    row is of the last step.
    """
    files = [path] if not path.is_dir() else sorted(one for one in path.glob("*.json") if one.is_file())
    if files and (path.is_dir() or path.suffix.lower() == ".json"):
        for file in files:
            entries = read_entries(file, dataset=dataset, containers=("list",))
            make = partial(_make, dataset=dataset, name=partial(_name_file, scenario=file.stem))
            yield from make_samples(entries, make, dataset=dataset, id_field="id")
        return
    if open_rows is None:
        raise UserError(f"{path} is no .json file, and nothing here reads Parquet; give the instructions.")
    records = _keep_last_step(read_export(find_shards(path), open_rows, columns=COLUMNS), path)
    make = partial(_make, dataset=dataset, name=partial(_name_held, images=images, dataset=dataset))
    yield from make_samples(records, make, dataset=dataset, id_field="id")


def _make(record: Record, *, dataset: str, name: Callable[[Record], tuple[str, str]]) -> Sample:
    fields = record.fields
    question = get_text(fields, "instruction")
    keywords = get_text_or_none(fields, "keywords")
    scenario, image = name(record)
    return Sample(
        id=f"{scenario}-{get_id(fields, 'id')}",
        dataset=dataset,
        question=question,
        harmful=True,
        image=image,
        caption=keywords,
        category=scenario,
        group=keywords,
        line=record.line,
    )


def _name_file(record: Record, *, scenario: str) -> tuple[str, str]:
    return scenario, f"{scenario}/{get_id(record.fields, 'id')}/opt_{LAST_STEP}.jpg"


def _name_held(record: Record, *, images: Path | None, dataset: str) -> tuple[str, str]:
    get_plain(record.fields, "step")
    scenario = get_id(record.fields, "scenario")
    return scenario, get_held_image(record.fields, "image", images=images, dataset=dataset)


def _keep_last_step(records: Iterable[Record], path: Path) -> Iterator[Record]:
    """Skip the rows of other steps; a row with an invalid step is kept, to be rejected."""
    counts: Counter[str] = Counter()
    for record in records:
        step = _get_step(record)
        counts[step or "none"] += 1
        if step is None or step == LAST_STEP:
            yield record
    if counts and not counts[LAST_STEP]:
        found = ", ".join(f"{name} ({count})" for name, count in counts.most_common(10))
        raise UserError(f"{path} has no row of step {LAST_STEP}; there are {found}. Give all of the export.")


def _get_step(record: Record) -> str | None:
    try:
        return get_plain(record.fields, "step")
    except RowError:
        return None


FORMAT = Format(
    read=read_hades,
    harmful=True,
    needs=frozenset(("images", "open_rows")),
    title="HADES",
    address="https://huggingface.co/datasets/Monosail/HADES",
)
