"""How long the export of a checkpoint of LLaVA-1.5-7B's shapes takes beside copying its files, and how much memory.

    python benchmarks/export.py [--blocks 32] [--turns 3] [--folder DIR]

Weights are random bytes in shards of about 2 GB. Each turn copies the folder and exports it, either first by turns,
both with fsync, and drops what was written. Each is a process of its own, with a peak of memory of its own (Linux).
Exporting is writing alone: the proof afterwards loads the model, as any user does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from cmrm.export import FORMATS, ConstantShift, ExportRequest, Origin
from cmrm.models.revision import ModelIdentity, read_config
from cmrm.new_folder import sync_tree

SHARD = 2 * 2**30
WIDTH = 4096


def make_source(folder: Path, blocks: int) -> None:
    """Write a checkpoint of LLaVA-1.5-7B's shapes with so many decoder blocks, in bfloat16."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(num_hidden_layers=blocks, vocab_size=32064),
        dtype="bfloat16",
    )  # fmt: skip
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: one.shape for name, one in LlavaForConditionalGeneration(config).state_dict().items()}
    piece = torch.randint(0, 256, (2**26,), dtype=torch.uint8).view(torch.bfloat16)
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, shape in shapes.items():
        if sum(one.nbytes for one in shards[-1].values()) > SHARD:
            save_shard(folder, shards)
        count = shape.numel()
        shards[-1][name] = piece.repeat(-(-count // len(piece)))[:count].reshape(shape).clone()
    save_shard(folder, shards)
    names = {name: path.name for path in sorted(folder.glob("*.safetensors")) for name in read_names(path)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def save_shard(folder: Path, shards: list[dict[str, torch.Tensor]]) -> None:
    """Write the last shard, and begin another."""
    save_file(shards[-1], folder / f"model-{len(shards):05}.safetensors", metadata={"format": "pt"})
    shards[-1] = {}
    shards.append({})


def read_names(path: Path) -> list[str]:
    """The names of a file's tensors."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return [name for name in header if name != "__metadata__"]


def copy(source: Path, target: Path) -> None:
    """Copy all files, as `cp` does."""
    shutil.copytree(source, target)
    sync_tree(target)


def export(source: Path, target: Path) -> None:
    """Write the export."""
    config = read_config(str(source), source)
    blocks = config["text_config"]["num_hidden_layers"]
    chosen = FORMATS.make("checkpoint")
    request = ExportRequest(
        model=ModelIdentity(id=str(source), revision="sha256:0", folder=source, model_type="llava"),
        config=config,
        shift=ConstantShift(
            subtracted=torch.ones(1, WIDTH), alpha=1.0, blocks=(blocks - 1,), scope="every_step"
        ),
        origin=Origin(arm="benchmark"),
        blocks=blocks,
    )
    target.mkdir()
    chosen.check(request)
    chosen.write(request, target)
    sync_tree(target)


def measure(what: str, source: Path, target: Path) -> tuple[float, float]:
    """Seconds and peak memory in GB of one of the two, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, what, str(source), str(target)], check=True, capture_output=True, text=True
    )
    shutil.rmtree(target)
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def do_one(what: str, source: Path, target: Path) -> None:
    """Do one of the two, and print its seconds and its process's peak of memory."""
    # A child begins with its parent's peak.
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    {"copy": copy, "export": export}[what](source, target)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    print(json.dumps([seconds, int(status.partition("VmHWM:")[2].split()[0]) / 2**20]))


def main() -> None:
    """Make the source, and measure by turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        source.mkdir()
        make_source(source, given.blocks)
        sizes = [path.stat().st_size for path in source.glob("*.safetensors")]
        whole, largest = sum(sizes) / 2**30, max(sizes) / 2**30
        print(f"{given.blocks} blocks, {whole:.1f} GiB in {len(sizes)} shards, the largest {largest:.1f} GiB")
        found: dict[str, list[float]] = {"copy": [], "export": []}
        peaks: dict[str, float] = {}
        for turn in range(given.turns):
            for what in ("copy", "export")[:: 1 if turn % 2 else -1]:
                seconds, peaks[what] = measure(what, source, target)
                found[what].append(seconds)
                print(f"{what:<6} {seconds:7.1f} s, at most {peaks[what]:.2f} GiB", flush=True)
        ratio = statistics.median(found["export"]) / statistics.median(found["copy"])
        print(f"export / copy, medians: {ratio:.2f}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in {"copy", "export"}:
        do_one(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
