"""Train the second organism: `python -m cmrm.organism.pretrained [--out DIR] [--seeds N …] [--kept-text N …]`.

Kill it whenever you like: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging

from cmrm.errors import UserError
from cmrm.organism.pretrained import KEPT_TEXT, SEEDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cmrm.organism.pretrained", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--out", type=Path, default=Path("models/unplanted"), help="the folder of all model folders"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument(
        "--kept-text",
        type=int,
        nargs="+",
        default=list(KEPT_TEXT),
        help="variants: per cent of text in visual tuning",
    )
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    try:
        # Late import: it needs packages that nothing else here does.
        from cmrm.organism.pretrained.language_model import need_packages

        need_packages()
        from cmrm.organism.pretrained.course import Course, raise_variants
        from cmrm.organism.pretrained.recipe import Recipe

        course = Course(out=options.out, seeds=options.seeds, kept_text=options.kept_text, recipe=Recipe())
        records = raise_variants(course)
    except UserError as error:
        parser.error(str(error))
    for name, record in records.items():
        stage, right = list(record["stages"].items())[-1], record["visual_questions_right"]
        print(
            f"{options.out / name}: {stage[0]} {stage[1]['steps']} steps, those of step {stage[1]['kept_step']} kept; "
            f"{100 * right['rate']:.1f} % of {right['n']} visual validation questions right"
        )
    print("next: cmrm run specs/unplanted/main.yaml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
