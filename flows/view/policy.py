"""The Content-Security-Policy that a page states for itself, as the header that it is served with."""

from __future__ import annotations

import re
from html import unescape

# A page states it before anything that could act; the first bytes hold it.
HEAD_BYTES = 8192
_STATED = re.compile(rb'<meta http-equiv="Content-Security-Policy" content="([^"]*)">')
_DIRECTIVE = re.compile(r"[a-z]+(?:-[a-z]+)+")
# What a page of ours may allow itself: nothing from elsewhere.
_SOURCE = re.compile(r"'none'|'self'|data:|blob:|'sha256-[A-Za-z0-9+/]{43}='")
# For a page that states none, or one that allows more: its text alone.
STILL = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
# A report is a file of the store: it runs its own script apart from this page's origin, cookie and answers.
APART = "sandbox allow-scripts allow-downloads"
FRAMES = "frame-ancestors 'none'"


def make_own_header(page: str) -> str:
    """Make the header of a page of this server: what it states, and no frame around it."""
    return f"{_read_stated(page.encode()) or STILL}; {FRAMES}"


def make_stored_header(page: bytes) -> str:
    """Make the header of a page from the store, which keeps it from all but its own style and script.

    A page that states no policy, or one that allows anything from elsewhere, gets no script.
    """
    stated = _read_stated(page)
    if stated is None or "'self'" in stated:
        return f"{STILL}; {FRAMES}; sandbox"
    return f"{stated}; {FRAMES}; {APART}"


def _read_stated(page: bytes) -> str | None:
    found = _STATED.search(page[:HEAD_BYTES])
    if found is None:
        return None
    text = unescape(found[1].decode("ascii", "replace"))
    directives = [one.split() for one in text.split(";") if one.strip()]
    if [*directives[:1]] != [["default-src", "'none'"]]:
        return None
    for name, *sources in directives:
        if _DIRECTIVE.fullmatch(name) is None or any(_SOURCE.fullmatch(one) is None for one in sources):
            return None
    return "; ".join(" ".join(one) for one in directives)
