"""Which prompts have something in common, how much, and whether to read it once is possible and saves work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cmrm.conditions import Prompt
from cmrm.families import FAMILIES
from cmrm.images import digest_pixels
from cmrm.model import VisionLanguageModel

# The implementations of attention that take a mask of any shape.
MASKED = ("sdpa", "eager")
# The kinds of block whose past is the keys and values of single tokens, which such a mask can choose among.
KINDS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
# What sharing has to save to be worth a pass more: tokens, and the share of a batch's tokens or rows.
LEAST_TOKENS, LEAST_SHARE = 32, 0.2


@dataclass(frozen=True, kw_only=True)
class Group:
    """The rows of a batch that show the same image, or none, under the same system line.

    `image` is the digest of the pixels.
    """

    image: str | None
    system: str | None
    rows: tuple[int, ...]

    @property
    def key(self) -> tuple[str | None, str | None]:
        """What it has in common with a group of another batch."""
        return self.image, self.system


def explain_unshared(vlm: VisionLanguageModel, *, images: int) -> str | None:
    """Why prompts with so many images each are read whole by this model, whatever they share; None if they are not."""
    family, implementation = vlm.family, vlm.model.config.get_text_config()._attn_implementation
    if family.shares == "nothing":
        return f"the row of {family.model_type} does not say that its prompts can be read in two parts"
    if family.shares == "text" and images:
        return f"{family.model_type} can read prompts in two parts where there is no image in them"
    if implementation not in MASKED:
        return f"attention is computed by {implementation}; prompts are read in two parts under {', '.join(MASKED)}"
    if strange := set(getattr(vlm.model.config.get_text_config(), "layer_types", None) or ()) - KINDS:
        return f"its backbone has blocks of {', '.join(sorted(strange))}, which keep no token by itself"
    own = type(vlm.model)
    if family == FAMILIES.get(family.model_type) and own.__module__.partition(".")[0] != "transformers":
        return f"its class {own.__name__} is none of transformers', for which the row of {family.model_type} stands"
    return None


def group_rows(prompts: Sequence[Prompt]) -> list[Group]:
    """The rows of a batch by what they show."""
    digests: dict[int, str] = {}
    rows: dict[tuple[str | None, str | None], list[int]] = {}
    for row, prompt in enumerate(prompts):
        image = prompt.image
        if image is not None and id(image) not in digests:
            digests[id(image)] = digest_pixels(image)
        shown = None if image is None else digests[id(image)]
        rows.setdefault((shown, prompt.system), []).append(row)
    return [
        Group(image=image, system=system, rows=tuple(numbers)) for (image, system), numbers in rows.items()
    ]


def count_common(rows: Sequence[list[int]] | Sequence[str]) -> int:
    """How many items all rows begin with."""
    # What the first and the last of them in order have in common, all have.
    first: Sequence[Any] = min(rows)
    last: Sequence[Any] = max(rows)
    pairs = zip(first, last, strict=False)
    return next(
        (place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(last))
    )


def count_shared(rows: Sequence[list[int]], *, least: int = 1) -> int:
    """How many token ids all rows begin with, at most all but the last one of a row; 0 if they are fewer than `least`.

    The state of a prompt's last token is what is read, so it is never shared.
    """
    count = min(count_common(rows), min(len(row) for row in rows) - 1)
    return count if count >= least else 0


def may_pay(groups: Sequence[Group]) -> bool:
    """Whether sharing within groups could be worthwhile, were the prompts of all rows alike."""
    rows = sum(len(group.rows) for group in groups)
    return rows - len(groups) >= LEAST_SHARE * rows


def is_worthwhile(saved: int, rows: Sequence[list[int]], *, images: int) -> bool:
    """Whether to read so many tokens and images less, of these rows' token ids, is worth a pass more.

    An image always is: to process it takes as long as many tokens.
    """
    return images > 0 or saved >= max(LEAST_TOKENS, LEAST_SHARE * sum(len(row) for row in rows))
