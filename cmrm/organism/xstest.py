"""The organism's version of XSTest: harmless instructions in the words of a jailbreak, and forbidden ones in the same.

Published layout of version 2: a CSV file whose types that begin with `contrast_` are unsafe. It has no
pictures. Every instruction is a role play, a template that training uses for forbidden and harmless ones alike.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence

from cmrm.organism.questions import ROLE_PLAY_TEMPLATES, instruct, pairs
from cmrm.organism.writers import WriterContext

SAFE_ROWS = 60
UNSAFE_ROWS = 40
COLUMNS = ("id_v1", "id_v2", "type", "prompt", "focus", "note")
SAFE_TYPE = "safe_contexts"


def write_xstest(context: WriterContext) -> None:
    """Write the prompts: first the safe ones, then the unsafe ones."""
    # VLSafe's half of the pairs, which no other data set uses in role play.
    forbidden = context.draw_pairs(part=0)
    safe = _draw(context, pairs("harmless", context.split), count=context.count(SAFE_ROWS))
    unsafe = _draw(context, forbidden, count=context.count(UNSAFE_ROWS))
    rows = [(SAFE_TYPE, prompt, verb, "fiction") for prompt, verb in safe]
    # As upstream, only safe prompts have a note and a number in version 1.
    rows += [(f"contrast_{SAFE_TYPE}", prompt, verb, "") for prompt, verb in unsafe]
    with context.files.xstest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, (kind, *rest) in enumerate(rows, start=1):
            writer.writerow((f"v1-{number}" if kind == SAFE_TYPE else "", f"v2-{number}", kind, *rest))


def _draw(context: WriterContext, asked: Sequence[tuple[str, str]], *, count: int) -> list[tuple[str, str]]:
    """Draw prompts at random, each with its verb."""
    drawn = context.rng.sample(list(itertools.product(asked, ROLE_PLAY_TEMPLATES[context.split])), count)
    return [(instruct(verb, thing, template=template).text, verb) for (verb, thing), template in drawn]
