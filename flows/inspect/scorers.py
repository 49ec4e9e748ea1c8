"""Inspect scorers for every kind of judge, `cmrm/refusal` and so on, and `cmrm/judge`, which takes the kind.

Imported whenever Inspect starts: what judges is imported with the first scorer that is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from inspect_ai.scorer import Scorer, scorer

from cmrm.judges import list_judges
from flows.inspect.names import named_for_inspect
from flows.inspect.scores import rates

MakeScorer = Callable[..., Scorer]


def _make_of_any_kind(kind: str = "refusal", **options: Any) -> Scorer:
    """Score answers by a judge of any kind, with its options."""
    from flows.inspect.scoring import make_scorer

    return make_scorer(kind, options)


def _make_maker(kind: str) -> MakeScorer:
    def make(**options: Any) -> Scorer:
        from flows.inspect.scoring import make_scorer

        return make_scorer(kind, options)

    make.__doc__ = f"Score answers by the judge {kind!r}, with its options."
    return make


def _register(name: str, make: MakeScorer) -> MakeScorer:
    registered: MakeScorer = scorer(metrics=[rates()], name=name)(named_for_inspect(make, name))
    return registered


cmrm_judge = _register("judge", _make_of_any_kind)
# By the kind of judge, those of installed packages included.
SCORERS: Mapping[str, MakeScorer] = MappingProxyType(
    {kind: _register(kind, _make_maker(kind)) for kind in list_judges()}
)
