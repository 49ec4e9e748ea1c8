"""docs/models.md, written from what the conformance suite found: `python -m tests.conformance.page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cmrm.doctor import CHECKS
from cmrm.models.families import FAMILIES
from tests.conformance.builders import NEED_TORCHVISION
from tests.conformance.examining import Examined, examine_all

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
MARKS = {True: "✓", False: "✗", None: "–"}
BEGIN = "<!-- written by python -m tests.conformance.page; not to be edited by hand -->\n"
END = "<!-- end of what is written by the program -->\n"


def write_section(checked: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The table of families and checks, and what each check demands; `checked` has the findings of each family."""
    numbers = " | ".join(str(number) for number in range(1, len(CHECKS) + 1))
    lines = [
        f"| model type | passed | needs | {numbers} |",
        f"| --- | ---: | --- |{' :-: |' * len(CHECKS)}",
    ]
    for name in FAMILIES:
        passed = {one["name"]: one["passed"] for one in checked[name]}
        marks = " | ".join(MARKS[passed.get(check.name)] for check in CHECKS)
        needs = "torchvision" if name in NEED_TORCHVISION else ""
        lines.append(f"| `{name}` | {sum(passed.values())} of {len(CHECKS)} | {needs} | {marks} |")
    demands = [
        f"{number}. **{check.name}**: {_demand(check.run.__doc__)}" for number, check in enumerate(CHECKS, 1)
    ]
    return "\n".join([*lines, "", *demands, ""])


def insert_section(page: str, section: str) -> str:
    """The page with the section in the place of its old one."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def _demand(docstring: str | None) -> str:
    text = " ".join((docstring or "").split())
    return text[:1].lower() + text[1:]


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        checked = Examined("checks", examine_all(Path(folder), ["checks"]))
    PAGE.write_text(
        insert_section(PAGE.read_text(encoding="utf-8"), write_section(checked)), encoding="utf-8"
    )
