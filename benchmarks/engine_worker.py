"""One engine of speed_engines.py, in whose environment this runs: it answers the task each time a line asks for it.

Called as `engine_worker.py ENGINE FOLDER`; it reads `plain` or `steered` from stdin, and writes all answers as JSON:
the token ids of each, or its text from an engine that decodes it. Besides the engine it needs torch and safetensors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

# Before each line that is meant for the caller: engines print to stdout, too.
MARK = "@answers "
MODEL, TASK, VECTORS = "model", "task.json", "vectors.safetensors"
Answers = list[list[int]] | list[str]
Answer = Callable[[bool], Answers]


def main() -> None:
    """Load the engine, say its version, and answer until stdin ends."""
    engine, folder = sys.argv[1], Path(sys.argv[2])
    task = json.loads((folder / TASK).read_text())
    torch.set_num_threads(task["threads"])
    added = load_file(folder / VECTORS)["added"]
    version, answer = ENGINES[engine](folder, task, added)
    print(f"{MARK}{version}", flush=True)
    for line in sys.stdin:
        print(f"{MARK}{json.dumps(answer(line.strip() == 'steered'))}", flush=True)


def open_transformers(folder: Path, task: dict[str, Any], added: Tensor) -> tuple[str, Answer]:
    """`generate` of transformers, under a hook a block."""
    import transformers

    model, inputs = _load(folder, task)

    def make_hook(vector: Tensor) -> Callable[..., Tensor]:
        return lambda _block, _args, output: output + vector

    @torch.inference_mode()
    def answer(steered: bool) -> Answers:  # noqa: FBT001 - the one choice there is
        handles = [
            model.model.layers[block].register_forward_hook(make_hook(vector))
            for block, vector in zip(task["blocks"], added, strict=True)
            if steered
        ]
        try:
            made = model.generate(**inputs, max_new_tokens=task["new_tokens"], do_sample=False)
        finally:
            for handle in handles:
                handle.remove()
        return made[:, inputs["input_ids"].shape[1] :].tolist()

    return f"transformers {transformers.__version__}, generate with hooks", answer


def open_nnsight(folder: Path, task: dict[str, Any], added: Tensor) -> tuple[str, Answer]:
    """A trace of nnsight over the generation, which adds to each block's output at each step."""
    import nnsight
    from transformers import AutoTokenizer

    model, inputs = _load(folder, task)
    traced = nnsight.LanguageModel(model, tokenizer=AutoTokenizer.from_pretrained(folder / MODEL))
    count = task["new_tokens"]
    # Of one length, so that the loop over the steps comes to its end.
    amount = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}

    @torch.inference_mode()
    def answer(steered: bool) -> Answers:  # noqa: FBT001 - the one choice there is
        with traced.generate(dict(inputs), **amount) as tracer:
            if steered:
                for _step in tracer.iter[:count]:
                    for block, vector in zip(task["blocks"], added, strict=True):
                        traced.model.layers[block].output = traced.model.layers[block].output + vector
            made = tracer.result.save()
        return made[:, inputs["input_ids"].shape[1] :].tolist()

    return f"nnsight {nnsight.__version__}", answer


def open_vllm(folder: Path, task: dict[str, Any], added: Tensor) -> tuple[str, Answer]:
    """vLLM, with vectors of vllm-lens in the requests."""
    import vllm
    from vllm_lens import SteeringVector

    longest = max(map(len, task["prompts"])) + task["new_tokens"]
    model = vllm.LLM(
        str(folder / MODEL), dtype="float32", enforce_eager=True, max_model_len=longest, enable_prefix_caching=False,
        skip_tokenizer_init=True,
    )  # fmt: skip
    prompts = [{"prompt_token_ids": row} for row in task["prompts"]]
    amount = {"temperature": 0.0, "max_tokens": task["new_tokens"], "ignore_eos": True, "detokenize": False}
    vector = SteeringVector(activations=added, layer_indices=task["blocks"])

    def answer(steered: bool) -> Answers:  # noqa: FBT001 - the one choice there is
        more = {"extra_args": {"apply_steering_vectors": [vector]}} if steered else {}
        done = model.generate(prompts, vllm.SamplingParams(**amount, **more), use_tqdm=False)
        return [list(one.outputs[0].token_ids) for one in done]

    return f"vllm {vllm.__version__} with vllm-lens", answer


def open_cmrm(_folder: Path, task: dict[str, Any], added: Tensor) -> tuple[str, Answer]:
    """This project, on the language model of the same LLaVA."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from speed_models import build
    from speed_prompts import ask_text, make_questions
    from speed_shapes import SHAPES

    from cmrm.decoding.api import answer as decode
    from cmrm.decoding.requests import DecodeRequest
    from cmrm.prefix.planner import Prefixes
    from cmrm.steering.intervention import Intervention

    vlm = build(SHAPES[task["shape"]], device="cpu", dtype=torch.float32)
    prompts = ask_text(make_questions(len(task["prompts"])))
    blocks = tuple(task["blocks"])
    steering = Intervention(
        delta=-added, alpha=1.0, blocks=blocks, scope="every_position", composition="direct"
    )

    def answer(steered: bool) -> Answers:  # noqa: FBT001 - the one choice there is
        request = DecodeRequest(prompts=prompts, arms=[steering if steered else None])
        done = decode(
            vlm, [request], max_new_tokens=task["new_tokens"], rows=len(prompts), prefixes=Prefixes(vlm)
        )
        texts = {one.row: one.answers[0].text for one in done}
        return [texts[row] for row in range(len(prompts))]

    return "this checkout", answer


def _load(folder: Path, task: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """The model by transformers, and the prompts as one left-padded batch."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / MODEL, dtype=torch.float32).eval()
    longest = max(map(len, task["prompts"]))
    rows = [[0] * (longest - len(row)) + row for row in task["prompts"]]
    masks = [[0] * (longest - len(row)) + [1] * len(row) for row in task["prompts"]]
    return model, {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


ENGINES: dict[str, Callable[[Path, dict[str, Any], Tensor], tuple[str, Answer]]] = {
    "transformers": open_transformers,
    "nnsight": open_nnsight,
    "vllm": open_vllm,
    "cmrm": open_cmrm,
}


if __name__ == "__main__":
    main()
