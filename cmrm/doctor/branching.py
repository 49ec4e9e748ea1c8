"""Check of tree decoding: ways that grow as branches of one cache row answer as each does by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cmrm.answering import why_apart
from cmrm.decoding_rules import DecodingRules, list_ends
from cmrm.doctor.answering import Steps, agree_in_steps, answer_steered
from cmrm.doctor.patient import STEPS, CheckFailedError, Patient
from cmrm.group_parts import Part, split_group
from cmrm.groups import Group, Way
from cmrm.prefill import prefill
from cmrm.prefix import lay_out
from cmrm.steering import Intervention
from cmrm.tree import Tree

# The second and third question are taken in when the first has come so far.
HEAD_START = 2


@dataclass(frozen=True, kw_only=True)
class _Recording(DecodingRules):
    """Rules that keep the logits of every pass, float32 [rows, branches, vocabulary]."""

    passes: list[Tensor] = field(default_factory=list)

    def narrow(self, logits: Tensor, *, begins: bool) -> Tensor:
        self.passes.append(logits.float())
        return super().narrow(logits, begins=begins)


def check_branches(patient: Patient) -> str:
    """Branches of one cache row, taken in at different times, answer as each way does by itself (laws 2 and 5).

    A model whose ways are answered one after the other passes.
    """
    reason = why_apart(patient.vlm)
    if reason is not None:
        return f"not used with this model: {reason}"
    ways = _make_ways(patient)
    grown = _grow(patient, ways)
    errors, logits = [], []
    for number, way in enumerate(ways):
        alone = answer_steered(patient.vlm, patient.pictured, way)
        for row, steps in enumerate(grown):
            mine = Steps(logits=steps.logits[[number]], tokens=steps.tokens[[number]])
            its = Steps(logits=alone.logits[[row]], tokens=alone.tokens[[row]])
            what = f"question {row + 1}, branch {number + 1} of {len(ways)}, against its way alone"
            errors.append(agree_in_steps(patient, mine, its, what=what))
        logits.append(alone.logits[:, 0])
    if any(torch.equal(logits[0], other) for other in logits[1:]):
        raise CheckFailedError("steering changed no logit, so nothing was tried")
    return f"{len(ways)} branches a row equal {len(ways)} runs (error {max(errors):.1g})"


def _make_ways(patient: Patient) -> list[Way]:
    blocks = patient.blocks[-3:-1] if len(patient.blocks) > 3 else patient.blocks[-2:]
    delta = patient.draw_shift(blocks)
    own = patient.shift[:, list(blocks)]
    return [
        None,
        Intervention(delta=delta, alpha=1.0, blocks=blocks, composition="direct"),
        Intervention(delta=own, alpha=0.7, blocks=blocks, composition="incremental"),
        Intervention(delta=delta, alpha=1.0, blocks=blocks, scope="prefill"),
    ]


@torch.inference_mode()
def _grow(patient: Patient, ways: Sequence[Way]) -> list[Steps]:
    """The answers of each question in all ways: logits [ways, steps, vocabulary] and tokens [ways, steps]."""
    vlm = patient.vlm
    # As in the answers that these are compared with, none ends before its time.
    ends = torch.tensor(list_ends(vlm), dtype=torch.long, device=vlm.device)
    rules = _Recording(max_new_tokens=STEPS + HEAD_START + 1, ends=frozenset(), never=ends, never_first=ends)
    tree = Tree(vlm, rows=len(patient.pictured), rules=rules)
    (first,) = split_group(Group(prompts=patient.pictured[:1], ways=[_take(way, [0]) for way in ways]), 0)
    others = range(1, len(patient.pictured))
    (rest,) = split_group(Group(prompts=patient.pictured[1:], ways=[_take(way, others) for way in ways]), 1)
    _admit(patient, tree, first)
    for _ in range(HEAD_START - 1):
        tree.step()
    _admit(patient, tree, rest)
    for _ in range(STEPS - 1):
        tree.step()
    early, begun, late = (
        rules.passes[:HEAD_START],
        rules.passes[HEAD_START],
        rules.passes[HEAD_START + 1 :],
    )
    rows = [[*(one[0] for one in early), *(one[0] for one in late)]]
    rows += [[begun[place - 1], *(one[place] for one in late)] for place in others]
    logits = [torch.stack(row[:STEPS], dim=1) for row in rows]
    return [Steps(logits=one, tokens=rules.narrow(one, begins=False).argmax(dim=-1)) for one in logits]


def _admit(patient: Patient, tree: Tree, part: Part) -> None:
    filled = prefill(patient.vlm, lay_out(patient.vlm, part.prompts, None))
    tree.admit(filled, part.rows, part.ways)


def _take(way: Way, rows: Sequence[int]) -> Way:
    return way and way.of_rows(rows)
