"""Entries of a bibliography as BibTeX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flows.report.writers.exports import escape

# Written as they are: addresses of a form that was checked before.
RAW = frozenset(("url", "doi", "eprint"))
# BibTeX counts braces even where they are escaped.
BRACES = str.maketrans("", "", "{}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry: its type, such as `misc`, the key that a paper cites, and its fields.

    `authors` are people as `Family, Given`, or names of organisations, which are never parsed.
    """

    kind: str
    key: str
    title: str
    authors: tuple[str, ...] = ()
    organisations: tuple[str, ...] = ()
    fields: Mapping[str, str]


def write_bibtex(entries: Iterable[Entry]) -> str:
    """Write the entries, each once; keys that are taken get a number."""
    kept = [*{(one.key, one.title, *one.fields.items()): one for one in entries}.values()]
    taken: Counter[str] = Counter()
    lines = []
    for one in kept:
        taken[one.key] += 1
        key = one.key if taken[one.key] == 1 else f"{one.key}-{taken[one.key]}"
        lines.append(f"@{one.kind}{{{key},")
        lines += [f"  {name} = {{{value}}}," for name, value in _list_fields(one).items()]
        lines += ["}", ""]
    return "\n".join(lines)


def make_key(text: str) -> str:
    """Make a key of a name: its ASCII letters and digits, lower case, the rest as single hyphens."""
    kept = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in text.casefold())
    return "-".join(kept.split()) or "unnamed"


def _list_fields(entry: Entry) -> dict[str, str]:
    people = [_write(one) for one in entry.authors]
    people += [f"{{{_write(one)}}}" for one in entry.organisations]
    return {
        **({"author": " and ".join(people)} if people else {}),
        # Braces keep the capitals.
        "title": f"{{{_write(entry.title)}}}",
        **{name: value if name in RAW else _write(value) for name, value in entry.fields.items()},
    }


def _write(text: str) -> str:
    return escape(text.translate(BRACES).replace("\\", ""))
