"""Check of tree decoding: arms that grow as branches of one KV cache slot answer as each arm does alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cmrm.decoding.api import why_apart
from cmrm.decoding.requests import Arm, DecodeRequest
from cmrm.decoding.scheduler import RequestPart, split_request
from cmrm.decoding.stop_tokens import DecodingRules, list_ends
from cmrm.decoding.tree_decoder import TreeDecoder
from cmrm.doctor.answering import Steps, agree_in_steps, answer_plainly, answer_steered
from cmrm.doctor.fixture import STEPS, CheckFailedError, ModelFixture
from cmrm.prefix.cache import prefill
from cmrm.prefix.planner import lay_out
from cmrm.steering.intervention import Intervention, Stack
from cmrm.steering.projection import Projection

# The second and third questions are admitted after the first has generated this many tokens.
HEAD_START = 2


@dataclass(frozen=True, kw_only=True)
class RecordingRules(DecodingRules):
    """Decoding rules that record the logits of each forward pass, float32 [rows, branches, vocabulary]."""

    passes: list[Tensor] = field(default_factory=list)

    def narrow(self, logits: Tensor, *, begins: bool) -> Tensor:
        self.passes.append(logits.float())
        return super().narrow(logits, begins=begins)


def check_branches(fixture: ModelFixture) -> str:
    """Branches of one KV cache slot, admitted at different times, answer as each arm does alone (laws 2 and 5).

    A model whose arms are decoded one after the other passes.
    """
    reason = why_apart(fixture.vlm)
    if reason is not None:
        return f"not used with this model: {reason}"
    arms = _make_arms(fixture)
    decoded = _decode_branches(fixture, arms)
    errors, logits = [], []
    for number, arm in enumerate(arms):
        prompts = fixture.pictured
        alone = answer_steered(fixture, prompts, arm) if arm else answer_plainly(fixture, prompts)
        for row, steps in enumerate(decoded):
            mine = Steps(logits=steps.logits[[number]], tokens=steps.tokens[[number]])
            its = Steps(logits=alone.logits[[row]], tokens=alone.tokens[[row]])
            what = f"question {row + 1}, branch {number + 1} of {len(arms)}, against its arm alone"
            errors.append(agree_in_steps(fixture, mine, its, what=what))
        logits.append(alone.logits[:, 0])
    if any(torch.equal(logits[0], other) for other in logits[1:]):
        raise CheckFailedError("steering changed no logit, so this check tested nothing")
    return f"{len(arms)} branches a row equal {len(arms)} runs (error {max(errors):.1g})"


def _make_arms(fixture: ModelFixture) -> list[Arm]:
    blocks = fixture.blocks[-3:-1] if len(fixture.blocks) > 3 else fixture.blocks[-2:]
    delta = fixture.draw_shift(blocks)
    own = fixture.shift[:, list(blocks)]
    unit = torch.nn.functional.normalize(delta.float(), dim=-1)[:, None]
    return [
        None,
        Intervention(delta=delta, alpha=1.0, blocks=blocks, composition="direct"),
        Intervention(delta=own, alpha=0.7, blocks=blocks, composition="incremental"),
        Intervention(delta=delta, alpha=1.0, blocks=blocks, scope="prefill"),
        Projection(directions=unit, blocks=blocks, scope="every_step"),
        Stack(
            parts=(
                Intervention(delta=delta, alpha=0.5, blocks=blocks),
                Projection(directions=unit, blocks=blocks, scope="every_step"),
            )
        ),
    ]


@torch.inference_mode()
def _decode_branches(fixture: ModelFixture, arms: Sequence[Arm]) -> list[Steps]:
    """Decode each question under all arms: logits [arms, steps, vocabulary] and tokens [arms, steps] by question."""
    vlm = fixture.vlm
    rules = make_recording_rules(fixture)
    tree = TreeDecoder(vlm, rows=len(fixture.pictured), rules=rules)
    (first,) = split_request(
        DecodeRequest(prompts=fixture.pictured[:1], arms=[_take(arm, [0]) for arm in arms]), 0, most=1
    )
    others = range(1, len(fixture.pictured))
    (rest,) = split_request(
        DecodeRequest(prompts=fixture.pictured[1:], arms=[_take(arm, others) for arm in arms]),
        1,
        most=len(others),
    )
    admit(fixture, tree, first)
    for _ in range(HEAD_START - 1):
        tree.step()
    admit(fixture, tree, rest)
    for _ in range(STEPS - 1):
        tree.step()
    early, mixed, late = (
        rules.passes[:HEAD_START],
        rules.passes[HEAD_START],
        rules.passes[HEAD_START + 1 :],
    )
    rows = [[*(one[0] for one in early), *(one[0] for one in late)]]
    rows += [[mixed[row - 1], *(one[row] for one in late)] for row in others]
    logits = [torch.stack(row[:STEPS], dim=1) for row in rows]
    return [Steps(logits=one, tokens=rules.narrow(one, begins=False).argmax(dim=-1)) for one in logits]


def make_recording_rules(fixture: ModelFixture) -> RecordingRules:
    """Make decoding rules under which no branch stops early, as no answer does that these are compared with."""
    ends = torch.tensor(list_ends(fixture.vlm), dtype=torch.long, device=fixture.vlm.device)
    return RecordingRules(
        max_new_tokens=STEPS + HEAD_START + 1, ends=frozenset(), never=ends, never_first=ends
    )


def admit(fixture: ModelFixture, tree: TreeDecoder, part: RequestPart) -> None:
    """Prefill the prompts of a part, and admit them."""
    prefilled = prefill(fixture.vlm, lay_out(fixture.vlm, part.prompts, None))
    tree.admit(prefilled, part.rows, part.arms)


def _take(arm: Arm, rows: Sequence[int]) -> Arm:
    return arm and arm.of_rows(rows)
