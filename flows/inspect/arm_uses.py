"""What an arm of a finished run asks in place of the plain prompts, from the run's spec and the keys of its answers."""

from __future__ import annotations

from cmrm.prompts.reasoning import ReasoningMarks
from flows.spec.interventions import DefenceSpec, StackSpec
from flows.spec.spec import Spec
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.stage_name import StageName
from tasks.states.steering import DefenceUse, StackUse, StepUse


def restore_use(responses: Manifest, spec: Spec, *, store: Store) -> DefenceUse | StackUse | StepUse | None:
    """Restore what changed the prompts of these answers; None for arms that ask the plain ones.

    What it changes in hidden states is not restored.
    """
    content = responses.content
    named = {one.name: one for one in spec.all_interventions()}
    found = named.get(content["intervention_name"])
    if isinstance(found, StackSpec):
        parts = (named[name] for name in found.of)
        return StackUse(
            name=found.name, parts=tuple(_make_use(one) for one in parts if isinstance(one, DefenceSpec))
        )
    if not isinstance(found, DefenceSpec):
        return None
    steering = content["intervention"]
    use = _make_use(found)
    if "step" not in steering:
        return use
    marks = steering.get("without_trace")
    earlier = tuple(steering["earlier"].items())
    return StepUse(
        name=found.name,
        of=use,
        step=steering["step"],
        earlier=earlier,
        captioned=tuple(step for step, key in earlier if store.look_up(StageName.CAPTION, key) is not None),
        reasoning=None if marks is None else ReasoningMarks.from_content(marks),
    )


def _make_use(found: DefenceSpec) -> DefenceUse:
    # No prompt depends on the strength.
    return DefenceUse(name=found.name, kind=found.kind, alpha=None, options=found.options)
