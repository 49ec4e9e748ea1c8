"""Host state of the prompts being decoded: parts that share a prefill, their branches, and the collected answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import BatchFeature

from cmrm.decoding.hf_generate import generate_apart
from cmrm.decoding.nonfinite import Fault
from cmrm.decoding.requests import Answer, Answered, Arm, DecodeRequest, FinishReason, shares_prefill
from cmrm.models.vlm import VisionLanguageModel, decode_answer
from cmrm.prompts.conditions import Prompt
from cmrm.steering.intervention import list_parts, needs_own_prefill
from cmrm.steering.projection import Projection
from cmrm.steering.proof import SteeringProof


@dataclass(frozen=True, kw_only=True)
class Arriving:
    """A tensor being copied to the host; `event` completes with the copy, None if it is complete already."""

    host: Tensor
    event: torch.cuda.Event | None

    @property
    def is_there(self) -> bool:
        """Whether the copy is complete."""
        return self.event is None or bool(self.event.query())

    def wait(self) -> Tensor:
        """Wait for the copy, and return the tensor in host memory."""
        if self.event is not None:
            self.event.synchronize()
        return self.host


def send_to_host(tensor: Tensor) -> Arriving:
    """Start an asynchronous copy of a tensor as it is now; later kernels on the device do not change the copy."""
    if tensor.device.type != "cuda":
        return Arriving(host=tensor.cpu(), event=None)
    # A copy into pageable memory would block the host.
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(tensor.device))
    return Arriving(host=host, event=event)


@dataclass(kw_only=True, eq=False)
class Branch:
    """The answer of one arm of a prompt, as far as it is decoded.

    `limit` is the number of tokens for which the model has positions after the prompt, None for `max_new_tokens`.
    `fault` is the step whose logits were not finite. It is steered at `blocks` at the last prompt token, whose
    distances `proof` holds, and at `blocks_afterwards` at each generated one.
    """

    arm: int
    blocks: Sequence[int] = ()
    blocks_afterwards: Sequence[int] = ()
    limit: int | None = None
    tokens: list[int] = field(default_factory=list)
    reason: FinishReason | None = None
    fault: int | None = None
    proof: SteeringProof = field(default_factory=SteeringProof)

    @property
    def ended(self) -> bool:
        """Whether the branch is complete."""
        return self.reason is not None or self.fault is not None

    def take(self, token: int, *, ends: frozenset[int], most: int) -> None:
        """Record the token of a pass; a number below zero stands for logits that were not finite."""
        if self.ended:
            return  # a pass that had started before the end was known
        for block in self.blocks_afterwards if self.tokens else self.blocks:
            self.proof.acted[block] = self.proof.acted.get(block, 0) + 1
        if token < 0:
            self.fault = len(self.tokens)
            return
        self.tokens.append(token)
        if token in ends:
            self.reason = "stop"
        elif len(self.tokens) >= (most if self.limit is None else min(most, self.limit)):
            self.reason = "length"


@dataclass(kw_only=True, eq=False)
class Row:
    """A prompt being decoded: its decode request (`group`), its row in there (`number`), and its branches.

    `fed` are the branches of the next pass, in their order, and `projections` those that act on any of them. A row
    whose logits are mixed into those of another row of the same part follows that `leader`: it is fed the leader's
    tokens, and ends with it. `sizes` hold the prompt's tokens, and those of the prompt that follows it, each as a
    place in the sizes of all prompts admitted with it.
    """

    group: int
    number: int
    branches: list[Branch]
    fed: list[Branch] = field(default_factory=list)
    projections: frozenset[Projection] = frozenset()
    leader: Row | None = None
    contrast: float = 0.0
    sizes: list[tuple[Arriving, int]] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt, and of the one that it is mixed with."""
        return sum(int(sizes.wait()[place]) for sizes, place in self.sizes)

    @property
    def ended(self) -> bool:
        """Whether all branches have ended."""
        return all(branch.ended for branch in self.branches)


class Report:
    """The tokens of a pass, copied to the host asynchronously and read one pass later.

    `tokens` is int64 [rows, branches], below zero where the logits were not finite; `measured` is what
    `steer_and_measure` yields, float32 [3, rows, branches] by block.
    """

    def __init__(
        self, rows: Sequence[Row], tokens: Tensor, measured: Mapping[int, Tensor] | None = None
    ) -> None:
        self._of = [list(row.fed) for row in rows]
        # One copy each: a block may lie on another device.
        self._tokens = send_to_host(tokens)
        self._measured = {block: send_to_host(one) for block, one in (measured or {}).items()}

    def deliver(self, *, ends: frozenset[int], most: int) -> None:
        """Wait for the copy, and give every branch its token."""
        for fed, tokens in zip(self._of, self._tokens.wait().tolist(), strict=True):
            for branch, token in zip(fed, tokens, strict=False):
                branch.take(token, ends=ends, most=most)
        for block, measured in self._measured.items():
            self._note_distances(block, *measured.wait().tolist())

    def _note_distances(
        self, block: int, distances: list[list[float]], felt: list[list[float]], asked: list[list[float]]
    ) -> None:
        """Record how far each branch moved; `RuntimeError` for an arm that moved no state though αΔ is large enough."""
        expected, did = set[int](), set[int]()
        for fed, *all_three in zip(self._of, distances, felt, asked, strict=True):
            for branch, done, must_move, length in zip(fed, *all_three, strict=False):
                if block in branch.blocks:
                    branch.proof.distance[block], branch.proof.asked[block] = done, length
                    branch.proof.unmoved[block] = int(done == 0 and length != 0)
                    if must_move != 0:
                        expected.add(branch.arm)
                    if done != 0:
                        did.add(branch.arm)
        if expected - did:
            raise RuntimeError(
                f"the intervention never acted: no state moved at block {block}, though αΔ is not zero"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class RequestPart:
    """Some prompts of a decode request with some of its arms, which share the prefill.

    `throughout` is the only arm of a part if it changes states before the last prompt token; so is an arm that
    `asks_otherwise`. The Δ of an intervention belongs to the part's own prompts; so do `rendered`, if they were
    rendered before, and `ids`, if their token ids were derived from the renderings of the plain prompts.
    """

    prompts: Sequence[Prompt]
    rows: Sequence[Row]
    arms: Mapping[int, Arm]
    throughout: Arm = None
    asks_otherwise: bool = False
    rendered: BatchFeature | None = None
    ids: list[list[int]] | None = None

    @property
    def mixes(self) -> bool:
        """Whether its prompts are pairs that mix their logits."""
        return any(row.leader is not None for row in self.rows)


def split_request(request: DecodeRequest, number: int, *, most: int) -> list[RequestPart]:
    """Split a decode request into parts of at most `most` rows, without the prompts that want no arm."""
    together = [
        arm
        for arm, one in enumerate(request.arms)
        if shares_prefill(one, asks_otherwise=arm in request.own_prompts)
    ]
    alone = [arm for arm in range(len(request.arms)) if arm not in together]
    count = len(request.prompts)
    parts = [
        take_part(request, number, range(start, min(start + size, count)), arms)
        for arms in (together, *([arm] for arm in alone))
        if arms
        # A prompt whose logits are mixed takes a second row.
        for size in [max(1, most // 2 if arms[0] in request.contrasts else count)]
        for start in range(0, count, size)
    ]
    return [part for part in parts if part.rows]


def take_part(request: DecodeRequest, number: int, rows: Sequence[int], arms: Sequence[int]) -> RequestPart:
    """Take those of some rows of a request that want any of these arms, with the arms that they want."""
    wanted = {row: sorted(request.arms_of(row) & set(arms)) for row in rows}
    members = [row for row, chosen in wanted.items() if chosen]
    chosen_arms = {arm: request.arms[arm] for arm in arms if any(arm in wanted[row] for row in members)}
    if len(members) < len(request.prompts):
        chosen_arms = {arm: one and one.of_rows(members) for arm, one in chosen_arms.items()}
    # An arm with prompts or a prefill of its own is the only one of its part.
    first = arms[0]
    asks_otherwise = first in request.own_prompts
    throughout = [one for one in chosen_arms.values() if needs_own_prefill(one)]
    prompts = [request.prompt_of(row, first) for row in members]
    started = [
        Row(
            group=number,
            number=row,
            branches=[_start(arm, request.arms[arm], row) for arm in wanted[row]],
            contrast=request.contrasts.get(first, 0.0),
        )
        for row in members
    ]
    ids = [request.own_ids[first][row] for row in members] if first in request.own_ids else None
    if first in request.contrasts:
        prompts += [request.prompts[row] for row in members]
        if ids is not None:
            ids += [one.ids for row in members if (one := request.renderings[row]) is not None]
        started += [
            Row(group=number, number=row.number, branches=[_start(first, None, row.number)], leader=row)
            for row in started
        ]
    # What was rendered before was rendered for all rows, and without the plain prompts that logits are mixed with.
    rendered = request.own_rendered.get(first) if asks_otherwise else request.rendered
    whole = len(members) == len(request.prompts) and first not in request.contrasts
    return RequestPart(
        prompts=prompts,
        rows=started,
        arms=chosen_arms,
        throughout=throughout[0] if throughout else None,
        asks_otherwise=asks_otherwise,
        rendered=rendered if whole else None,
        ids=ids,
    )


def _start(number: int, arm: Arm, row: int) -> Branch:
    parts = [part for part in list_parts(arm) if part.acts_on(row)]
    blocks = {block for part in parts for block in part.blocks}
    lasting = {block for part in parts if part.scope != "prefill" for block in part.blocks}
    return Branch(arm=number, blocks=sorted(blocks), blocks_afterwards=sorted(lasting))


@dataclass(kw_only=True)
class _PendingPrompt:
    """A prompt some of whose arms have not ended: the missing arms, and the answers so far."""

    missing: set[int]
    answers: dict[int, Answer] = field(default_factory=dict)
    proofs: dict[int, SteeringProof] = field(default_factory=dict)


class AnswerCollector:
    """The prompts some of whose arms have not ended, by decode request and row."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self._vlm = vlm
        self._requests: dict[int, DecodeRequest] = {}
        self._pending: dict[tuple[int, int], _PendingPrompt] = {}

    def expect(self, number: int, request: DecodeRequest) -> list[Answered]:
        """Expect the answers of a decode request; returns its prompts without any wanted arm, which are complete."""
        self._requests[number] = request
        for row in range(len(request.prompts)):
            self._pending[number, row] = _PendingPrompt(missing=set(request.arms_of(row)))
        complete = [key for key, one in self._pending.items() if key[0] == number and not one.missing]
        return [self._close(key) for key in complete]

    def take(self, row: Row) -> tuple[list[tuple[RequestPart, DecodeRequest]], Answered | None]:
        """Take a row whose branches have ended: what to decode again, and the prompt if it is complete.

        NaN and inf can spread from a branch to the others of its slot, so each branch with a fault is decoded again
        alone.
        """
        key = (row.group, row.number)
        request, one = self._requests[row.group], self._pending[key]
        again = []
        for branch in row.branches:
            if branch.fault is not None and len(row.branches) > 1:
                again.append((take_part(request, row.group, [row.number], [branch.arm]), request))
                continue
            one.answers[branch.arm] = self._read(branch, request, row)
            if request.arms[branch.arm] is not None:
                one.proofs[branch.arm] = branch.proof
            one.missing.discard(branch.arm)
        return again, None if one.missing else self._close(key)

    def _close(self, key: tuple[int, int]) -> Answered:
        number, row = key
        done = self._pending.pop(key)
        if not any(request == number for request, _ in self._pending):
            del self._requests[number]
        return Answered(group=number, row=row, answers=done.answers, proofs=done.proofs)

    def _read(self, branch: Branch, request: DecodeRequest, row: Row) -> Answer:
        if branch.fault is not None:
            fault = self._locate(branch, request, row)
            return Answer(
                text="",
                tokens=branch.fault,
                finish_reason="length",
                prompt_tokens=row.prompt_tokens,
                fault=fault,
            )
        text = decode_answer(self._vlm, branch.tokens)
        assert branch.reason is not None  # a row is taken when all its branches have ended
        return Answer(
            text=text.strip(),
            tokens=len(branch.tokens),
            finish_reason=branch.reason,
            prompt_tokens=row.prompt_tokens,
        )

    def _locate(self, branch: Branch, request: DecodeRequest, row: Row) -> Fault:
        """Find the block where NaN or inf began, by decoding the prompt once more, alone and traced.

        Of two prompts that mix their logits either may be at fault, at the first step: later ones follow tokens that
        neither chooses by itself.
        """
        arm, step = request.arms[branch.arm], branch.fault
        assert step is not None  # called for branches with a fault alone
        mixes = branch.arm in request.contrasts
        prompts = [
            request.prompt_of(row.number, branch.arm),
            *([request.prompts[row.number]] if mixes else []),
        ]
        for prompt in prompts if step == 0 or not mixes else ():
            again = generate_apart(
                self._vlm,
                [prompt],
                max_new_tokens=step + 1,
                intervention=arm and arm.of_rows([row.number]),
            )
            if again.answers[0].fault is not None:
                return again.answers[0].fault
        return Fault(step=step, block=None)
