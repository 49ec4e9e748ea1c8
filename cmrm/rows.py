"""What is known here, off the device, of the prompts under way: their branches, and what these have said so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from cmrm.answers import FinishReason
from cmrm.offload import send_to_host


@dataclass(kw_only=True, eq=False)
class Branch:
    """One way of answering a prompt, as far as it has come.

    `room` is how many tokens the model has positions for behind the prompt, None for as many as are asked for. `fault`
    is the step whose logits were not finite; `acted` counts the states that were moved, by block, and `moved`
    says how far the last prompt token's was, and `asked` how far it was to be.
    """

    way: int
    blocks: Sequence[int] = ()
    acts_afterwards: bool = False
    room: int | None = None
    tokens: list[int] = field(default_factory=list)
    reason: FinishReason | None = None
    fault: int | None = None
    acted: dict[int, int] = field(default_factory=dict)
    moved: dict[int, float] = field(default_factory=dict)
    asked: dict[int, float] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come."""
        return self.reason is not None or self.fault is not None

    def take(self, token: int, *, ends: frozenset[int], most: int) -> None:
        """Note what a pass came to: a token, or a number below zero where the logits were not finite."""
        if self.ended:
            return  # a pass that was under way when the end was seen
        if not self.tokens or self.acts_afterwards:
            for block in self.blocks:
                self.acted[block] = self.acted.get(block, 0) + 1
        if token < 0:
            self.fault = len(self.tokens)
            return
        self.tokens.append(token)
        if token in ends:
            self.reason = "stop"
        elif len(self.tokens) >= (most if self.room is None else min(most, self.room)):
            self.reason = "length"


@dataclass(kw_only=True, eq=False)
class Row:
    """A prompt under way: the number of its group, its own in there, and its branches in the order they are fed."""

    group: int
    number: int
    branches: list[Branch]
    fed: list[Branch] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether all branches have ended."""
        return all(branch.ended for branch in self.branches)


class Report:
    """The tokens that a pass chose, on their way from the device; read a pass later, nobody waits for them.

    `tokens` is int64 [rows, branches], below zero where the logits were not finite; `moved` is float32
    [3, rows, branches] by block: how far the states were moved, whether they had to move at the model's precision
    (zero where not), and how far they were to be moved.
    """

    def __init__(
        self, rows: Sequence[Row], tokens: Tensor, moved: Mapping[int, Tensor] | None = None
    ) -> None:
        self._of = [list(row.fed) for row in rows]
        # Each is waited for by itself: what a block on another device sends is on its own way.
        self._tokens = send_to_host(tokens)
        self._moved = {block: send_to_host(one) for block, one in (moved or {}).items()}

    def deliver(self, *, ends: frozenset[int], most: int) -> None:
        """Give every branch its token, once the copy has come."""
        for fed, tokens in zip(self._of, self._tokens.wait().tolist(), strict=True):
            for branch, token in zip(fed, tokens, strict=False):
                branch.take(token, ends=ends, most=most)
        for block, distances in self._moved.items():
            self._note_distances(block, *distances.wait().tolist())

    def _note_distances(
        self, block: int, moved: list[list[float]], meant: list[list[float]], asked: list[list[float]]
    ) -> None:
        """Note how far every branch was moved; `RuntimeError` for a way that moved none, though its αΔ had to."""
        meant_to, did = set[int](), set[int]()
        for fed, *all_three in zip(self._of, moved, meant, asked, strict=True):
            for branch, done, intended, length in zip(fed, *all_three, strict=False):
                if block in branch.blocks:
                    branch.moved[block], branch.asked[block] = done, length
                    if intended != 0:
                        meant_to.add(branch.way)
                    if done != 0:
                        did.add(branch.way)
        if meant_to - did:
            raise RuntimeError(
                f"the intervention never acted: no state moved at block {block}, though αΔ is not zero"
            )
