"""Gather what the branches of a prompt come to, until all its ways have ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from cmrm.answers import Answer
from cmrm.faults import Fault
from cmrm.generation_apart import generate_apart
from cmrm.group_parts import Part, take_part
from cmrm.groups import Answered, Group
from cmrm.model import VisionLanguageModel
from cmrm.rows import Branch, Row


@dataclass(kw_only=True)
class _Open:
    """A prompt whose ways have not all ended: those that are still to come, and what has come."""

    missing: set[int]
    answers: dict[int, Answer] = field(default_factory=dict)
    acted: dict[int, dict[int, int]] = field(default_factory=dict)
    moved: dict[int, dict[int, float]] = field(default_factory=dict)
    asked: dict[int, dict[int, float]] = field(default_factory=dict)


class Collection:
    """The prompts of which some way is still missing, by group and row."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self._vlm = vlm
        self._groups: dict[int, Group] = {}
        self._open: dict[tuple[int, int], _Open] = {}

    def open(self, number: int, group: Group) -> list[Answered]:
        """Expect the answers of a group; those of its prompts of which none is wanted are given back at once."""
        self._groups[number] = group
        for row in range(len(group.prompts)):
            self._open[number, row] = _Open(missing=set(group.ways_of(row)))
        nothing = [key for key, one in self._open.items() if key[0] == number and not one.missing]
        return [self._close(key) for key in nothing]

    def take(self, row: Row) -> tuple[list[Part], Answered | None]:
        """Take a cache row whose branches have ended: what of it is to be done again, and the prompt if it is complete.

        Numbers that are not finite can pass from one branch to its neighbours, so those are answered again, alone.
        """
        key = (row.group, row.number)
        group, one = self._groups[row.group], self._open[key]
        again = []
        for branch in row.branches:
            if branch.fault is not None and len(row.branches) > 1:
                again.append(take_part(group, row.group, [row.number], [branch.way]))
                continue
            one.answers[branch.way] = self._read(branch, group, row)
            if group.ways[branch.way] is not None:
                one.acted[branch.way] = branch.acted
                one.moved[branch.way], one.asked[branch.way] = branch.moved, branch.asked
            one.missing.discard(branch.way)
        return again, None if one.missing else self._close(key)

    def _close(self, key: tuple[int, int]) -> Answered:
        number, row = key
        done = self._open.pop(key)
        if not any(group == number for group, _ in self._open):
            del self._groups[number]
        return Answered(
            group=number, row=row, answers=done.answers, acted=done.acted, moved=done.moved, asked=done.asked
        )

    def _read(self, branch: Branch, group: Group, row: Row) -> Answer:
        if branch.fault is not None:
            fault = self._locate(branch, group, row)
            return Answer(text="", tokens=branch.fault, finish_reason="length", fault=fault)
        text = self._vlm.processor.tokenizer.decode(branch.tokens, skip_special_tokens=True)
        assert branch.reason is not None  # a row is taken when all its branches have ended
        return Answer(text=text.strip(), tokens=len(branch.tokens), finish_reason=branch.reason)

    def _locate(self, branch: Branch, group: Group, row: Row) -> Fault:
        """Where the numbers stopped being finite: the prompt is asked once more, by itself, and looked at."""
        way, step = group.ways[branch.way], branch.fault
        assert step is not None  # asked of branches with a fault alone
        again = generate_apart(
            self._vlm,
            [group.prompts[row.number]],
            max_new_tokens=step + 1,
            intervention=way and way.of_rows([row.number]),
        )
        return again.answers[0].fault or Fault(step=step, block=None)
