"""Answer prompts in several ways at once: plainly, and under each of some interventions."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator

import torch

from cmrm.answering_apart import answer_apart
from cmrm.collecting import Collection
from cmrm.decoding_rules import has_long_words, make_rules
from cmrm.group_parts import Part, split_group
from cmrm.groups import Answered, Group
from cmrm.model import VisionLanguageModel
from cmrm.prefill import prefill
from cmrm.prefix import Prefixes, lay_out
from cmrm.sharing import explain_unshared
from cmrm.steering import steer
from cmrm.tree import Tree

__all__ = ["Answered", "Group", "answer", "why_apart"]

log = logging.getLogger("cmrm.cmrm")


def answer(
    vlm: VisionLanguageModel,
    groups: Iterable[Group],
    *,
    max_new_tokens: int,
    rows: int,
    prefixes: Prefixes | None = None,
) -> Iterator[Answered]:
    """Answer groups of prompts as they come, greedily, and yield each prompt when all its ways have ended.

    All ways of a prompt are branches of one cache row, which read the prompt once; only those whose scope is `all`
    read it anew. At most `rows` rows are under way at once (a larger group is refused with `ValueError`); a group is
    taken as soon as there is room for it. Answers do not depend on how the prompts are grouped. Where a model cannot
    do so (`why_apart`), its ways are answered one after the other.
    """
    reason = why_apart(vlm)
    if reason is None:
        return _answer_together(vlm, groups, max_new_tokens=max_new_tokens, rows=rows, prefixes=prefixes)
    log.info("ways are answered one after the other: %s", reason)
    return answer_apart(vlm, groups, max_new_tokens=max_new_tokens)


def why_apart(vlm: VisionLanguageModel) -> str | None:
    """Why a model's ways have to be answered one after the other; None where they grow together."""
    unshared = explain_unshared(vlm, images=1)
    if unshared is not None:
        return unshared
    if has_long_words(vlm):
        return "its generation_config.json forbids words of several tokens"
    return None


@torch.inference_mode()
def _answer_together(
    vlm: VisionLanguageModel,
    groups: Iterable[Group],
    *,
    max_new_tokens: int,
    rows: int,
    prefixes: Prefixes | None,
) -> Iterator[Answered]:
    tree = Tree(vlm, rows=rows, rules=make_rules(vlm, max_new_tokens))
    collection = Collection(vlm)
    waiting: deque[Part] = deque()
    source = enumerate(groups)
    exhausted = False
    while not exhausted or waiting or tree.busy:
        while tree.room and (waiting or not exhausted):
            if not waiting:
                number, group = next(source, (-1, None))
                if group is None:
                    exhausted = True
                    break
                if len(group.prompts) > rows:
                    raise ValueError(f"a group of {len(group.prompts)} prompts does not fit into {rows} rows")
                yield from collection.open(number, group)
                waiting.extend(split_group(group, number))
            elif len(waiting[0].rows) <= tree.room:
                _admit(vlm, tree, waiting.popleft(), prefixes)
            else:
                break
        if tree.busy:
            tree.step()
        for row in tree.collect():
            again, answered = collection.take(row)
            waiting.extend(again)
            if answered is not None:
                yield answered


def _admit(vlm: VisionLanguageModel, tree: Tree, part: Part, prefixes: Prefixes | None) -> None:
    if part.throughout is not None:
        # Whole: what is moved all along has no beginning in common with what is not.
        batch = lay_out(vlm, part.prompts, None, rendered=part.rendered)
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        with steer(vlm, part.throughout, input_ids=ids, attention_mask=mask):
            filled = prefill(vlm, batch)
        # All text of the prompt but its last token, which the first pass of the branches moves.
        texts = (mask.bool() & (ids != vlm.image_token_id)).sum(dim=1) - 1
        for row, moved in zip(part.rows, texts.tolist(), strict=True):
            for branch in row.branches:
                branch.acted = dict.fromkeys(branch.blocks, moved)
    else:
        filled = prefill(vlm, lay_out(vlm, part.prompts, prefixes, rendered=part.rendered))
    tree.admit(filled, part.rows, part.ways)
