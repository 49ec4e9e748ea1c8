"""Memory: what cmrm counts a checkpoint to need and what the device took, and the batch size that cmrm picks, run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from speed_bench import find_lengths

from cmrm.decoding.api import answer
from cmrm.decoding.batch_size import count_cache_bytes, measure_budget
from cmrm.decoding.requests import DecodeRequest
from cmrm.models.memory import count_weight_bytes, measure_free_bytes
from cmrm.models.weight_files import LENGTH_BYTES, SINGLE
from cmrm.prefix.planner import Prefixes
from on_a_gpu.checks import Evidence, Table
from on_a_gpu.exactness import Steered
from on_a_gpu.machine import read_allocated, read_peak, reset_peak, write_bytes
from on_a_gpu.subject import Subject

# Names of dtypes in a safetensors header.
NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
# The allocator rounds each tensor up, and buffers are in no checkpoint: a share, and for tiny models so many bytes.
OVERHEAD, LEAST = 0.02, 4 << 20


def check_weights(subject: Subject) -> Evidence:
    """Count the weights by the headers of a checkpoint, as before a load, beside what building the model took."""
    with tempfile.TemporaryDirectory() as folder:
        write_outline(subject.vlm.model, Path(folder))
        counted = count_weight_bytes(Path(folder), dtype=subject.dtype, where="the checkpoint's outline")
    held = sum(one.numel() * one.element_size() for one in _list_weights(subject.vlm.model).values())
    took = subject.weight_bytes
    wrong = [] if counted == held else [f"counted {counted} bytes, and the weights hold {held}"]
    if took is not None and not 0 <= took - counted <= OVERHEAD * counted + LEAST:
        wrong.append(f"building the model took {took} bytes, and {counted} were counted")
    taken = "no GPU to compare with" if took is None else f"the GPU gave {write_bytes(took)}"
    return Evidence(
        line=f"counted by headers: {write_bytes(counted)}; {taken}",
        figures={"counted_bytes": counted, "held_bytes": held, "allocated_bytes": took},
        wrong=wrong,
    )


def write_outline(model: Any, folder: Path) -> None:
    """Write a checkpoint's header, with a hole in the file where the weights would be: no disk is needed for them."""
    header: dict[str, Any] = {}
    end = 0
    for name, weight in _list_weights(model).items():
        size = weight.numel() * weight.element_size()
        header[name] = {
            "dtype": NAMES[weight.dtype],
            "shape": list(weight.shape),
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header).encode()
    with (folder / SINGLE).open("wb") as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little"))
        file.write(text)
        file.truncate(file.tell() + end)


def _list_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights by name, each tied one once."""
    return {name: weight for name, weight in model.named_parameters() if weight.dtype in NAMES}


def check_batch_size(subject: Subject) -> Evidence:
    """Answer as many prompts at once as cmrm picks for the memory that is free, under two arms."""
    vlm, sizes = subject.vlm, subject.sizes
    _, lengths = find_lengths(vlm, subject.ask_pictures(min(sizes.most_rows, 32)))
    tokens = max(lengths)
    budget, free = measure_budget(vlm), measure_free_bytes(subject.device)
    picked = budget.count_rows(tokens, branches=2, new_tokens=sizes.new_tokens)
    batch, run = budget.count_prompts(tokens), min(picked, sizes.most_rows)
    cache = run * (tokens + 2 * sizes.new_tokens) * count_cache_bytes(vlm)
    prompts = subject.ask_pictures(run)
    steered = Steered(delta=torch.ones(1, vlm.hidden_size), blocks=subject.steered[:1]).intervention
    requests = [
        DecodeRequest(prompts=prompts[start : start + batch], arms=[None, steered])
        for start in range(0, run, batch)
    ]
    before = read_allocated(subject.device)
    reset_peak(subject.device)
    answered = list(answer(vlm, requests, max_new_tokens=sizes.new_tokens, rows=run, prefixes=Prefixes(vlm)))
    peak = read_peak(subject.device)
    grown = None if before is None or peak is None else peak - before
    share = "" if grown is None else f" and took {write_bytes(grown)}, {grown / free:.0%} of what was free"
    figures = {
        "free_bytes": free, "prompt_tokens": tokens, "cache_bytes_a_token": count_cache_bytes(vlm),
        "pass_tokens": budget.pass_tokens, "cache_tokens": budget.cache_tokens, "prefill_batch": batch,
        "rows_picked": picked, "rows_run": run, "cache_bytes": cache, "grown_bytes": grown,
    }  # fmt: skip
    return Evidence(
        line=f"cmrm picks {picked} prompts at once, {batch} to a prefill; {run} ran{share}",
        figures=figures,
        tables=[
            Table(
                title=f"The batch that cmrm picks: prompts of {tokens} tokens, 2 arms × {sizes.new_tokens} new tokens",
                cells=[
                    ["", "figure"],
                    ["free before", write_bytes(free)],
                    ["KV cache of a token", write_bytes(count_cache_bytes(vlm))],
                    ["prompts at once", str(picked)],
                    ["prompts to a prefill", str(batch)],
                    ["prompts that ran", str(run)],
                    ["their KV cache, as counted", write_bytes(cache)],
                    ["most that was taken", "not counted on a CPU" if grown is None else write_bytes(grown)],
                ],
                right=(1,),
            )
        ],
        wrong=_list_unanswered(run, answered, grown, free),
    )


def _list_unanswered(run: int, answered: list[Any], grown: int | None, free: int) -> list[str]:
    faults = sum(answer.fault is not None for one in answered for answer in one.answers.values())
    wrong = [] if len(answered) == run else [f"{len(answered)} of {run} prompts were answered"]
    wrong += [f"{faults} answers have NaN or inf in their logits"] if faults else []
    if grown is not None and grown > free:
        wrong.append(f"{grown} bytes were taken, and {free} were free")
    return wrong
