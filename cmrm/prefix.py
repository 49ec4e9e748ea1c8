"""What the prompts of a batch have in common, read once: the shared beginning of their key-value cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import BatchFeature

from cmrm.conditions import Prompt
from cmrm.image_renderings import ImageRendering, continue_rendering, list_ids, render_heard
from cmrm.model import VisionLanguageModel, find_special_token, render, render_on_host, send
from cmrm.prefix_reading import crop, read_prefixes
from cmrm.prompt_batch import Prefix, PromptBatch
from cmrm.sharing import (
    Group,
    count_common,
    count_shared,
    explain_unshared,
    group_rows,
    is_worthwhile,
    may_pay,
)

__all__ = ["Prefix", "Prefixes", "PromptBatch", "lay_out"]

# Each holds the keys and values of a prompt's beginning: some hundred megabytes for a model of 7 B.
MOST_KEPT = 4

log = logging.getLogger("cmrm.prefix")


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A prefix that later batches may go on from, its token ids, and how its image was rendered, if it has one."""

    ids: list[int]
    prefix: Prefix
    rendering: ImageRendering | None

    @property
    def least(self) -> int:
        """How much of it has to be used: an image is read whole."""
        return 1 if self.rendering is None else len(self.rendering.head)


class Prefixes:
    """Finds what prompts share, and keeps for the next batch what all prompts on one image, or on none, share.

    What it keeps belongs to the model as it is: make another one when weights change. Prompts that cannot be read in
    two parts, or share too little, are read whole; `unshared` says why all of a model's are, or those with an image.
    """

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self._vlm = vlm
        self._kept: dict[tuple[str | None, str | None], _Kept] = {}
        self.unshared = explain_unshared(vlm, images=0) or explain_unshared(vlm, images=1)
        if self.unshared is not None:
            log.info("what prompts have in common is read anew for each: %s", self.unshared)

    @torch.inference_mode()
    def lay_out(self, prompts: Sequence[Prompt], *, rendered: BatchFeature | None = None) -> PromptBatch:
        """Render prompts, what they share cut off and read once where that saves work.

        Those that were `rendered` already, for want of something to share, are taken as they are. Call it outside of
        `steer`: a shared beginning is read as the model is. Raises as `render` does.
        """
        if rendered is not None:
            return PromptBatch(inputs=rendered)
        # Texts are cheap to render, and have to be in any case.
        whole = (
            render_on_host(self._vlm, prompts) if all(prompt.image is None for prompt in prompts) else None
        )
        laid_out = self._share(prompts, whole) if self._can_share(prompts) else None
        if laid_out is not None:
            return laid_out
        inputs = render_on_host(self._vlm, prompts) if whole is None else whole
        return PromptBatch(inputs=send(self._vlm, inputs))

    def forget(self) -> None:
        """Give back the memory of what is kept."""
        self._kept.clear()

    def _can_share(self, prompts: Sequence[Prompt]) -> bool:
        images = sum(prompt.image is not None for prompt in prompts)
        if explain_unshared(self._vlm, images=images) is not None:
            return False
        if not self._vlm.family.mixed_batches and 0 < images < len(prompts):
            return False
        # Read as a placeholder, such a text would stand for another image.
        return images == 0 or all(find_special_token(self._vlm, prompt) is None for prompt in prompts)

    def _share(self, prompts: Sequence[Prompt], whole: BatchFeature | None) -> PromptBatch | None:
        groups = group_rows(prompts)
        kept = self._kept.pop(groups[0].key, None) if len(groups) == 1 else None
        if kept is None:
            return self._read_anew(prompts, groups, whole) if may_pay(groups) else None
        # The one used last stands at the end.
        self._kept[groups[0].key] = kept
        return self._go_on(prompts, groups[0], kept, whole)

    def _go_on(
        self, prompts: Sequence[Prompt], group: Group, kept: _Kept, whole: BatchFeature | None
    ) -> PromptBatch | None:
        """Go on from what was kept, or read anew what these prompts share, whichever saves more."""
        ids = self._tokenize(prompts, group, kept.rendering, whole)
        if ids is None:
            return None
        alone = count_shared(ids, least=kept.least)
        length = min(alone, count_common([kept.ids, *ids]))
        if length < kept.least:
            length = 0
        if (len(ids) - 1) * alone > len(ids) * length:
            return self._read_anew(prompts, [group], whole)
        images = 0 if kept.rendering is None else len(ids)
        if length == 0 or not is_worthwhile(len(ids) * length, ids, images=images):
            return None
        return self._lay_out(ids, crop(kept.prefix, length), [0] * len(ids), [length])

    def _read_anew(
        self, prompts: Sequence[Prompt], groups: Sequence[Group], whole: BatchFeature | None
    ) -> PromptBatch | None:
        """Read what the rows of each group share, all groups in one pass, and keep it if it is of all rows."""
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
        return self._lay_out(ids, prefix, owners, lengths)

    def _render_firsts(
        self, prompts: Sequence[Prompt], groups: Sequence[Group], whole: BatchFeature | None
    ) -> tuple[BatchFeature, list[ImageRendering | None]]:
        rows = [group.rows[0] for group in groups]
        if whole is None:
            return render_heard(self._vlm, [prompts[row] for row in rows])
        return BatchFeature({name: value[rows] for name, value in whole.items()}), [None] * len(rows)

    def _tokenize(
        self,
        prompts: Sequence[Prompt],
        group: Group,
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

    def _keep(self, group: Group, kept: _Kept) -> None:
        self._kept[group.key] = kept
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    def _lay_out(
        self, ids: Sequence[Sequence[int]], prefix: Prefix, owners: Sequence[int], lengths: Sequence[int]
    ) -> PromptBatch:
        """What follows the prefixes, padded on the right: what lies between would count as distance."""
        rests = [row[lengths[owner] :] for row, owner in zip(ids, owners, strict=True)]
        longest = max(len(rest) for rest in rests)
        pad = self._vlm.processor.tokenizer.pad_token_id
        padded = [[*rest, *[pad] * (longest - len(rest))] for rest in rests]
        mask = [[1] * len(rest) + [0] * (longest - len(rest)) for rest in rests]
        return PromptBatch(
            inputs=BatchFeature({"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}),
            prefix=prefix,
            owners=torch.tensor(owners).to(self._vlm.device, non_blocking=True),
        )


def lay_out(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    prefixes: Prefixes | None,
    *,
    rendered: BatchFeature | None = None,
) -> PromptBatch:
    """Render prompts, whole where there is nobody to find what they share."""
    if prefixes is not None:
        return prefixes.lay_out(prompts, rendered=rendered)
    return PromptBatch(inputs=render(vlm, prompts) if rendered is None else rendered)
