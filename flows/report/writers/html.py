"""`report.html`: report and answers as one self-contained page that makes no network request."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from flows.report.answers_data import PageData
from flows.report.document import Document
from flows.report.stimulus_pictures import StimulusPicture

TEMPLATES = Path(__file__).parents[1] / "templates"
ASSETS = Path(__file__).parents[1] / "assets"
# One file a concern, in the order in which later ones use or overrule earlier ones.
STYLES = (
    "theme.css",
    "frame.css",
    "tables.css",
    "figures.css",
    "controls.css",
    "samples.css",
    "sample_parts.css",
    "states.css",
    "print.css",
)
SCRIPTS = (
    "page.js",
    "frame.js",
    "csv.js",
    "sample_data.js",
    "differences.js",
    "sample_view.js",
    "sample_filters.js",
    "sample_export.js",
    "samples.js",
    "sample_keys.js",
    "maps.js",
    "plot.js",
    "states.js",
)
# Inside a script element these could close it or open a comment.
UNSAFE = str.maketrans({letter: f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"})
# Tables with more rows are collapsed on screen and expanded in print.
LONG_TABLE = 40
# Lines of the verdict above the first figures; the others are collapsed, so that the figures are on the first screen.
# A page of six runs has five, and what regressed must not be among the collapsed.
MOST_VERDICT = 5


def write_html(
    document: Document,
    *,
    figures: Mapping[str, bytes],
    answers: PageData,
    stimuli: Sequence[StimulusPicture],
    total: int,
    command: str,
    counterparts: Sequence[str] = (),
    states: Mapping[str, Any] | None = None,
) -> str:
    """Write the page.

    `figures` are SVG by name; `answers` are those of some of `total` samples, and `command` queries all of them;
    `stimuli` are the run's meaningless images, `counterparts` say what stood in for other media, and `states` are its
    maps as `describe_maps` makes them. Everything but the templates is escaped, and the Content-Security-Policy admits
    no other style or script.
    """
    return render_page(
        "report.html.jinja",
        style=read_assets("css", STYLES),
        script=read_assets("js", SCRIPTS),
        folder=TEMPLATES,
        data={**answers.first, **({"states-data": states} if states else {})},
        later=answers.later,
        document=document,
        sections=[one for one in document.sections if one.name != "provenance"],
        provenance=[one for one in document.sections if one.name == "provenance"],
        figures={
            name: f"data:image/svg+xml;base64,{b64encode(svg).decode()}" for name, svg in figures.items()
        },
        shown=answers.shown,
        mapped=states is not None,
        stimuli=stimuli,
        counterparts=counterparts,
        total=total,
        command=command,
        long_table=LONG_TABLE,
        most_verdict=MOST_VERDICT,
    )


def render_page(
    template: str,
    *,
    style: str,
    script: str,
    folder: Path,
    data: Mapping[str, Any],
    later: Mapping[str, Any] | None = None,
    more_policy: str = "",
    **values: Any,
) -> str:
    """Render a template of a folder as a page of its own, with style, script, and JSON for the script by element id.

    The data of `later` follow the script, which runs before they are read. Values are escaped; style and script are
    ours. The Content-Security-Policy admits no other style or script, no request, and images from data URIs alone;
    `more_policy` adds directives, after a semicolon.
    """
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        f"base-uri 'none'; form-action 'none'{more_policy}"
    )
    return _load_template(folder, template).render(
        policy=policy,
        style=Markup(style),  # noqa: S704 # our own files, here and in the next line
        script=Markup(script),  # noqa: S704
        data=_embed(data),
        later=_embed(later or {}),
        **values,
    )


def _embed(data: Mapping[str, Any]) -> dict[str, Markup]:
    return {name: Markup(embed_json(one)) for name, one in data.items()}  # noqa: S704 # escaped by embed_json


def embed_json(content: Any) -> str:
    """Encode JSON for embedding in a script element."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).translate(UNSAFE)


@cache
def _load_template(folder: Path, name: str) -> Template:
    """Compile a template once in a process, which takes longer than rendering a small page."""
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def read_assets(folder: str, names: Sequence[str]) -> str:
    """Read files of the page's assets, `css` or `js`, as one text."""
    return "\n".join((ASSETS / folder / name).read_text(encoding="utf-8") for name in names)


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
