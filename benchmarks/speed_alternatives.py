"""Other ways to speed up decoding, compared with plain generation; slower ones are not used."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from types import MappingProxyType
from typing import Any

import speed_cmrm_calls as ours
import speed_peers as peers
import torch
from speed_answer_checks import PLAIN, compare_with_references, tell_same
from speed_bench import Bench
from speed_prompts import ask_pictures, ask_text, make_questions
from speed_table import Figure, Row, make_rows
from speed_timing import Variant, take_turns, tell, time_once
from torch.nn.attention import SDPBackend, sdpa_kernel

from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt

# Seconds for a first call, which may compile.
PATIENCE = 150
ON_TEXT = "transformers generate, questions alone"
CONTINUOUS = "transformers generate_batch, questions alone"
EAGER = "eager attention"
# SDPA left to one of its kernels; plain generation leaves the choice to PyTorch.
KERNELS: Mapping[str, Mapping[str, SDPBackend]] = MappingProxyType(
    {
        "cpu": {"SDPA, flash": SDPBackend.FLASH_ATTENTION, "SDPA, math": SDPBackend.MATH},
        "cuda": {
            "SDPA, flash": SDPBackend.FLASH_ATTENTION,
            "SDPA, memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
            "SDPA, cuDNN": SDPBackend.CUDNN_ATTENTION,
            "SDPA, math": SDPBackend.MATH,
        },
    }
)
STATIC = "static cache"
COMPILED = "static cache, torch.compile"


def measure_tried(bench: Bench) -> Figure:
    """Attention, caches, compilation and continuous batching of transformers, on one batch of a fixed length."""
    tell("what else there is")
    vlm, amounts = bench.vlm, bench.amounts
    questions = make_questions(amounts.batch)
    prompts, text = ask_pictures(questions, side=bench.shape.side), ask_text(questions)
    plain = partial(peers.answer_plainly, vlm, new_tokens=amounts.new_tokens, size=len(prompts))
    arms: Mapping[str, Callable[[], ours.Said]] = {
        EAGER: partial(_answer_eagerly, vlm, partial(plain, prompts)),
        **{
            name: partial(_answer_by_kernel, kernel, partial(plain, prompts))
            for name, kernel in KERNELS[bench.device.type].items()
        },
        STATIC: partial(plain, prompts, cache_implementation="static", disable_compile=True),
        COMPILED: partial(plain, prompts, cache_implementation="static", compile_config=_compile_anywhere()),
        CONTINUOUS: partial(_answer_continuously, vlm, text, new_tokens=amounts.new_tokens),
    }
    first, failed = _try(arms, bench.device)
    base = {PLAIN: partial(plain, prompts), ON_TEXT: partial(plain, text)}
    variants = [Variant(name=name, run=run) for name, run in base.items()]
    variants += [Variant(name=name, run=arms[name]) for name in first]
    timings = take_turns(variants, turns=bench.turns, device=bench.device, until=bench.until)
    pairs = {name: ON_TEXT if name == CONTINUOUS else PLAIN for name in first}
    rows = make_rows(
        timings, base=PLAIN, limit=None, results=tell_same(compare_with_references(timings, pairs))
    )
    failures = [Row(name=name, seconds=None, result="see below") for name in failed]
    notes = [
        f"{name}: the first call took {seconds:.0f} s." for name, seconds in first.items() if seconds > 10
    ]
    if COMPILED in first and bench.device.type == "cuda":
        notes.append(f"{COMPILED}: transformers compiles for CUDA graphs (reduce-overhead).")
    if CONTINUOUS in first:
        ratio = timings[CONTINUOUS].median / timings[ON_TEXT].median
        notes.append(
            f"generate_batch takes no images; over generate on the same questions it is {ratio:.2f}."
        )
    return Figure(
        title=f"Alternatives: {len(prompts)} prompts, one batch, {amounts.new_tokens} tokens each",
        about="Ratios over plain generation of transformers with SDPA and a cache that grows.",
        rows=[*rows, *failures],
        notes=[*notes, *(f"{name}: {reason}" for name, reason in failed.items())],
    )


def _try(
    arms: Mapping[str, Callable[[], Any]], device: torch.device
) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of each alternative's first call, and the error of each that failed."""
    first, failed = {}, {}
    for name, run in arms.items():
        try:
            with _within(PATIENCE):
                first[name] = time_once(run, device)
        except Exception as error:  # noqa: BLE001 - whatever a library's new feature fails with, the others go on
            failed[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"
        tell(f"{name}: {failed.get(name) or f'{first[name]:.1f} s'}")
    return first, failed


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    """Raise `TimeoutError` if the body takes longer."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _answer_eagerly(vlm: VisionLanguageModel, run: Callable[[], ours.Said]) -> ours.Said:
    usual = vlm.model.config.get_text_config()._attn_implementation
    vlm.model.set_attn_implementation("eager")
    try:
        return run()
    finally:
        vlm.model.set_attn_implementation(usual)


def _answer_by_kernel(kernel: SDPBackend, run: Callable[[], ours.Said]) -> ours.Said:
    with sdpa_kernel(kernel):
        return run()


def _compile_anywhere() -> Any:
    from transformers import CompileConfig

    config = CompileConfig()
    # By default transformers compiles on GPUs only.
    config._compile_all_devices = True
    return config


def _fit_cache(rows: Sequence[Sequence[int]], new_tokens: int) -> Any:
    """Count the KV cache pages of these rows: by default it allocates most of the memory, on a CPU for minutes."""
    from transformers import ContinuousBatchingConfig

    page = 32
    pages = sum(-(-(len(row) + new_tokens) // page) for row in rows)
    # transformers called it `block_size` before.
    names = {one.name for one in fields(ContinuousBatchingConfig)}
    size = {"page_size" if "page_size" in names else "block_size": page}
    return ContinuousBatchingConfig(
        **size, num_blocks=pages + len(rows), max_batch_tokens=sum(map(len, rows))
    )


@torch.no_grad()
def _answer_continuously(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt], *, new_tokens: int
) -> ours.Said:
    """Transformers' continuous batching; it takes token ids, no images."""
    inputs = render(vlm, prompts)
    rows = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    config = peers.decode_greedily(vlm, new_tokens)
    results = vlm.model.generate_batch(
        inputs=rows,
        generation_config=config,
        continuous_batching_config=_fit_cache(rows, new_tokens),
        progress_bar=False,
    )
    answers = {tuple(one.prompt_ids): one.generated_tokens for one in results.values()}
    decode = vlm.processor.tokenizer.decode
    return [
        [
            (decode(answers[tuple(row)], skip_special_tokens=True).strip(), len(answers[tuple(row)]))
            for row in rows
        ]
    ]
