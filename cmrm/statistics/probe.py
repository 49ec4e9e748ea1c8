"""A linear probe that tells harmful states from harmless ones, tested on states that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cmrm.statistics.auroc import Auroc, measure_auroc

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

FOLDS = 5
# Of each label; more are drawn from.
MOST_STATES = 2_000
SEED = 0

States = NDArray[np.float64]
Labels = NDArray[np.bool_]


def build_probe() -> Pipeline:
    """Build a logistic regression on standardised states, not fitted."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # With standardised states and the default penalty (C = 1) the solver converges within hundreds of steps.
    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=10_000))


def fit_probe(states: States, harmful: Labels) -> Pipeline:
    """Fit a probe to states [n, hidden], at most 2,000 of each label; `ValueError` for one label alone."""
    rows = draw_rows(harmful)
    return build_probe().fit(states[rows], harmful[rows])


def cross_validate(states: States, harmful: Labels, groups: Sequence[Any]) -> Auroc | None:
    """Measure the AUROC of probes in five folds, each tested on the fold that it was not trained on.

    States of one of the `groups`, such as a question's text, are never on both sides. At most 2,000 states of each
    label are used. The interval is too narrow: it leaves out that other samples would train other probes (of 300
    simulations with labels of chance, 80 states of 12 numbers, it held 0.5 in 85 %). None where a label has fewer than
    five groups, or a fold would train on one label alone.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rows = draw_rows(harmful)
    values, labels, names = states[rows], harmful[rows], np.asarray(groups)[rows]
    if min(len(set(names[labels == label])) for label in (True, False)) < FOLDS:
        return None
    scores, folds = np.empty(len(rows)), []
    splitter = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=SEED)
    for train, test in splitter.split(values, labels, names):
        # Few groups with very many states can leave one label to train on.
        if len(set(labels[train])) < 2:
            return None
        if len(test):
            scores[test] = build_probe().fit(values[train], labels[train]).decision_function(values[test])
            folds.append(test)
    return measure_auroc(scores, labels, folds)


def draw_rows(harmful: Labels) -> NDArray[np.intp]:
    """Draw at most 2,000 rows of each label by the seed, in order; all where there are no more."""
    generator = np.random.default_rng(SEED)
    drawn = [generator.permutation(np.flatnonzero(harmful == label))[:MOST_STATES] for label in (True, False)]
    return np.sort(np.concatenate(drawn))
