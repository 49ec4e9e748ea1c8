"""The meaningless images of a run, from the provenance of what was measured and answered with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from storage.records.manifest import Manifest
from tasks.report.summary import StimulusSummary
from tasks.shards.stimuli import STIMULI


def gather_stimuli(made: Iterable[Manifest]) -> list[StimulusSummary]:
    """List what each model saw of each meaningless image, each once, in the order of the results.

    Results of an earlier release say nothing of it.
    """
    known = {one.name for one in fields(StimulusSummary)}
    found: dict[tuple[str, str], StimulusSummary] = {}
    for manifest in made:
        model = manifest.content["name"]
        for image, record in manifest.provenance.get(STIMULI, {}).items():
            own = {name: value for name, value in record.items() if name in known}
            found.setdefault((model, image), StimulusSummary(model=model, image=image, **own))
    return list(found.values())
