"""Cut groups into parts that can be read together: ways that move the prompt itself stand alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import BatchFeature

from cmrm.conditions import Prompt
from cmrm.groups import Group, Way
from cmrm.rows import Branch, Row
from cmrm.steering import Intervention


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some prompts of a group with some of its ways, which share what is read of the prompt.

    `throughout` is the one way of a part whose intervention acts on the whole prompt. An intervention's Δ is of the
    part's own prompts; so is `rendered`, where they were rendered beforehand.
    """

    prompts: Sequence[Prompt]
    rows: Sequence[Row]
    ways: Mapping[int, Way]
    throughout: Intervention | None = None
    rendered: BatchFeature | None = None


def split_group(group: Group, number: int) -> list[Part]:
    """The parts of a group; prompts of which no way is wanted are in none."""
    together = [way for way, one in enumerate(group.ways) if one is None or one.scope != "all"]
    apart = [[way] for way, one in enumerate(group.ways) if one is not None and one.scope == "all"]
    parts = [take_part(group, number, range(len(group.prompts)), ways) for ways in (together, *apart)]
    return [part for part in parts if part.rows]


def take_part(group: Group, number: int, rows: Sequence[int], ways: Sequence[int]) -> Part:
    """Those of some prompts of a group of which some of these ways are wanted, with these ways."""
    wanted = {row: sorted(group.ways_of(row) & set(ways)) for row in rows}
    members = [row for row, chosen in wanted.items() if chosen]
    chosen_ways = {way: group.ways[way] for way in ways if any(way in wanted[row] for row in members)}
    if len(members) < len(group.prompts):
        chosen_ways = {way: one and one.of_rows(members) for way, one in chosen_ways.items()}
    throughout = [one for one in chosen_ways.values() if one is not None and one.scope == "all"]
    return Part(
        prompts=[group.prompts[row] for row in members],
        rows=[
            Row(
                group=number,
                number=row,
                branches=[_start(way, group.ways[way], row) for way in wanted[row]],
            )
            for row in members
        ],
        ways=chosen_ways,
        throughout=throughout[0] if throughout else None,
        rendered=group.rendered if len(members) == len(group.prompts) else None,
    )


def _start(number: int, way: Way, row: int) -> Branch:
    if way is None or not way.acts_on(row):
        return Branch(way=number)
    return Branch(way=number, blocks=way.blocks, acts_afterwards=way.scope != "prefill")
