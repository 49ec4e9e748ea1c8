"""The program: build each model, run each check on it, and write what came out after every check."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from speed_budget import Budget
from speed_shapes import SHAPES
from speed_timing import tell
from transformers.utils import logging

from cmrm.models.oom import is_out_of_memory
from on_a_gpu.checks import Check, Outcome, explain, refuse, run_check
from on_a_gpu.device_maps import check_device_maps
from on_a_gpu.document import NAME, Document
from on_a_gpu.exactness import check_exactness
from on_a_gpu.examine import run_doctor
from on_a_gpu.halving import check_halving
from on_a_gpu.kernels import check_kernels
from on_a_gpu.large_states import check_large_states
from on_a_gpu.machine import describe_machine, free, write_bytes
from on_a_gpu.memory import check_batch_size, check_weights
from on_a_gpu.speed_figures import measure_speed
from on_a_gpu.subject import SIZES, Subject, build_subject

# The speed table is last: it takes what time is left.
CHECKS: tuple[Check, ...] = (
    Check(name="doctor", about="the laws of states, steering and batching", run=run_doctor),
    Check(name="exactness", about="states and answers against a naive hook", run=check_exactness),
    Check(name="weights", about="what is counted before a load, and what is taken", run=check_weights),
    Check(name="batch size", about="the batch that cmrm picks for the free memory", run=check_batch_size),
    Check(name="out of memory", about="smaller batches under a cap, the same answers", run=check_halving),
    Check(name="device maps", about="a model spread over two cards", run=check_device_maps),
    Check(name="large states", about="states beyond float16's range", run=check_large_states),
    Check(name="attention", about="eager, SDPA and its kernels, FlashAttention", run=check_kernels),
    Check(name="speed", about="the speed table", run=measure_speed),
)
USUAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"tiny": ("llava-tiny", "qwen-tiny"), "cpu": ("llava-small",), "cuda": ("llava-7b", "qwen-7b")}
)
# What is left of the time for what an estimate misses.
KEPT_BACK = 0.05


def main(arguments: Sequence[str] | None = None, *, checks: Sequence[Check] = CHECKS) -> int:
    """Run the checks and return the exit status: 1 if any failed, 2 if there is no such device."""
    since = time.monotonic()
    options = read_options(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        tell(
            "--device cuda: torch finds no GPU here; use --device cpu, or a build of torch for this GPU's driver."
        )
        return 2
    logging.set_verbosity_error()
    end = since + 60 * options.minutes * (1 - KEPT_BACK)
    document = Document(
        machine=describe_machine(torch.device(options.device)),
        options={"device": options.device, "minutes": f"{options.minutes:g}"},
        models={},
        outcomes=(),
        seconds=0.0,
    )
    chosen = [check for check in checks if options.check is None or check.name in options.check]
    for about, outcome in run_all(options, chosen, end=end):
        document = replace(
            document,
            models={**document.models, outcome.shape: about},
            outcomes=(*document.outcomes, outcome),
            seconds=time.monotonic() - since,
        )
        tell(f"{outcome.shape}, {outcome.check}: {outcome.status} ({outcome.seconds:.1f} s)")
        # A run that is killed leaves what it had found.
        document.write(options.out)
    print("\n".join(document.list_lines()))
    tell(f"written: {options.out / NAME}.md and .json")
    return int(document.failed)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=NAME, description="Check and measure cmrm on this machine's GPU.")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="tiny models and little work: seconds, also on a CPU"
    )
    parser.add_argument("--shape", nargs="+", choices=SHAPES, help="models; default: the device's")
    parser.add_argument(
        "--check", nargs="+", choices=[check.name for check in CHECKS], help="these alone; default: all"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of it (default: 10)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build", NAME),
        help=f"a folder for both files (default: build/{NAME})",
    )
    return parser.parse_args(arguments)


def run_all(
    options: argparse.Namespace, checks: Sequence[Check], *, end: float
) -> Iterator[tuple[str, Outcome]]:
    """Run the checks on each model, and yield a description of it with each outcome as it comes."""
    names = options.shape or USUAL["tiny" if options.tiny else options.device]
    for number, name in enumerate(names):
        share = Budget(end=end).share(len(names) - number)
        subject, unbuilt = _build(name, options, share)
        for check in checks:
            if subject is None:
                yield "Not built.", replace(unbuilt, check=check.name)
            else:
                yield describe(subject), run_in_time(check, subject)
        # The next model needs the memory of this one.
        del subject
        free(torch.device(options.device))


def run_in_time(check: Check, subject: Subject) -> Outcome:
    """Run a check if the model's time is not up."""
    if subject.budget.left <= 0:
        return refuse(check, subject.name, "the time is up; give more --minutes, or --check this one alone")
    tell(f"{subject.name}, {check.name}: {check.about}")
    return run_check(check, subject)


def _build(name: str, options: argparse.Namespace, budget: Budget) -> tuple[Subject | None, Outcome]:
    """The model, or the outcome of every check of one that could not be made."""
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    sizes = SIZES["tiny" if options.tiny else device.type]
    tell(f"{name}: building the model")
    try:
        made = build_subject(name, SHAPES[name], device=device, dtype=dtype, sizes=sizes, budget=budget)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other models are checked
        outcome = Outcome(check="", shape=name, **explain(error))
        if is_out_of_memory(error):
            reason = "the model does not fit into the memory of the device"
            outcome = replace(outcome, status="not possible here", line=reason, where="")
        return None, outcome
    return made, Outcome(check="", shape=name, status="passed", line="built")


def describe(subject: Subject) -> str:
    """A line on the model."""
    shape, model = subject.shape, subject.vlm.model
    held = sum(one.numel() * one.element_size() for one in model.parameters())
    return (
        f"{sum(one.numel() for one in model.parameters()) / 1e6:,.0f} M random weights in "
        f"{str(subject.dtype).removeprefix('torch.')} ({write_bytes(held)}), {shape.blocks} blocks × {shape.hidden}, "
        f"{model.config.get_text_config()._attn_implementation}, images of {shape.side} pixels."
    )
