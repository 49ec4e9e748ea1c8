"""Judges of answers, one file a judge. Users add theirs by an entry point of the group `cmrm.judges`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib.metadata import entry_points
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any

from cmrm.errors import UserError
from cmrm.judges.judge import Answer, Judge, Usage, Verdict

__all__ = ["Answer", "Judge", "Usage", "Verdict", "find_judge", "list_judges", "make_judge"]

GROUP = "cmrm.judges"
# Named and not imported: a run with the refusal judge alone needs neither torch nor an HTTP client.
OWN: Mapping[str, str] = MappingProxyType(
    {
        "chat": "cmrm.judges.chat:ChatJudge",
        "choice": "cmrm.judges.choice:ChoiceJudge",
        "endpoint": "cmrm.judges.endpoint:EndpointJudge",
        "exact": "cmrm.judges.exact:ExactJudge",
        "harmbench": "cmrm.judges.harmbench:HarmBenchJudge",
        "llama-guard": "cmrm.judges.llama_guard:LlamaGuardJudge",
        "llama-guard-vision": "cmrm.judges.llama_guard:LlamaGuardVisionJudge",
        "match": "cmrm.judges.match:MatchJudge",
        "overlap": "cmrm.judges.overlap:OverlapJudge",
        "refusal": "cmrm.judges.refusal:RefusalJudge",
        "shieldgemma": "cmrm.judges.shieldgemma:ShieldGemmaJudge",
        "strongreject": "cmrm.judges.strongreject:StrongRejectJudge",
        "wildguard": "cmrm.judges.wildguard:WildGuardJudge",
    }
)


def list_judges() -> list[str]:
    """Name every kind of judge, cmrm's own and those of installed packages."""
    return sorted({*OWN, *entry_points(group=GROUP).names})


def find_judge(kind: str) -> type[Judge]:
    """Find a kind of judge; raises `UserError` naming the known ones, or for an entry point that is no judge."""
    if kind in OWN:
        return resolve_name(OWN[kind])
    for entry in entry_points(group=GROUP, name=kind):
        try:
            found = entry.load()
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"judge {kind!r} of the entry point {entry.value} cannot be loaded: {error}."
            ) from error
        if not (isinstance(found, type) and issubclass(found, Judge)):
            raise UserError(
                f"judge {kind!r}: the entry point {entry.value} is no subclass of cmrm.judges.Judge."
            )
        return found
    raise UserError(f"judge {kind!r} is unknown; known judges: {', '.join(list_judges())}.")


def make_judge(kind: str, **options: Any) -> Judge:
    """Make a judge of a kind; raises `UserError` for an unknown kind or option, and for one that is missing."""
    found = find_judge(kind)
    known = [field.name for field in fields(found) if field.init]
    if unknown := [name for name in options if name not in known]:
        raise UserError(f"judge {kind!r} has no option {unknown[0]!r}; it has {', '.join(known)}.")
    needed = [field.name for field in fields(found) if field.default is field.default_factory is MISSING]
    if missing := [name for name in needed if name not in options]:
        raise UserError(f"judge {kind!r} needs the option {missing[0]!r}.")
    return found(**options)
