"""Match the models of two runs, and describe what differs besides the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from storage.records.hashing import canonical_json
from storage.records.manifest import Manifest
from tasks.compare.run_pairs import RunPairs
from tasks.core.software import gather_software
from tasks.report.outcomes import Arm
from tasks.report.table import name_arm
from tasks.shards.answers import find_judged_marks

Labels = Mapping[str, str]
# Fields of an answer's key besides the model, and their names in a note.
ASKED = {
    "image": "the meaningless image",
    "decoding": "how answers are decoded",
    "system": "the system line",
    "dtype": "the model's dtype",
    "attn_implementation": "how attention is computed",
    "quantization": "the bits of the weights",
    "trust_remote_code": "whether the model ran its own code",
}


def match_models(before: Sequence[str], after: Sequence[str]) -> tuple[Labels, Labels]:
    """Map two runs' models, named label@revision, to common names; those without a counterpart are left out.

    By the label; where several of a run share one, by the whole name; and by position where each run has one model,
    which then has the later one's label.
    """
    if len(before) == len(after) == 1:
        label = _label(after[0])
        return {before[0]: label}, {after[0]: label}
    sides = [{_call(name, names): name for name in names} for names in (before, after)]
    common = [label for label in sides[1] if label in sides[0]]
    old, new = ({side[label]: label for label in common} for side in sides)
    return old, new


def match_arms(reports: Sequence[Manifest]) -> tuple[Labels, Labels]:
    """Map the models of two reports to common names, and the arms that other systems answered, each by its own name.

    Text-only models beside them are matched among themselves.
    """
    before, after = ([model["name"] for model in report.content["models"]] for report in reports)
    old, new = match_models(before, after)
    alone = match_models(*map(list_backbones, reports))
    old, new = {**old, **alone[0]}, {**new, **alone[1]}
    was, now = map(_list_imported, reports)
    common = {name: name for name in now if name in was}
    return {**old, **common}, {**new, **common}


def describe_differences(
    reports: Sequence[Manifest],
    answered: Sequence[Sequence[Manifest]],
    judged: Sequence[Sequence[Manifest]],
    pairs: RunPairs,
    labels: Sequence[Labels],
) -> list[str]:
    """Describe, in a sentence each, what only one run has, and what both have with different settings."""
    return [
        *_find_lonely_models(reports, labels),
        *_find_other_files(reports),
        *_find_lonely(
            [name_of(arm) for arm in pairs.before.outcomes.arms],
            [name_of(arm) for arm in pairs.after.outcomes.arms],
        ),
        *_find_lonely(
            [f"judge {name}" for name in pairs.before.judges()],
            [f"judge {name}" for name in pairs.after.judges()],
        ),
        *_find_other_judges(judged),
        *_find_other_marks(judged),
        *_find_other_settings(reports),
        *_find_other_asking(answered, labels),
        *_find_other_software(answered),
    ]


def name_of(arm: Arm) -> str:
    """An arm with its model, as named in a sentence."""
    return f"{arm.model}: {name_arm(arm)}"


def _label(name: str) -> str:
    return name.rpartition("@")[0] or name


def _call(name: str, names: Sequence[str]) -> str:
    shared = [_label(one) for one in names].count(_label(name)) > 1
    return name if shared else _label(name)


def _find_lonely_models(reports: Sequence[Manifest], labels: Sequence[Labels]) -> Iterator[str]:
    for report, names, when in zip(reports, labels, ("earlier", "later"), strict=True):
        for name in (*(model["name"] for model in report.content["models"]), *list_backbones(report)):
            if name not in names:
                yield f"Only the {when} run has the model {name}"


def list_backbones(report: Manifest) -> list[str]:
    """List the text-only models that stand beside a report's models."""
    return [model["name"] for model in report.content.get("backbones", {}).get("models", ())]


def _list_imported(report: Manifest) -> dict[str, str]:
    """The digests of the files of arms that other systems answered, by name."""
    arms = report.content.get("imported", {}).get("arms", ())
    return {arm["name"]: arm["digest"] for arm in arms}


def _find_other_files(reports: Sequence[Manifest]) -> Iterator[str]:
    before, after = map(_list_imported, reports)
    for own, other, when in ((before, after, "earlier"), (after, before, "later")):
        if alone := [name for name in own if name not in other]:
            yield f"Only the {when} run has answers of {_list(alone)}, given elsewhere"
    for name, digest in after.items():
        if before.get(name, digest) != digest:
            yield f"The answers of {name}, given elsewhere, come from another file: {before[name][:12]} → {digest[:12]}"


def _find_lonely(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    for own, other, when in ((before, after, "earlier"), (after, before, "later")):
        if alone := [name for name in own if name not in other]:
            yield f"Only the {when} run has {_list(alone)}"


def _find_other_software(answered: Sequence[Sequence[Manifest]]) -> Iterator[str]:
    before, after = map(gather_software, answered)
    # Older releases recorded none.
    changed = [
        f"{name} {' and '.join(before[name])} → {' and '.join(after[name])}"
        for name in before
        if name in after and before[name] != after[name]
    ]
    if changed:
        yield f"Answers were made with other software, a possible cause of changes: {', '.join(changed)}"


def _find_other_judges(judged: Sequence[Sequence[Manifest]]) -> Iterator[str]:
    # Older releases did not record the judge.
    before, after = (
        {made.content["name"]: made.content["judge"] for made in side if "name" in made.content}
        for side in judged
    )
    for name, spec in after.items():
        other = before.get(name, spec)
        if fields := [field for field in {**other, **spec} if other.get(field) != spec.get(field)]:
            yield f"The judge {name} differs: {', '.join(fields)}"


def _find_other_marks(judged: Sequence[Sequence[Manifest]]) -> Iterator[str]:
    before, after = (
        sorted({f"{one.opening} … {one.closing}" for one in find_judged_marks(side).values()})
        for side in judged
    )
    if before != after:
        was, now = (f"without {_list(side)}" if side else "whole" for side in (before, after))
        yield f"Judges were given answers {was} in the earlier run, and {now} in the later one"


def _find_other_settings(reports: Sequence[Manifest]) -> Iterator[str]:
    before, after = (report.content["settings"] for report in reports)
    for name, settings in after.items():
        other = before.get(name, settings)
        for field in settings:
            if settings[field] != other.get(field):
                yield f"The intervention {name} differs: {field} {other.get(field)} → {settings[field]}"


def _find_other_asking(answered: Sequence[Sequence[Manifest]], labels: Sequence[Labels]) -> Iterator[str]:
    before, after = (_collect(made, names) for made, names in zip(answered, labels, strict=True))
    common = [arm for arm in after if arm in before]
    for field, words in ASKED.items():
        arms = [arm for arm in common if before[arm][field] != after[arm][field]]
        if arms:
            values = {" → ".join(side[arm][field].strip('"') for side in (before, after)) for arm in arms}
            where = "" if len(arms) == len(common) else f" ({_list(arms)})"
            yield f"Not the same in both runs: {words}{where}, {_list(sorted(values))}"


def _collect(made: Sequence[Manifest], labels: Labels) -> dict[str, dict[str, str]]:
    """The settings of each arm, by its name."""
    found: dict[str, dict[str, str]] = {}
    for manifest in made:
        content = manifest.content
        if content["name"] in labels:
            alpha = (content["intervention"] or {}).get("alpha")
            arm = Arm(labels[content["name"]], content["condition"], content["intervention_name"], alpha)
            found[name_of(arm)] = {name: canonical_json(content.get(name)).decode() for name in ASKED}
    return found


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
