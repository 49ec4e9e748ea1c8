"""Evaluate the shipped organism on its test questions against its goals: `python -m cmrm.organism.check`.

Prints a table and exits with status 1 if a goal is missed. The method, the data formats and the judges are those of
every other model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]
from transformers.utils import logging

from cmrm.errors import UserError
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.organism import ensure_organism, find_weights
from cmrm.organism.bench import (
    set_up,
)
from cmrm.organism.goals import EXAMS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cmrm.organism.check", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--variant", choices=list(EXAMS), default="organism", help="the variant whose goals apply"
    )
    parser.add_argument("--model", type=Path, help="model folder (default: the shipped one of the variant)")
    parser.add_argument("--data", type=Path, help="folder for the data sets (default: a temporary folder)")
    options = parser.parse_args(arguments)
    try:
        model = options.model or find_weights(options.variant)
    except UserError as error:
        parser.error(f"--model: {error}")
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        files = ensure_organism(options.data or Path(temporary)).data
        vlm = load_model(resolve_model(str(model)), dtype="float32", device="cpu")
        bench = set_up(vlm, files)
        exam = EXAMS[options.variant]
        goals = list(tqdm(exam.measure(bench), total=exam.goals, desc="check", unit="goal", leave=False))
    print(f"{'measured on test questions':<50}{'goal':<20}{'rate [95 % Wilson]':<26}{'n':>5}")
    for goal in goals:
        print(goal)
    return 0 if all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
