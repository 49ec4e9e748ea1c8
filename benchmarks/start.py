"""Time start-up of commands, tests and set-up: `python benchmarks/start.py [--before CHECKOUT] [--tests] [--set-up]`.

Every figure is a ratio of two medians of one go, the two measured in turns, so that a slow minute of the machine falls
on both: a run with nothing to do over importing DuckDB and Arrow, one new job over importing Prefect, and so on. With
`--before`, a checkout of an earlier commit, what this one needs over what that one needed; `--tests` and `--set-up` add
the two of these that take long.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from start_cases import Case, make_cases, make_cases_over


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Seconds of both sides of a case, turn by turn."""

    case: Case
    seconds: Sequence[float]
    base: Sequence[float]

    @property
    def ratio(self) -> float:
        """The median over the other side's median."""
        return statistics.median(self.seconds) / statistics.median(self.base)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest ratio of one turn."""
        ratios = [one / other for one, other in zip(self.seconds, self.base, strict=True)]
        return min(ratios), max(ratios)


def main() -> int:
    """Measure, print the table, and return how many goals were missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit, to measure against")
    parser.add_argument(
        "--tests", action="store_true", help="with --before: its test suite and this one, once"
    )
    parser.add_argument("--set-up", action="store_true", help="with --before: `make` from nothing, in both")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", default="", help="the cases whose name holds this text")
    options = parser.parse_args()
    if (options.tests or options.set_up) and options.before is None:
        parser.error("--tests and --set-up measure against an earlier checkout: add --before")
    with tempfile.TemporaryDirectory(prefix="cmrm-start-") as temporary:
        folder = Path(temporary)
        cases = [*make_cases(folder)]
        if options.before is not None:
            cases += make_cases_over(
                folder, options.before.resolve(), tests=options.tests, set_up=options.set_up
            )
        print(f"{os.cpu_count()} processors, Python {sys.version.split()[0]}; in turns, medians\n")
        print_head()
        missed: list[Case] = []
        for case in cases:
            if options.only in case.name:
                figure = measure(case, turns=min(options.turns, case.most_turns))
                print_figure(figure)
                if figure.ratio > case.goal:
                    missed.append(case)
    if missed:
        print("\nWhere the time goes of what missed its goal (docs/decisions/runs.md has the profiles):")
    for case in missed:
        print(f"* {case.name}: {case.bound}")
    return len(missed)


def measure(case: Case, *, turns: int) -> Figure:
    """Measure both sides of a case in turns, after one of each that is not counted."""
    case.prepare()
    if case.warm_up:
        case.run()
        case.base()
    pairs = [(case.run(), case.base()) for _ in range(turns)]
    seconds, base = zip(*pairs, strict=True)
    return Figure(case=case, seconds=seconds, base=base)


def print_head() -> None:
    """Print the table's head."""
    print(f"{'what, over what':<62} {'s':>7} {'over':>7} {'ratio':>6} {'turns':>11} {'goal':>5}")


def print_figure(figure: Figure) -> None:
    """Print a case as a row of the table."""
    case, (low, high) = figure.case, figure.spread
    seconds, base = statistics.median(figure.seconds), statistics.median(figure.base)
    verdict = "" if figure.ratio <= case.goal else "  missed"
    print(
        f"{case.name:<62} {seconds:>7.2f} {base:>7.2f} {figure.ratio:>6.2f} {f'{low:.2f}–{high:.2f}':>11} "
        f"{case.goal:>5.2f}{verdict}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
