"""Texts for Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

# All that `text()` is of by default. That one asks Python of each of a million characters whether UTF-8 has it, which
# takes seconds where no earlier run has left the answer behind; it has all but the surrogates.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
