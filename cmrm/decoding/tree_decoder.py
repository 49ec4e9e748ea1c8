"""Tree decoding with continuous batching: all arms of a prompt are branches of one KV cache slot."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cmrm.decoding.branch_state import BranchState
from cmrm.decoding.requests import Arm
from cmrm.decoding.scheduler import Report, Row, send_to_host
from cmrm.decoding.stop_tokens import DecodingRules
from cmrm.models.head import find_head
from cmrm.models.position_limit import find_position_limit
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.cache import PrefilledBatch
from cmrm.steering.hooks import BranchSteering, make_shifts, steer_and_measure, steer_branches
from cmrm.steering.intervention import Intervention, list_parts
from cmrm.steering.projection import Projection


class TreeDecoder:
    """Greedy decoder of at most `rows` prompts at once; see `BranchState` for the tensors.

    Freed slots are reused, and each pass feeds only as many branches a row as some row still has.
    """

    def __init__(self, vlm: VisionLanguageModel, *, rows: int, rules: DecodingRules) -> None:
        self._vlm = vlm
        self._head = find_head(vlm)
        self._rules = rules
        self._limit = find_position_limit(vlm)
        self._most = rows
        self._state = BranchState(vlm, rows=rows)
        self._rows: list[Row] = []
        self._reports: deque[Report] = deque()
        # The projections of the rows being decoded; `BranchState.projections` says which act on which branch.
        self._projections: list[Projection] = []
        # On a GPU the tokens of a pass are read after the next pass has started, so that the device is never idle.
        self._behind = 1 if vlm.device.type == "cuda" else 0

    @property
    def slots(self) -> int:
        """How many prompts can be decoded at once."""
        return self._most

    @property
    def free_slots(self) -> int:
        """How many more prompts can be admitted."""
        return self._most - len(self._rows)

    @property
    def busy(self) -> bool:
        """Whether any prompt is being decoded."""
        return bool(self._rows)

    def admit(self, prefilled: PrefilledBatch, rows: Sequence[Row], arms: Mapping[int, Arm]) -> None:
        """Admit prompts that were prefilled up to their last token, and feed that token to every branch.

        `arms` are the interventions by number; an intervention's Δ has one row a prompt, or is for all.
        """
        self._limit_tokens(prefilled, rows)
        # The last token is not prefilled.
        sizes = send_to_host(prefilled.visible.sum(dim=1) + 1)
        for place, row in enumerate(rows):
            (row.leader or row).sizes.append((sizes, place))
        width = max(len(row.branches) for row in rows)
        part = self._state.admit(prefilled, width=width)
        numbers = list(arms)
        # Rows with fewer branches than others repeat their first as padding, which is never read.
        order = [
            [
                numbers.index((row.branches[index : index + 1] or row.branches)[0].arm)
                for index in range(width)
            ]
            for row in rows
        ]
        index = torch.tensor(order, device=self._vlm.device)
        parts = [list_parts(arm) for arm in arms.values()]
        first, acts = self._pick(parts, index)
        arriving = {one for arm in parts for one in arm if isinstance(one, Projection)}
        chosen = [(one, acts[..., number]) for number, one in enumerate(self._projections) if one in arriving]
        with steer_and_measure(self._vlm, BranchSteering(shifts=first, projections=chosen)) as measured:
            hidden = self._state.forward(part, width=width)
        lasting = [[one for one in arm if one.scope != "prefill"] for arm in parts]
        self._state.set_steering(part, *self._pick(lasting, index))
        for row in rows:
            row.fed = list(row.branches)
            row.projections = frozenset(
                one
                for branch in row.branches
                for one in lasting[numbers.index(branch.arm)]
                if isinstance(one, Projection)
            )
        self._rows.extend(rows)
        self._forget_projections()
        self._choose(hidden, part, rows, measured=measured, begins=True)

    def collect(self) -> list[Row]:
        """Return the prompts that have ended since the last call, and free their slots."""
        while len(self._reports) > self._behind:
            self._reports.popleft().deliver(ends=self._rules.ends, most=self._rules.max_new_tokens)
        ended = [row for row in self._rows if row.ended]
        if ended:
            self._compact()
        if self._rows:
            self._drop_ended_branches()
        else:
            # The remaining reports are of branches that have ended.
            self._reports.clear()
        return [row for row in ended if row.leader is None]

    def step(self) -> None:
        """Decode one more token of every branch."""
        part, width = slice(0, len(self._rows)), self._state.width
        state = self._state
        steering = BranchSteering(
            shifts={block: shift[part, :width] for block, shift in state.shifts.items()},
            projections=[
                (one, state.projections[part, :width, number]) for number, one in enumerate(self._projections)
            ],
        )
        with steer_branches(self._vlm, steering):
            hidden = self._state.forward(part, width=width)
        self._choose(hidden, part, self._rows)

    def _limit_tokens(self, prefilled: PrefilledBatch, rows: Sequence[Row]) -> None:
        """Limit the answers to the model's positions."""
        most = self._rules.max_new_tokens
        # There are at most as many positions as columns; reading them would be a device synchronization.
        if self._limit is None or prefilled.visible.shape[1] + 1 + most <= self._limit:
            return
        for row, position in zip(rows, prefilled.positions.tolist(), strict=True):
            limit = self._limit - position + self._vlm.family.first_position - 1
            for branch in row.branches:
                # The first token is chosen at the prompt's last position, and needs none of its own.
                branch.limit = max(1, limit)
        for row in rows:
            # Two rows that are fed the same tokens end together.
            if row.leader is not None:
                limits = [row.branches[0].limit, row.leader.branches[0].limit]
                shortest = min((limit for limit in limits if limit is not None), default=None)
                row.branches[0].limit = row.leader.branches[0].limit = shortest

    def _pick(
        self, arms: Sequence[Sequence[Intervention | Projection]], index: Tensor
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Gather what every branch of some rows subtracts; `index` holds their arms, int64 [rows, branches].

        αΔ by block, float32 [rows, branches, hidden], and which of the tree's projections act, bool
        [rows, branches, projections].
        """
        shifts = make_shifts(
            [[one for one in arm if isinstance(one, Intervention)] for arm in arms],
            rows=index.shape[0],
            device=self._vlm.device,
        )
        for one in (one for arm in arms for one in arm if isinstance(one, Projection)):
            if one not in self._projections:
                self._projections.append(one)
        acts = [[one in arm and one.alpha > 0 for one in self._projections] for arm in arms]
        chosen = torch.tensor(acts, dtype=torch.bool, device=index.device).reshape(len(arms), -1)
        gathered = {
            block: shift.gather(1, index[:, :, None].expand(-1, -1, shift.shape[2]))
            for block, shift in shifts.items()
        }
        return gathered, chosen[index]

    def _choose(
        self,
        hidden: Tensor,
        part: slice,
        rows: Sequence[Row],
        *,
        measured: Mapping[int, Tensor] | None = None,
        begins: bool = False,
    ) -> None:
        logits = _mix(self._head(hidden).to(self._vlm.device), rows)
        highest, tokens = self._rules.narrow(logits, begins=begins).max(dim=-1)
        self._state.tokens[part, : tokens.shape[1]] = tokens
        # NaN as soon as one logit is, and inf if one has overflowed.
        self._reports.append(Report(rows, torch.where(highest.isfinite(), tokens, -1), measured))

    def _compact(self) -> None:
        """Move the last rows into the slots of ended ones, so that the slots in use are contiguous."""
        rows: list[Row | None] = [None if row.ended else row for row in self._rows]
        moves = []
        while None in rows:
            last = rows.pop()
            if last is not None:
                gap = rows.index(None)
                moves.append((len(rows), gap))
                rows[gap] = last
        self._rows = [row for row in rows if row is not None]
        self._state.compact(moves, used=len(self._rows))
        self._forget_projections()

    def _forget_projections(self) -> None:
        """Drop the projections that act on no row: all are computed in each pass, and a batch may bring its own."""
        live = frozenset[Projection]().union(*(row.projections for row in self._rows))
        kept = [number for number, one in enumerate(self._projections) if one in live]
        if len(kept) < len(self._projections):
            self._projections = [self._projections[number] for number in kept]
            self._state.keep_projections(kept)

    def _drop_ended_branches(self) -> None:
        """Feed fewer branches a row as soon as no row has as many left."""
        left = [[index for index, branch in enumerate(row.fed) if not branch.ended] for row in self._rows]
        width = max(map(len, left))
        if width < self._state.width:
            order = [
                (indices + [index for index in range(self._state.width) if index not in indices])[:width]
                for indices in left
            ]
            self._state.permute(order)
            for row, indices in zip(self._rows, left, strict=True):
                row.fed = [row.fed[index] for index in indices]


def _mix(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Mix the logits [rows, branches, vocabulary] of rows that follow others into those of their leaders."""
    followers = [number for number, row in enumerate(rows) if row.leader is not None]
    if not followers:
        return logits
    numbers = {id(row): number for number, row in enumerate(rows)}
    leaders = [numbers[id(rows[number].leader)] for number in followers]
    strengths = logits.new_tensor([rows[number].contrast for number in leaders])[:, None, None]
    own, plain = logits[leaders], logits[followers]
    mixed = logits.clone()
    mixed[leaders] = mixed[followers] = own + strengths * (own - plain)
    return mixed
