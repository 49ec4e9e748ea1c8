"""Run a spec on videos, sounds and several images with a tiny Gemma 4: `python -m tests.flows.moving_media FOLDER`.

Gemma 4's processor needs torchvision. The run ends before its report, which a process without torchvision then writes.
What transformers itself makes of the same files goes to `expected.json`: by sample and condition the states of each
block at the last token, but that of the last block, and the answers to plain prompts.
"""

from __future__ import annotations

import json
import sys
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from flows.stages import OnDone
from flows.terminal.progress import Bar
from storage.records.manifest import Manifest
from tasks.core.stage import AnyJob, Stage
from tests.flows import shared_runs

NEW_TOKENS = 3
RATE = 16_000


class _BeforeReportError(Exception):
    """All but the report is done."""


class _WithoutReport(shared_runs.PlainStages):
    def do(
        self, stage: Stage[AnyJob], jobs: Sequence[AnyJob], bar: Bar, each: OnDone[AnyJob] | None
    ) -> tuple[dict[str, Manifest], int]:
        if any(job.stage == "report" for job in jobs):
            raise _BeforeReportError
        return super().do(stage, jobs, bar, each)


def main() -> None:
    """Build the model, run the spec, and write what to expect."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    from tests.conformance.builders import BUILDERS

    torch.manual_seed(0)
    BUILDERS["gemma4"](folder / "model")
    shared_runs.PlainStages = _WithoutReport  # type: ignore[misc]
    try:
        shared_runs.run_plainly(folder / "spec.yaml", folder / "store")
    except _BeforeReportError:
        (folder / "expected.json").write_text(json.dumps(expect_all(folder)))


@torch.inference_mode()
def expect_all(folder: Path) -> dict[str, Any]:
    """What transformers makes of each row under each condition."""
    from transformers import AutoModelForImageTextToText, AutoProcessor, Gemma4ImageProcessorPil

    model = AutoModelForImageTextToText.from_pretrained(folder / "model", attn_implementation="eager").eval()
    processor = AutoProcessor.from_pretrained(folder / "model")
    # The spec's image backend: torchvision resizes otherwise.
    processor.image_processor = Gemma4ImageProcessorPil.from_pretrained(folder / "model")
    found = {}
    for row in map(json.loads, (folder / "rows.jsonl").read_text().splitlines()):
        own = open_media(folder / "files", row)
        shown = {"query": {}, "image": own, "blank": make_blank(own)}
        for condition, media in shown.items():
            inputs = prepare(processor, row["question"], media)
            hidden = model.model(**inputs, output_hidden_states=True).hidden_states
            made = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
            answer = processor.tokenizer.decode(
                made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            # The last one is after the final norm.
            states = [one[0, -1].tolist() for one in hidden[1:-1]]
            found[f"{row['id']} {condition}"] = {"states": states, "answer": answer}
    return found


def open_media(files: Path, row: dict[str, Any]) -> dict[str, Any]:
    """The media of a row as a processor takes them."""
    if "images" in row:
        return {"images": [Image.open(files / name).convert("RGB") for name in row["images"]]}
    if "video" in row:
        with Image.open(files / row["video"]) as opened:
            frames = []
            for number in range(opened.n_frames):
                opened.seek(number)
                frames.append(np.asarray(opened.convert("RGB")))
        return {"videos": [np.stack(frames)]}
    with wave.open(str(files / row["audio"])) as opened:
        assert opened.getframerate() == RATE
        samples = np.frombuffer(opened.readframes(opened.getnframes()), dtype="<i2")
    return {"audio": [samples.astype(np.float32) / 2**15]}


def make_blank(own: dict[str, Any]) -> dict[str, Any]:
    """White images and frames of the same sizes, and silence of the same length."""
    kinds = {
        "images": lambda one: Image.new("RGB", one.size, "white"),
        "videos": lambda one: np.full_like(one, 255),
        "audio": np.zeros_like,
    }
    return {kind: [kinds[kind](one) for one in media] for kind, media in own.items()}


def prepare(processor: Any, question: str, media: dict[str, Any]) -> Any:
    """The inputs of one prompt."""
    parts = [{"type": kind.removesuffix("s")} for kind, several in media.items() for _ in several]
    turns = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    more = {}
    if "videos" in media:
        frames = len(media["videos"][0])
        told = {"fps": 4.0, "total_num_frames": frames, "frames_indices": [*range(frames)]}
        more = {"do_sample_frames": False, "video_metadata": [told]}
    return processor(text=[text], **media, **more, return_tensors="pt", add_special_tokens=False)


if __name__ == "__main__":
    main()
