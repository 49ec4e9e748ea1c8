"""`sheet.csv` and `sheet.html`: a sheet's answers to label in a spreadsheet, or by keyboard in a browser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmrm.errors import UserError
from cmrm.prompts.data_uri import to_data_uri
from flows.report.thumbnails import SampleImage, Size, Thumbnails, make_thumbnails
from flows.report.writers.exports import disarm
from flows.report.writers.html import read_assets, render_page
from flows.sql.export import open_output
from tasks.calibrate.sheet import Sheet
from tasks.calibrate.texts import SheetText
from tasks.report.figure import to_csv

CSV, PAGE = "sheet.csv", "sheet.html"
# For a line break in a cell; the page has the text as it is.
LINE_BREAK = " ⏎ "
# Enough to read the typography that attacks are written in.
THUMBNAIL = Size(384, 75)
TEMPLATES = Path(__file__).parent / "templates"


def make_folder(folder: Path) -> None:
    """Make the folder that files go to; raises `UserError` if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {folder}: cannot be made ({error.strerror or error}); name a folder"
        ) from None


def write_sheet(
    sheet: Sheet, texts: Mapping[str, SheetText], folders: Mapping[str, Path | None], *, out: Path
) -> Thumbnails:
    """Write a sheet's files to a folder, replacing earlier ones; `folders` are those of the data sets' images.

    Raises `UserError` if they cannot be written.
    """
    make_folder(out)
    # In the order of the sheet: that of the run's files would follow the arms.
    shown = [texts[row.id] for row in sheet.rows]
    named = [image for text in shown if (image := _find_image(text)) is not None]
    thumbnails = make_thumbnails(named, [folders], size=THUMBNAIL)
    with open_output(out / CSV) as stream:
        stream.write(_write_csv(sheet, texts))
    with open_output(out / PAGE) as stream:
        stream.write(_write_page(sheet, texts, thumbnails).encode("utf-8", "replace"))
    return thumbnails


def _write_csv(sheet: Sheet, texts: Mapping[str, SheetText]) -> bytes:
    return to_csv(
        [
            {
                "sheet": sheet.name,
                "id": row.id,
                "question": _clean(texts[row.id].question),
                "answer": _clean(texts[row.id].answer),
                "label": "",
                "labeller": "",
            }
            for row in sheet.rows
        ]
    )


def _clean(text: str) -> str:
    """One line: an answer of a thousand line breaks, or of lines with commas, would read as a table gone wrong."""
    # Half a surrogate pair, which JSON may hold, has no bytes in UTF-8.
    encodable = text.encode("utf-8", "replace").decode()
    return disarm(LINE_BREAK.join(encodable.splitlines()))


def _write_page(sheet: Sheet, texts: Mapping[str, SheetText], thumbnails: Thumbnails) -> str:
    return render_page(
        "sheet.html.jinja",
        style="\n".join((read_assets("css", ("theme.css",)), _read("sheet.css"))),
        script="\n".join((read_assets("js", ("csv.js",)), _read("sheet.js"))),
        folder=TEMPLATES,
        data={
            "sheet-data": {
                "sheet": sheet.name,
                "images": [to_data_uri(one, kind="image/webp") for one in thumbnails.files],
                "rows": [_describe(row.id, texts[row.id], thumbnails) for row in sheet.rows],
            }
        },
        sheet=sheet.name,
        count=len(sheet.rows),
    )


def _describe(name: str, text: SheetText, thumbnails: Thumbnails) -> dict[str, Any]:
    image = _find_image(text)
    place = None if image is None else thumbnails.find(image)
    return {
        "id": name,
        "question": text.question,
        "answer": text.answer,
        "letters": text.letters,
        "image": None if place == "missing" else place,
        "lost": place == "missing",
    }


def _find_image(text: SheetText) -> SampleImage | None:
    return None if text.image is None else SampleImage(text.dataset, text.image, kind=text.kind)


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
