"""Time this project against its peers and the hardware's limits: `python benchmarks/speed.py`.

All variants of a figure take turns in one run, each time another one first; a figure is the median of its turns. No
goal is met by a variant whose result is not that of its peers, and the table says so. docs/speed.md has the tables.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from transformers.utils import logging

ROOT = Path(__file__).parents[1]
# The project need not be installed: a machine with a GPU may have torch and transformers alone.
sys.path.insert(0, str(ROOT))

import speed_alternatives  # noqa: E402
import speed_arms  # noqa: E402
import speed_defences  # noqa: E402
import speed_device_idle  # noqa: E402
import speed_levels  # noqa: E402
import speed_states  # noqa: E402
import speed_sweeps  # noqa: E402
from speed_bench import AMOUNTS, Amounts, Bench  # noqa: E402
from speed_budget import LOADS, Budget, Pace, estimate_shortest, halve, measure_pace  # noqa: E402
from speed_limits import Limits, measure_limits  # noqa: E402
from speed_profile import profile  # noqa: E402
from speed_shapes import SHAPES  # noqa: E402
from speed_table import Figure, Row, show_figure, show_goals  # noqa: E402
from speed_timing import tell  # noqa: E402

FIGURES: Mapping[str, Callable[[Bench], Figure]] = MappingProxyType(
    {
        "delta": speed_states.measure_delta,
        "pictures": speed_states.measure_pictures,
        "dataset": speed_levels.measure_dataset_level,
        "sample": speed_levels.measure_sample_level,
        "sweep": speed_sweeps.measure_sweep,
        "arms": speed_arms.measure_arms,
        "mixed": speed_sweeps.measure_mixed,
        "defences": speed_defences.measure_defences,
        "idle": speed_device_idle.measure_idle,
        "tried": speed_alternatives.measure_tried,
    }
)
USUAL = MappingProxyType({"cpu": ("llava-small",), "cuda": ("llava-7b", "qwen-7b")})
DTYPES = MappingProxyType({"float32": torch.float32, "bfloat16": torch.bfloat16})


def main() -> None:
    """Measure the chosen figures, print the tables, and write them as JSON if --out is given."""
    since = time.monotonic()
    options = read_options()
    budget = Budget(end=None if options.minutes is None else since + 60 * options.minutes)
    logging.set_verbosity_error()
    device = torch.device(options.device)
    dtype = DTYPES[options.dtype or ("bfloat16" if device.type == "cuda" else "float32")]
    record: dict[str, Any] = {"machine": describe_machine(device), "shapes": {}}
    print("\n".join(f"* {name}: {value}" for name, value in record["machine"].items()), flush=True)
    names = options.shape or USUAL[device.type]
    for number, name in enumerate(names):
        share = budget.share(len(names) - number)
        record["shapes"][name] = measure_shape(
            name, device=device, dtype=dtype, options=options, budget=share
        )
        # The next model needs the memory of this one.
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if options.out:
            options.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=USUAL, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="of the model; several are allowed")
    parser.add_argument(
        "--figure", action="append", choices=FIGURES, help="these alone; default: all, on a CPU but tried"
    )
    parser.add_argument("--amounts", choices=AMOUNTS, help="how much is asked; default: the device's")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; default: the device's")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each variant")
    parser.add_argument(
        "--minutes", type=float, help="for all of it: fewer turns, and no figure that does not fit"
    )
    parser.add_argument("--profile", action="store_true", help="the dearest operators of each figure too")
    parser.add_argument("--out", type=Path, help="a file for all of it as JSON")
    return parser.parse_args()


def measure_shape(
    name: str, *, device: torch.device, dtype: torch.dtype, options: argparse.Namespace, budget: Budget
) -> dict[str, Any]:
    """All figures of one model, printed as they come."""
    from speed_models import build

    shape = SHAPES[name]
    print(f"\n## {name}\n", flush=True)
    since = time.monotonic()
    try:
        vlm = build(shape, device=str(device), dtype=dtype)
    except torch.OutOfMemoryError:
        print(f"Not measured: {name} does not fit into the device's memory.", flush=True)
        return {"figures": []}
    limits = measure_limits(shape, device=device, dtype=dtype)
    amounts = AMOUNTS[options.amounts or device.type]
    bench = Bench(name=name, shape=shape, vlm=vlm, amounts=amounts, limits=limits, turns=options.repeats)
    print(describe_model(bench), flush=True)
    pace = measure_pace(bench)
    tell(f"{1000 * pace.prompt:.0f} ms a prompt, {1000 * pace.step:.0f} ms a decoding pass")
    figures = []
    # What else there is differs from GPU to GPU; on a CPU it was found to be no faster.
    keys = options.figure or [key for key in FIGURES if key != "tried" or device.type == "cuda"]
    for number, key in enumerate(keys):
        figure = measure_figure(key, bench, pace=pace, budget=budget, later=keys[number + 1 :])
        figures.append(figure)
        print(f"\n{show_figure(figure)}", flush=True)
        if options.profile and figure.profiled is not None:
            print(f"\n{profile(figure.profiled, device)}", flush=True)
    print(f"\n### Goals, {name}\n\n{show_goals(figures)}", flush=True)
    tell(f"{name}: {time.monotonic() - since:.0f} s")
    return {"limits": as_dict(limits), "figures": [figure.as_dict() for figure in figures]}


def measure_figure(key: str, bench: Bench, *, pace: Pace, budget: Budget, later: Sequence[str]) -> Figure:
    """Measure a figure in as many turns as the budget has time for, with smaller batches where memory is short."""
    amounts: Amounts | None = bench.amounts
    while amounts is not None:
        reserve = estimate_shortest(later, amounts, pace)
        plan = budget.plan(LOADS[key](amounts), pace, turns=bench.turns, reserve=reserve)
        if not plan.turns:
            reason = f"takes about {plan.seconds:.0f} s, and {max(0.0, budget.left):.0f} s are left"
            return leave_out(key, reason)
        tell(f"{key}: {plan.turns} turns, about {plan.seconds:.0f} s")
        until = time.monotonic() + budget.left - reserve
        try:
            return FIGURES[key](replace(bench, amounts=amounts, turns=plan.turns, until=until))
        except torch.OutOfMemoryError:
            amounts = halve(amounts)
        # Outside of the handler: its traceback holds the tensors of the figure.
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        tell(f"{key}: out of memory; again with batches of half the size")
    return leave_out(key, "one prompt does not fit into memory")


def leave_out(key: str, reason: str) -> Figure:
    """A figure that is not measured, and why."""
    return Figure(title=key, about="Left out.", rows=[Row(name=key, seconds=None, result=reason)])


def as_dict(limits: Limits) -> dict[str, float]:
    """For JSON."""
    return {"operations": limits.operations, "bandwidth": limits.bandwidth}


def describe_model(bench: Bench) -> str:
    """Describe the model and its hardware limits."""
    model, one, limits = bench.vlm.model, bench.shape, bench.limits
    parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
    return (
        f"{parameters:,.0f} M random weights in {str(model.dtype).removeprefix('torch.')}; {one.blocks} blocks × "
        f"{one.hidden}, {model.config.get_text_config()._attn_implementation}.\n"
        f"Measured limits: {limits.operations / 1e12:.3g} TFLOP/s in matrix products, "
        f"{limits.bandwidth / 1e9:,.0f} GB/s of memory.\nMedians of {bench.turns} turns; ± is half the range."
    )


def describe_machine(device: torch.device) -> dict[str, str]:
    """Describe the hardware and software of the measurement."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else name_processor(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.now(tz=UTC).date().isoformat(),
        "commit": name_commit(),
    }


def name_processor() -> str:
    """Read the CPU's name from Linux."""
    place = Path("/proc/cpuinfo")
    lines: Sequence[str] = place.read_text().splitlines() if place.exists() else ()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def name_commit() -> str:
    """Read the git commit and whether the working tree is dirty; empty without git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607 - as found on the path
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


if __name__ == "__main__":
    main()
