"""Decode all arms of each prompt in one pass, or one after the other where a model cannot; `generate` for one batch."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import torch

from cmrm.decoding.hf_generate import generate_apart
from cmrm.decoding.request_prefill import RequestPrefill
from cmrm.decoding.requests import Answer, Answered, Answers, DecodeRequest
from cmrm.decoding.scheduler import AnswerCollector, RequestPart, Row, split_request
from cmrm.decoding.stop_tokens import DecodingRules, has_long_words, make_rules
from cmrm.decoding.tree_decoder import TreeDecoder
from cmrm.errors import UserError
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.planner import Prefixes
from cmrm.prefix.sharing import explain_unshared
from cmrm.prompts.conditions import Prompt
from cmrm.steering.intervention import Steering
from cmrm.steering.proof import SteeringProof, combine_proofs, share_proof

__all__ = ["Answered", "DecodeRequest", "answer", "why_apart"]

log = logging.getLogger("cmrm.cmrm")


def answer(
    vlm: VisionLanguageModel,
    requests: Iterable[DecodeRequest | None],
    *,
    max_new_tokens: int,
    rows: int,
    prefixes: Prefixes | None = None,
) -> Iterator[Answered]:
    """Decode requests greedily as they arrive, and yield each prompt when all its arms have ended.

    All arms of a prompt are branches of one cache slot and share its prefill; only arms that change states before the
    last prompt token, and arms with prompts of their own, have slots of their own, and share a part of the prefill
    (`RequestPrefill`). At most `rows` prompts are decoded at once, and as many again for each arm with slots of its
    own (a request of more prompts raises `ValueError`); the next request is taken as soon as slots are free, and None
    among them says that there is none yet: what is under way is decoded further before the next is asked for. Answers
    do not depend on how prompts are split into requests. A model that cannot do this (`why_apart`) decodes its arms one
    after the other, and raises `UserError` for arms that mix logits.
    """
    reason = why_apart(vlm)
    if reason is None:
        return _answer_together(vlm, requests, max_new_tokens=max_new_tokens, rows=rows, prefixes=prefixes)
    log.info("arms are decoded one after the other: %s", reason)
    return answer_apart(vlm, requests, max_new_tokens=max_new_tokens, reason=reason)


def why_apart(vlm: VisionLanguageModel) -> str | None:
    """Explain why a model's arms must be decoded one after the other; None if they can share one pass."""
    unshared = explain_unshared(vlm, images=1)
    if unshared is not None:
        return unshared
    if has_long_words(vlm):
        return "its generation_config.json forbids words of several tokens"
    return None


@torch.inference_mode()
def _answer_together(
    vlm: VisionLanguageModel,
    requests: Iterable[DecodeRequest | None],
    *,
    max_new_tokens: int,
    rows: int,
    prefixes: Prefixes | None,
) -> Iterator[Answered]:
    decoders = _Decoders(vlm, rows=rows, rules=make_rules(vlm, max_new_tokens), prefixes=prefixes)
    collector = AnswerCollector(vlm)
    source, numbers = iter(requests), count()
    exhausted = False
    while not exhausted or decoders.busy:
        while not exhausted and decoders.ready:
            try:
                request = next(source)
            except StopIteration:
                exhausted = True
                break
            if request is None:
                break
            number = next(numbers)
            if (needed := len(request.prompts)) > rows:
                raise ValueError(
                    f"a decode request of {needed} prompts needs {needed} slots, and there are {rows}"
                )
            yield from collector.expect(number, request)
            decoders.take(split_request(request, number, most=decoders.most), request)
        for row in decoders.step():
            again, answered = collector.take(row)
            for part, asked in again:
                decoders.take([part], asked)
            if answered is not None:
                yield answered


class _Decoders:
    """Two trees: `rows` slots for parts with several arms, and as many for each arm that is decoded by itself.

    In one tree the rows of a part with one arm would be fed as many branches as the others have. The second tree holds
    all such arms of a request side by side, since a pass reads the weights once for all of its rows. It has at least
    two slots, of which only two prompts that mix their logits take more than `rows`: they are decoded side by side.
    `most` is the largest part that it can be given.
    """

    def __init__(
        self, vlm: VisionLanguageModel, *, rows: int, rules: DecodingRules, prefixes: Prefixes | None
    ) -> None:
        self._vlm, self._prefixes, self._rules = vlm, prefixes, rules
        self.most = max(rows, 2)
        self._several = TreeDecoder(vlm, rows=max(rows, 1), rules=rules)
        self._single = TreeDecoder(vlm, rows=self.most, rules=rules)
        # Slots of the second tree that are for prompts that mix their logits alone.
        self._spare = self.most - max(rows, 1)
        self._waiting: deque[tuple[RequestPart, RequestPrefill]] = deque()

    @property
    def busy(self) -> bool:
        """Whether anything is waiting or being decoded."""
        return bool(self._waiting) or self._several.busy or self._single.busy

    @property
    def ready(self) -> bool:
        """Whether another request can be taken: none waits, and slots are free in both trees."""
        return not self._waiting and self._several.free_slots > 0 and self._single.free_slots > self._spare

    def take(self, parts: Sequence[RequestPart], request: DecodeRequest) -> None:
        """Take parts of a request, and admit those for which there are slots."""
        shared = RequestPrefill(self._vlm, self._prefixes, request=request, parts=parts)
        self._widen(len({arm for part in parts if len(part.arms) == 1 for arm in part.arms}))
        self._waiting.extend((part, shared) for part in parts)
        self._admit_waiting()

    def _widen(self, arms: int) -> None:
        """Make the second tree, if nothing is decoded in it, large enough for so many arms."""
        slots = self._spare + arms * (self.most - self._spare)
        if slots > self._single.slots and not self._single.busy:
            self._single = TreeDecoder(self._vlm, rows=slots, rules=self._rules)

    def _admit_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        while waiting:
            # Taken out first: what parts share is freed with the last of them.
            part, shared = waiting.popleft()
            tree, free = self._several, self._several.free_slots
            if len(part.arms) == 1:
                tree, free = self._single, self._single.free_slots - (0 if part.mixes else self._spare)
            if len(part.rows) <= free:
                tree.admit(shared.prefill(part), part.rows, part.arms)
            else:
                self._waiting.append((part, shared))

    def step(self) -> Iterator[Row]:
        """Decode one more token of everything; the rows that have ended."""
        self._admit_waiting()
        for tree in (self._several, self._single):
            if tree.busy:
                tree.step()
            yield from tree.collect()


def answer_apart(
    vlm: VisionLanguageModel, requests: Iterable[DecodeRequest | None], *, max_new_tokens: int, reason: str
) -> Iterator[Answered]:
    """Decode requests as `answer` does, with one `generate` call for each arm; `reason` says why not together.

    The count of steered states is that of the batch, including the padding fed after an answer has ended, divided
    evenly among its rows. Raises `UserError` for an arm that mixes logits.
    """
    for number, request in enumerate(request for request in requests if request is not None):
        if request.contrasts:
            raise UserError(
                f"interventions: logits of two prompts cannot be mixed on this model ({reason}); leave out the "
                "interventions of kind coca."
            )
        arms = {
            arm: ([row for row in range(len(request.prompts)) if arm in request.arms_of(row)], one)
            for arm, one in enumerate(request.arms)
        }
        made = {
            arm: _generate_rows(
                vlm,
                [request.prompt_of(row, arm) for row in rows],
                max_new_tokens=max_new_tokens,
                intervention=one and one.of_rows(rows),
            )
            for arm, (rows, one) in arms.items()
        }
        for row in range(len(request.prompts)):
            own = {arm: made[arm][arms[arm][0].index(row)] for arm in request.arms_of(row)}
            yield Answered(
                group=number,
                row=row,
                answers={arm: answer for arm, (answer, _) in own.items()},
                proofs={arm: proof for arm, (_, proof) in own.items() if proof is not None},
            )


def _generate_rows(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt], *, max_new_tokens: int, intervention: Steering | None
) -> list[tuple[Answer, SteeringProof | None]]:
    """Answer prompts of one arm in a batch, or one at a time where the model takes no batch: each with its proof."""
    if len(prompts) > 1 and not vlm.family.batches:
        rows = ((prompt, intervention and intervention.of_rows([row])) for row, prompt in enumerate(prompts))
        return [
            one
            for prompt, own in rows
            for one in _generate_rows(vlm, [prompt], max_new_tokens=max_new_tokens, intervention=own)
        ]
    if not prompts:
        return []
    made = generate_apart(vlm, prompts, max_new_tokens=max_new_tokens, intervention=intervention)
    proof = None if made.proof is None else share_proof(made.proof, rows=len(prompts))
    return [(answer, proof) for answer in made.answers]


def generate(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    intervention: Steering | None = None,
    prefixes: Prefixes | None = None,
) -> Answers:
    """Answer a batch of prompts by greedy decoding, at most `max_new_tokens` each, under the intervention if given.

    There is no sampling: its random numbers would make an answer depend on the rest of the batch (`DESIGN.md` §2).
    """
    (answers,) = generate_arms(
        vlm, prompts, max_new_tokens=max_new_tokens, arms=[intervention], prefixes=prefixes
    )
    return answers


def generate_arms(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    arms: Sequence[Steering | None],
    prefixes: Prefixes | None = None,
) -> list[Answers]:
    """Answer a batch of prompts under several arms in one pass; None among `arms` is the baseline.

    The answers of each arm, in the order of `arms`, equal those of `generate` for that arm alone.
    """
    request = DecodeRequest(prompts=prompts, arms=arms)
    rows = max(1, len(prompts))
    answered = answer(vlm, [request], max_new_tokens=max_new_tokens, rows=rows, prefixes=prefixes)
    done = {one.row: one for one in answered}
    ordered = [done[row] for row in range(len(prompts))]
    return [collect_answers(ordered, number, arm) for number, arm in enumerate(arms)]


def collect_answers(answered: Sequence[Answered], number: int, arm: Steering | None) -> Answers:
    """The answers of one arm, by its number, to prompts in the order given, with the proof of all of them."""
    answers = tuple(one.answers[number] for one in answered)
    if arm is None:
        return Answers(answers=answers, proof=None)
    proof = combine_proofs([one.proofs[number] for one in answered], arm.blocks)
    return Answers(answers=answers, proof=proof)
