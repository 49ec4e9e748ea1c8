"""What models make of one image where torchvision can be imported: `python -m tests.conformance.pixels FOLDER…`.

Prints one line of JSON: for each folder, what `show_image` returns. Where there is no such folder, the tiny model of
the family that it is named after is built there: some can only be built with torchvision.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# The height shrinks clearly more than the width, where Qwen2-VL's processors differ by 20 grey levels.
SIDES = (400, 640)


def make_noise() -> Image.Image:
    """An image of noise, on which backends differ most."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIDES, 3), dtype=np.uint8))


def digest_pixels(pixels: Any) -> str:
    """Digest pixels as a processor returns them, in float32."""
    return hashlib.sha256(np.ascontiguousarray(np.asarray(pixels, dtype=np.float32)).tobytes()).hexdigest()


def show_image(folder: Path, image_backend: str) -> dict[str, str]:
    """The pinned backend of a folder, the key of states with an image, and the digest of the pixels the model gets."""
    from cmrm.models.vlm import render
    from cmrm.prompts.conditions import Prompt
    from flows.plan.plan import resolve_use
    from flows.spec.model_sections import ModelSpec
    from tasks.core.models import load_model_once
    from tasks.shards.prompts import PromptBuilder
    from tasks.shards.samples import Shard, Slice
    from tasks.states.extract import EmbedJob

    spec = {"id": str(folder), "dtype": "float32", "device": "cpu", "image_backend": image_backend}
    use = resolve_use(ModelSpec.model_validate(spec))
    shard = Shard(dataset="own", ingest="0" * 64, split="anchor", start=0, stop=1)
    job = EmbedJob(
        store="store",
        label="own",
        rows=1,
        slice=Slice(shard=shard, condition="image", rows=1, digest="0" * 64),
        model=use,
        showing=PromptBuilder(images=None, meaningless={}, system=None),
        batch_size=1,
    )
    inputs = render(load_model_once(use), [Prompt(text="what is it?", image=make_noise())])
    return {"backend": use.image_backend, "key": job.key, "pixels": digest_pixels(inputs["pixel_values"])}


def show_judge(folder: Path) -> str:
    """The digest of the pixels that a judge's checkpoint makes of the image."""
    from cmrm.judges.checkpoint import load_checkpoint
    from cmrm.models.pinning import digest_folder

    checkpoint = load_checkpoint(str(folder), digest_folder(folder), dtype="float32", device="cpu")
    assert checkpoint.processor is not None, checkpoint.blind
    return digest_pixels(
        checkpoint.processor.image_processor(make_noise(), return_tensors="np")["pixel_values"]
    )


def main() -> None:
    """Show the image to the models in the folders that are named."""
    from tests.conformance.program import admit_torchvision

    _operators = admit_torchvision()
    from tests.conformance.builders import BUILDERS

    for folder in map(Path, sys.argv[1:]):
        if not folder.exists():
            BUILDERS[folder.name](folder)
    shown = {
        folder: {
            **{asked: show_image(Path(folder), asked) for asked in ("auto", "torchvision")},
            "judge": show_judge(Path(folder)),
        }
        for folder in sys.argv[1:]
    }
    sys.stdout.write(f"{json.dumps(shown)}\n")


if __name__ == "__main__":
    main()
