"""Judges that score answers, one file a judge; a package adds its own by an entry point in the group `cmrm.judges`.

Imports `cmrm.models` and what that imports.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from cmrm.judges.judge import Answer, Judge, Usage, Verdict
from cmrm.plugins import Plugins

__all__ = ["JUDGES", "Answer", "Judge", "Usage", "Verdict", "find_judge", "list_judges", "make_judge"]

JUDGES: Plugins[Judge] = Plugins(
    word="judge",
    group="cmrm.judges",
    base=Judge,  # type: ignore[type-abstract] # compared with, never constructed
    # A run with the refusal judge alone needs neither torch nor an HTTP client.
    own=MappingProxyType(
        {
            "chat": "cmrm.judges.chat:ChatJudge",
            "choice": "cmrm.judges.choice:ChoiceJudge",
            "endpoint": "cmrm.judges.endpoint:EndpointJudge",
            "exact": "cmrm.judges.exact:ExactJudge",
            "harmbench": "cmrm.judges.harmbench:HarmBenchJudge",
            "llama-guard": "cmrm.judges.llama_guard:LlamaGuardJudge",
            "llama-guard-question": "cmrm.judges.llama_guard:LlamaGuardQuestionJudge",
            "llama-guard-vision": "cmrm.judges.llama_guard:LlamaGuardVisionJudge",
            "match": "cmrm.judges.match:MatchJudge",
            "overlap": "cmrm.judges.overlap:OverlapJudge",
            "refusal": "cmrm.judges.refusal:RefusalJudge",
            "shieldgemma": "cmrm.judges.shieldgemma:ShieldGemmaJudge",
            "strongreject": "cmrm.judges.strongreject:StrongRejectJudge",
            "vqa": "cmrm.judges.vqa:VqaJudge",
            "wildguard": "cmrm.judges.wildguard:WildGuardJudge",
            "wildguard-question": "cmrm.judges.wildguard:WildGuardQuestionJudge",
        }
    ),
)


def list_judges() -> list[str]:
    """List every kind of judge, built-in and from installed packages."""
    return JUDGES.list_kinds()


def find_judge(kind: str) -> type[Judge]:
    """Import the class of a kind of judge; raise `UserError` for an unknown kind or an entry point that is no judge."""
    return JUDGES.find(kind)


def make_judge(kind: str, **options: Any) -> Judge:
    """Construct a judge by its kind; raise `UserError` for an unknown kind, an unknown option or a missing option."""
    return JUDGES.make(kind, **options)
