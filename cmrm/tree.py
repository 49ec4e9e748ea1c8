"""Tree decoding: all ways of answering a prompt grow as branches of one cache row, and rows come and go."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cmrm.branch_steering import make_shifts, steer_and_measure, steer_branches
from cmrm.branches import Branches
from cmrm.decoding_rules import DecodingRules
from cmrm.model import VisionLanguageModel
from cmrm.position_limit import find_position_limit
from cmrm.prefill import Filled
from cmrm.rows import Report, Row
from cmrm.steering import Intervention


class Tree:
    """Decodes greedily what it was given, at most `rows` prompts at once; see `Branches` for how.

    Freed rows are taken by others, and each pass feeds no more branches a row than some row still has.
    """

    def __init__(self, vlm: VisionLanguageModel, *, rows: int, rules: DecodingRules) -> None:
        self._vlm = vlm
        self._head = vlm.model.get_output_embeddings()
        self._rules = rules
        self._limit = find_position_limit(vlm)
        self._most = rows
        self._state = Branches(vlm, rows=rows)
        self._rows: list[Row] = []
        self._reports: deque[Report] = deque()
        # On a device of its own a pass is read when the next has been started, so that it never stands idle.
        self._behind = 1 if vlm.device.type == "cuda" else 0

    @property
    def room(self) -> int:
        """How many prompts more can be taken in."""
        return self._most - len(self._rows)

    @property
    def busy(self) -> bool:
        """Whether any prompt is under way."""
        return bool(self._rows)

    def admit(self, filled: Filled, rows: Sequence[Row], ways: Mapping[int, Intervention | None]) -> None:
        """Take in prompts that were read but for their last tokens, and feed those: the first pass of every branch.

        `ways` are the interventions by number; an intervention's Δ has one row a prompt, or is for all.
        """
        self._give_room(filled, rows)
        width = max(len(row.branches) for row in rows)
        part = self._state.admit(filled, width=width)
        numbers = list(ways)
        # Rows with fewer branches than others repeat their first: it costs nothing more and is read by nobody.
        order = [
            [
                numbers.index((row.branches[place : place + 1] or row.branches)[0].way)
                for place in range(width)
            ]
            for row in rows
        ]
        index = torch.tensor(order, device=self._vlm.device)
        first = self._pick(list(ways.values()), index)
        with steer_and_measure(self._vlm, first) as proof:
            hidden = self._state.feed(part, width=width)
        lasting = [None if way is None or way.scope == "prefill" else way for way in ways.values()]
        self._state.set_shifts(part, self._pick(lasting, index))
        for row in rows:
            row.fed = list(row.branches)
        self._rows.extend(rows)
        self._choose(hidden, part, rows, moved=proof.moved, begins=True)

    def collect(self) -> list[Row]:
        """The prompts that have ended since; their rows are free."""
        while len(self._reports) > self._behind:
            self._reports.popleft().deliver(ends=self._rules.ends, most=self._rules.max_new_tokens)
        ended = [row for row in self._rows if row.ended]
        if ended:
            self._close_gaps()
        if self._rows:
            self._narrow()
        else:
            # What is still on its way is of branches that have ended.
            self._reports.clear()
        return ended

    def step(self) -> None:
        """Feed every branch once more."""
        part, width = slice(0, len(self._rows)), self._state.width
        shifts = {block: shift[part, :width] for block, shift in self._state.shifts.items()}
        with steer_branches(self._vlm, shifts):
            hidden = self._state.feed(part, width=width)
        self._choose(hidden, part, self._rows)

    def _give_room(self, filled: Filled, rows: Sequence[Row]) -> None:
        """Let answers end where the model's positions do."""
        most = self._rules.max_new_tokens
        # Positions are at most as many as columns; to ask the device for them would be to wait for it.
        if self._limit is None or filled.visible.shape[1] + 1 + most <= self._limit:
            return
        for row, position in zip(rows, filled.positions.tolist(), strict=True):
            room = self._limit - position + self._vlm.family.first_position - 1
            for branch in row.branches:
                # The first token is chosen at the prompt's last position, and needs none of its own.
                branch.room = max(1, room)

    def _pick(self, ways: Sequence[Intervention | None], index: Tensor) -> dict[int, Tensor]:
        """What every branch of some rows subtracts, by block [rows, branches, hidden]; `index` names their ways."""
        shifts = make_shifts(ways, rows=index.shape[0], device=self._vlm.device)
        return {
            block: shift.gather(1, index[:, :, None].expand(-1, -1, shift.shape[2]))
            for block, shift in shifts.items()
        }

    def _choose(
        self,
        hidden: Tensor,
        part: slice,
        rows: Sequence[Row],
        *,
        moved: Mapping[int, Tensor] | None = None,
        begins: bool = False,
    ) -> None:
        logits = self._head(hidden).to(self._vlm.device)
        highest, tokens = self._rules.narrow(logits, begins=begins).max(dim=-1)
        self._state.tokens[part, : tokens.shape[1]] = tokens
        # NaN as soon as one logit is, and infinite where one has overflowed.
        self._reports.append(Report(rows, torch.where(highest.isfinite(), tokens, -1), moved))

    def _close_gaps(self) -> None:
        """Fill the places of ended rows with the last ones, so that all rows under way stand together."""
        rows: list[Row | None] = [None if row.ended else row for row in self._rows]
        moves = []
        while None in rows:
            last = rows.pop()
            if last is not None:
                gap = rows.index(None)
                moves.append((len(rows), gap))
                rows[gap] = last
        self._rows = [row for row in rows if row is not None]
        self._state.keep(moves, used=len(self._rows))

    def _narrow(self) -> None:
        """Feed fewer branches a row as soon as no row has as many left."""
        left = [[place for place, branch in enumerate(row.fed) if not branch.ended] for row in self._rows]
        width = max(map(len, left))
        if width < self._state.width:
            order = [
                (places + [place for place in range(self._state.width) if place not in places])[:width]
                for places in left
            ]
            self._state.arrange(order)
            for row, places in zip(self._rows, left, strict=True):
                row.fed = [row.fed[place] for place in places]
