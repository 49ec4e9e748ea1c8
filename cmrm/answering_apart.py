"""Answer groups one way after the other, for models whose ways cannot be answered together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cmrm.generation_apart import generate_apart
from cmrm.groups import Answered, Group
from cmrm.model import VisionLanguageModel


def answer_apart(
    vlm: VisionLanguageModel, groups: Iterable[Group], *, max_new_tokens: int
) -> Iterator[Answered]:
    """What `answer` gives, at the cost of a run for each way.

    What acted is counted on a batch here, passes that fed an ended answer's padding included, and shared out evenly.
    """
    for number, group in enumerate(groups):
        ways = {
            way: ([row for row in range(len(group.prompts)) if way in group.ways_of(row)], one)
            for way, one in enumerate(group.ways)
        }
        made = {
            way: generate_apart(
                vlm,
                [group.prompts[row] for row in rows],
                max_new_tokens=max_new_tokens,
                intervention=one and one.of_rows(rows),
            )
            for way, (rows, one) in ways.items()
            if rows
        }
        for row in range(len(group.prompts)):
            places = {way: ways[way][0].index(row) for way in group.ways_of(row)}
            proofs = {way: proof for way in places if (proof := made[way].proof) is not None}
            yield Answered(
                group=number,
                row=row,
                answers={way: made[way].answers[place] for way, place in places.items()},
                acted={
                    way: {block: count // len(ways[way][0]) for block, count in proof.acted.items()}
                    for way, proof in proofs.items()
                },
                moved={way: dict(proof.distance) for way, proof in proofs.items()},
                asked={way: dict(proof.asked) for way, proof in proofs.items()},
            )
