"""Plan which prompts share a prefix, and keep prefixes that were prefilled for later batches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import BatchFeature

from cmrm.models.vlm import VisionLanguageModel, find_special_token, render, render_on_host, send
from cmrm.prefix.cache import Prefix, PromptBatch, crop, read_prefixes
from cmrm.prefix.image_prompts import (
    ImageRendering,
    continue_rendering,
    count_common,
    list_ids,
    render_with_tokenizer_spy,
)
from cmrm.prefix.packing import is_padded_text
from cmrm.prefix.sharing import explain_unshared
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.media import digest_medium

# Least saving that is worth an additional pass: tokens, and the share of a batch's tokens. Later batches need no such
# pass, so that a few tokens of a short text pay as well.
LEAST_TOKENS, LEAST_SHARE = 32, 0.1
# Least share of the rows that have a prefix of another one, for prompts to be grouped at all.
LEAST_ROWS = 0.2


@dataclass(frozen=True, kw_only=True)
class PrefixGroup:
    """The rows of a batch with the same image or media, or none, and the same system line.

    `image` is the digest of the pixels, or of all media in order.
    """

    image: str | None
    system: str | None
    rows: tuple[int, ...]

    @property
    def key(self) -> tuple[str | None, str | None]:
        """What identifies the prefix, also in other batches."""
        return self.image, self.system


def group_rows(prompts: Sequence[Prompt]) -> list[PrefixGroup]:
    """Group the rows of a batch by image and system line."""
    digests: dict[int, str] = {}
    rows: dict[tuple[str | None, str | None], list[int]] = {}
    for row, prompt in enumerate(prompts):
        for medium in prompt.shown:
            if id(medium) not in digests:
                digests[id(medium)] = digest_medium(medium)
        shown = " ".join(digests[id(medium)] for medium in prompt.shown) or None
        rows.setdefault((shown, prompt.system), []).append(row)
    return [
        PrefixGroup(image=image, system=system, rows=tuple(numbers))
        for (image, system), numbers in rows.items()
    ]


def count_shared(rows: Sequence[list[int]], *, least: int = 1) -> int:
    """Length in tokens of the prefix that all rows can share; 0 if it is shorter than `least`.

    The last token of a prompt is never shared, since its hidden state is what is extracted.
    """
    count = min(count_common(rows), min(len(row) for row in rows) - 1)
    return count if count >= least else 0


def may_pay(groups: Sequence[PrefixGroup]) -> bool:
    """Whether prefix sharing within groups would be worthwhile if all prompts of a group were equal."""
    rows = sum(len(group.rows) for group in groups)
    return rows - len(groups) >= LEAST_ROWS * rows


def is_worthwhile(saved: int, rows: Sequence[list[int]], *, images: int) -> bool:
    """Whether saving so many tokens and images, of these rows' token ids, is worth an additional pass.

    Saving an image always is: the vision tower takes as long as many tokens.
    """
    return images > 0 or saved >= max(LEAST_TOKENS, LEAST_SHARE * sum(len(row) for row in rows))


__all__ = ["Prefix", "Prefixes", "PromptBatch", "lay_out"]

# Each holds the keys and values of a prefix: some hundred megabytes for a model of 7 B.
MOST_KEPT = 4

log = logging.getLogger("cmrm.prefix")


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A cached prefix, its token ids, and how its image was rendered, if it has one."""

    ids: list[int]
    prefix: Prefix
    rendering: ImageRendering | None

    @property
    def least(self) -> int:
        """The shortest usable prefix in tokens: an image cannot be split."""
        return 1 if self.rendering is None else len(self.rendering.head)


class Prefixes:
    """Finds shared prefixes, and caches those of batches whose prompts all have one image, or none (LRU).

    The cache is valid for the model's present weights: make another one when they change. Prompts that cannot share a
    prefix, that share too little, or that have a control are prefilled whole; `unshared` says why this model cannot
    share prefixes, of all prompts or of those with an image.
    """

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self._vlm = vlm
        self._kept: dict[tuple[str | None, str | None], _Kept] = {}
        self.unshared = explain_unshared(vlm, images=0) or explain_unshared(vlm, images=1)
        if self.unshared is not None:
            log.info("prefixes are not shared: %s", self.unshared)

    @torch.inference_mode()
    def lay_out(self, prompts: Sequence[Prompt], *, rendered: BatchFeature | None = None) -> PromptBatch:
        """Render prompts, and prefill what they share once if that saves work.

        Prompts that were `rendered` before share nothing and are returned as they are. Call it outside of `steer`: a
        prefix is prefilled without intervention. Raises as `render` does.
        """
        if rendered is not None:
            return PromptBatch(inputs=rendered)
        # Texts are cheap to render, and their token ids are needed in any case.
        whole = None if any(prompt.shown for prompt in prompts) else render_on_host(self._vlm, prompts)
        laid_out = self._share(prompts, whole) if self._can_share(prompts) else None
        if laid_out is not None:
            return laid_out
        inputs = render_on_host(self._vlm, prompts) if whole is None else whole
        return PromptBatch(inputs=send(self._vlm, inputs))

    def may_pack(self, batch: PromptBatch) -> bool:
        """Whether prompts that share no prefix are text that this model can read in packed rows, to save padding."""
        if batch.prefix is not None or explain_unshared(self._vlm, images=0) is not None:
            return False
        return is_padded_text(batch.inputs)

    def forget(self) -> None:
        """Evict all cached prefixes."""
        self._kept.clear()

    def _can_share(self, prompts: Sequence[Prompt]) -> bool:
        images = sum(bool(prompt.shown) for prompt in prompts)
        if explain_unshared(self._vlm, images=images) is not None or any(
            prompt.control for prompt in prompts
        ):
            return False
        if not self._vlm.family.mixed_batches and 0 < images < len(prompts):
            return False
        # The processor would read such a text as the placeholder of another image.
        return images == 0 or all(find_special_token(self._vlm, prompt) is None for prompt in prompts)

    def _share(self, prompts: Sequence[Prompt], whole: BatchFeature | None) -> PromptBatch | None:
        groups = group_rows(prompts)
        kept = self._kept.pop(groups[0].key, None) if len(groups) == 1 else None
        if kept is None:
            return self._prefill_shared(prompts, groups, whole) if may_pay(groups) else None
        # The most recently used prefix is the last.
        self._kept[groups[0].key] = kept
        return self._continue_prefix(prompts, groups[0], kept, whole)

    def _continue_prefix(
        self, prompts: Sequence[Prompt], group: PrefixGroup, kept: _Kept, whole: BatchFeature | None
    ) -> PromptBatch | None:
        """Continue the cached prefix, or prefill the longer one that these prompts share, whichever saves more."""
        ids = self._tokenize(prompts, group, kept.rendering, whole)
        if ids is None:
            return None
        alone = count_shared(ids, least=kept.least)
        length = min(alone, count_common([kept.ids, *ids]))
        if length < kept.least:
            length = 0
        if (len(ids) - 1) * alone > len(ids) * length:
            return self._prefill_shared(prompts, [group], whole)
        images = 0 if kept.rendering is None else len(ids)
        if length == 0 or not is_worthwhile(len(ids) * length, ids, images=images):
            return None
        return lay_out_rests(
            self._vlm, ids, crop(kept.prefix, length), owners=[0] * len(ids), lengths=[length]
        )

    def _prefill_shared(
        self, prompts: Sequence[Prompt], groups: Sequence[PrefixGroup], whole: BatchFeature | None
    ) -> PromptBatch | None:
        """Prefill the prefix of each group, all in one pass, and cache it if there is one group."""
        ids: list[list[int]] = [[]] * len(prompts)
        owners, lengths = [0] * len(prompts), list[int]()
        saved = images = 0
        inputs, renderings = self._render_firsts(prompts, groups, whole)
        for number, (group, rendering) in enumerate(zip(groups, renderings, strict=True)):
            if group.image is not None and rendering is None:
                return None
            found = self._tokenize(prompts, group, rendering, whole)
            if found is None:
                return None
            for row, one in zip(group.rows, found, strict=True):
                ids[row], owners[row] = one, number
            lengths.append(count_shared(found, least=1 if rendering is None else len(rendering.head)))
            saved += lengths[-1] * (len(found) - 1)
            images += 0 if rendering is None else len(found) - 1
        if not all(lengths) or not is_worthwhile(saved, ids, images=images):
            return None
        prefix = read_prefixes(self._vlm, inputs, lengths)
        if len(groups) == 1:
            self._keep(groups[0], _Kept(ids=ids[0][: lengths[0]], prefix=prefix, rendering=renderings[0]))
        return lay_out_rests(self._vlm, ids, prefix, owners=owners, lengths=lengths)

    def _render_firsts(
        self, prompts: Sequence[Prompt], groups: Sequence[PrefixGroup], whole: BatchFeature | None
    ) -> tuple[BatchFeature, list[ImageRendering | None]]:
        rows = [group.rows[0] for group in groups]
        if whole is None:
            return render_with_tokenizer_spy(self._vlm, [prompts[row] for row in rows])
        return BatchFeature({name: value[rows] for name, value in whole.items()}), [None] * len(rows)

    def _tokenize(
        self,
        prompts: Sequence[Prompt],
        group: PrefixGroup,
        rendering: ImageRendering | None,
        whole: BatchFeature | None,
    ) -> list[list[int]] | None:
        if whole is not None:
            ids = list_ids(whole)
            return [ids[row] for row in group.rows]
        own = [prompts[row] for row in group.rows]
        if rendering is None:
            return list_ids(render_on_host(self._vlm, own))
        return continue_rendering(self._vlm, rendering, own)

    def _keep(self, group: PrefixGroup, kept: _Kept) -> None:
        self._kept[group.key] = kept
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]


def lay_out_rests(
    vlm: VisionLanguageModel,
    ids: Sequence[Sequence[int]],
    prefix: Prefix,
    *,
    owners: Sequence[int],
    lengths: Sequence[int],
) -> PromptBatch:
    """Make the batch of what follows the prefixes, right-padded: padding in between would count as distance.

    `ids` are the token ids of whole prompts, `owners` their prefixes by number, and `lengths` those of the prefixes.
    """
    rests = [row[lengths[owner] :] for row, owner in zip(ids, owners, strict=True)]
    longest = max(len(rest) for rest in rests)
    pad = vlm.processor.tokenizer.pad_token_id
    padded = [[*rest, *[pad] * (longest - len(rest))] for rest in rests]
    mask = [[1] * len(rest) + [0] * (longest - len(rest)) for rest in rests]
    return PromptBatch(
        inputs=BatchFeature({"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}),
        prefix=prefix,
        owners=torch.tensor(owners).to(vlm.device, non_blocking=True),
    )


def lay_out(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    prefixes: Prefixes | None,
    *,
    rendered: BatchFeature | None = None,
) -> PromptBatch:
    """Render prompts, and share their prefixes if `prefixes` is given."""
    if prefixes is not None:
        return prefixes.lay_out(prompts, rendered=rendered)
    return PromptBatch(inputs=render(vlm, prompts) if rendered is None else rendered)
