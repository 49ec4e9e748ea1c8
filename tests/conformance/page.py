"""docs/model-types.md, written from what the conformance suite found, and the refused types of docs/models.md.

`python -m tests.conformance.page` writes both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cmrm.doctor import CHECKS
from cmrm.models.family_table import FAMILIES
from cmrm.models.refused_types import REFUSED_TYPES, RefusedType
from tests.conformance.builders import NEED_TORCHVISION
from tests.conformance.examining import Examined, examine_all
from tests.conformance.unlisted.seen import SEEN, Seen

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "model-types.md"
PARTS = ("checks", "traits")
# In docs/models.md, what is written by this program.
GUIDE = ROOT / "docs" / "models.md"
BEGIN = "<!-- types that are refused by name: written by python -m tests.conformance.page -->"
END = "<!-- end of the types that are refused by name -->"
UNLISTED = """
## Types that are examined when they are loaded

Of a model of another type that transformers maps to image-text-to-text, a row is
[derived](models.md#a-type-that-is-not-in-the-table). As tiny models of random weights behind their real processor
classes, the types were seen (`python -m tests.conformance.unlisted`) to pass all checks, in the way that is named, or
to fail one:

| model type ({count}) | seen |
| --- | --- |"""
REFUSED = """
## Types that are refused

By name, before any weights are read. A row of your own (`model.family`) goes before this table.

| model type ({count}) | why | instead |
| --- | --- | --- |"""
# How a check begins to say that it does not concern a model.
NOT_APPLIED = ("not used with this model", "prefix sharing is off", "one image alone")
INTRODUCTION = """\
# Model types

<!-- written by python -m tests.conformance.page; not to be edited by hand -->

What the tests find of every type that has a row in the table of model types, each as a tiny model of random weights
behind its real processor class, float32, on a CPU, with {versions}. It says that
blocks, prompts, positions and caches of the type are handled as they must be; your own model's weights are the
[doctor's](models.md#ask-the-doctor-first) business.

* **Input**: several images, video, sound, and media of several kinds (mixed), as [media.md](media.md) says.
* **Checks**: those of `cmrm doctor`, by the numbers below the table.
* **Shared**: what prompts with a common beginning read once: their text, or their image as well.
* **Exports**: the formats of [`cmrm export`](export.md) that take a Δ at the last block of the type.
* **Needs**: where it says torchvision, `pip install 'cmrm[vision]'`: a part of the processor, most often the one for
  videos, is there with it alone.
"""


def write_page(
    checked: Mapping[str, Sequence[Mapping[str, Any]]], traits: Mapping[str, Mapping[str, Any]]
) -> str:
    """The page, of the findings of all checks and of what `find_traits` returns, by family."""
    rows = [_write_row(name, checked[name], traits[name]) for name in FAMILIES]
    demands = [
        f"{number}. **{check.name}**: {_demand(check.run.__doc__)}" for number, check in enumerate(CHECKS, 1)
    ]
    lines = [
        INTRODUCTION.format(versions=read_versions()),
        f"| model type ({len(rows)}) | input | checks | shared | exports | needs |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        UNLISTED.format(count=len(SEEN)),
        *(f"| `{name}` | {_tell(one)} |" for name, one in SEEN.items()),
        REFUSED.format(count=len(REFUSED_TYPES)),
        *(f"| `{name}` | {one.reason} | {one.instead} |" for name, one in REFUSED_TYPES.items()),
        "\n## The checks\n",
        *demands,
    ]
    return "\n".join(lines) + "\n"


def write_guide(text: str) -> str:
    """The page on models, `text`, with the types that are refused for one reason in one line each."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    reasons: dict[RefusedType, list[str]] = {}
    for name, one in REFUSED_TYPES.items():
        reasons.setdefault(one, []).append(f"`{name}`")
    lines = [
        f"* {', '.join(names)}: {one.reason}. {one.instead}."
        for one, names in sorted(reasons.items(), key=lambda item: item[1])
    ]
    return f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}"


def _tell(one: Seen) -> str:
    what = one.way or f"fails the check “{one.fails}”"
    return f"{what}: {one.remark}" if one.remark else what


def read_versions() -> str:
    """The versions of the tested environment, as constraints.txt has them."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE))
    return f"transformers {pinned['transformers']}, torch {pinned['torch']} and Pillow {pinned['pillow']}"


def _write_row(name: str, findings: Sequence[Mapping[str, Any]], traits: Mapping[str, Any]) -> str:
    exports = [kind for kind, refused in traits["exports"].items() if refused is None]
    cells = [
        f"`{name}`",
        ", ".join(traits["inputs"]),
        summarize_checks(findings),
        " and ".join(traits["shared"]) or "nothing",
        "all" if len(exports) == len(traits["exports"]) else ", ".join(exports),
        "torchvision" if name in NEED_TORCHVISION else "",
    ]
    return f"| {' | '.join(cells)} |"


def summarize_checks(findings: Sequence[Mapping[str, Any]]) -> str:
    """How many checks passed, and the numbers of those that failed or do not concern the model."""
    found = {one["name"]: one for one in findings}
    ones = [found.get(check.name) for check in CHECKS]
    failed = [number for number, one in enumerate(ones, 1) if one is None or not one["passed"]]
    apart = [
        number
        for number, one in enumerate(ones, 1)
        if one is not None and one["passed"] and one["detail"].startswith(NOT_APPLIED)
    ]
    parts = [f"all {len(CHECKS)}" if not failed + apart else f"{len(CHECKS) - len(failed) - len(apart)} pass"]
    parts += [f"fails {_list(failed)}"] if failed else []
    parts += [f"{_list(apart)} not used"] if apart else []
    return "; ".join(parts)


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _demand(docstring: str | None) -> str:
    text = " ".join((docstring or "").split())
    return text[:1].lower() + text[1:]


def main() -> None:
    """Examine all families and write the page."""
    with TemporaryDirectory() as folder:
        families = examine_all(Path(folder), PARTS)
    page = write_page(*(Examined(part, families) for part in PARTS))
    PAGE.write_text(page, encoding="utf-8")
    GUIDE.write_text(write_guide(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
