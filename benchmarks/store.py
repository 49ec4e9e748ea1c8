"""Time writing and reading hidden states, against NumPy, safetensors, zarr and Lance.

    python benchmarks/store.py                     # about six minutes on two cores, 8 GB of disk; prints the tables
    python benchmarks/store.py --figure states     # writing, and reading a block, alone: about a minute
    python benchmarks/store.py --lookup-width 4096 # the look-up among a million rows of 8 GB

Every writer ends with fsync of each of its files and folders. All of a table are measured in one run, in turns, each
first in turn; the table has medians and, for ratios, numpy = 1. Readers give float32 [samples, width]. Lance and zarr
are left out where they are not installed (pip install 'cmrm[bench]').
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peers import (
    BATCH,
    MEMORY_MAP,
    NUMBERS,
    READERS,
    SHARD,
    WRITERS,
    make_vectors,
    name,
    write_cmrm,
    write_shard,
)

from storage.sql.database import connect
from storage.store import Store

BLOCK = 17
FIGURES = ["states", "look-up", "memory", "beside"]


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figure", action="append", choices=FIGURES, help="this one alone; may be repeated")
    parser.add_argument("--samples", type=int, default=625)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--lookup-rows", type=int, default=1_000_000)
    parser.add_argument("--lookup-width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--place", type=Path, default=None, help="a folder on the disk to measure")
    parser.add_argument("--only-write", type=int, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.figure = given.figure or FIGURES
    folder = Path(tempfile.mkdtemp(prefix="cmrm-bench-", dir=given.place))
    try:
        if given.only_write is not None:
            write_many(folder, rows=given.only_write, blocks=given.blocks, width=given.width)
            print(measure_peak())
            return
        print(
            f"{os.cpu_count()} cores; medians of {given.rounds} turns, ratios with the range of their middle half"
        )
        if "states" in given.figure:
            for numbers in NUMBERS:
                measure_write_and_read(folder, numbers, given)
        if "look-up" in given.figure:
            measure_look_up(folder, given)
        if "memory" in given.figure:
            measure_memory(given)
        if "beside" in given.figure:
            measure_write_overhead(folder, given)
    finally:
        shutil.rmtree(folder)


def measure_write_and_read(folder: Path, numbers: str, given: argparse.Namespace) -> None:
    """A table: write all, read one block of all samples, size on the disk."""
    vectors = make_vectors(given.samples, given.blocks, given.width, numbers=numbers)
    paths = {variant: folder / variant.replace(" ", "-") for variant in WRITERS}
    written = take_turns(
        list(WRITERS),
        lambda variant: WRITERS[variant](paths[variant], vectors),
        rounds=given.rounds,
        before=lambda variant: shutil.rmtree(paths[variant], ignore_errors=True),
    )
    readers = {
        reader: make(paths[variant]) for reader, (variant, make) in READERS.items() if variant in WRITERS
    }
    block = min(BLOCK, given.blocks - 1)
    expected = np.sort(vectors[:, block].astype(np.float32), axis=0)
    for reader, read in readers.items():
        found = read(block)
        assert found.dtype == np.float32
        assert np.array_equal(np.sort(found, axis=0), expected), f"{reader} read something else"
    reading = take_turns(list(readers), lambda reader: readers[reader](block), rounds=3 * given.rounds)
    size = vectors.nbytes
    print(f"\n{given.samples} samples x {given.blocks} blocks x {given.width} {numbers}, {size / 1e6:.0f} MB")
    print_table(
        ("written by", "s", "ratio", "range", "on disk / raw"),
        [
            (
                variant,
                f"{statistics.median(written[variant]):.3f}",
                *compare(written, variant, "numpy.save"),
                f"{measure_size(paths[variant]) / size:.3f}",
            )
            for variant in WRITERS
        ],
    )
    print_table(
        ("one block of all samples read by", "ms", "ratio", "range"),
        [
            (
                reader,
                f"{1000 * statistics.median(reading[reader]):.1f}",
                *compare(reading, reader, MEMORY_MAP),
            )
            for reader in readers
        ],
    )
    print(
        f"sha256 of the bytes, one thread: {measure_hashing(vectors) / statistics.median(written['numpy.save']):.1f}"
    )
    for path in paths.values():
        shutil.rmtree(path)


def measure_hashing(vectors: np.ndarray) -> float:
    """Seconds that sha256 of the bytes takes, which is a bound of every writer that makes a checksum."""
    began = time.perf_counter()
    hashlib.sha256(vectors.reshape(-1).view(np.uint8)).digest()
    return time.perf_counter() - began


def measure_look_up(folder: Path, given: argparse.Namespace) -> None:
    """The second table: one sample's states at all blocks among many rows, by its id."""
    samples = given.lookup_rows // given.blocks
    places = {"numpy, place known": folder / "many.npy", "cmrm": folder / "many"}
    shape = (samples, given.blocks, given.lookup_width)
    array = np.lib.format.open_memmap(places["numpy, place known"], "w+", np.float16, shape)
    for start in range(0, samples, SHARD):
        members = make_vectors(min(SHARD, samples - start), given.blocks, given.lookup_width, seed=start)
        array[start : start + len(members)] = members
        write_cmrm(places["cmrm"], members, start=start)
    array.flush()
    began = time.perf_counter()
    sql = connect(places["cmrm"])
    opened = time.perf_counter() - began
    wanted = iter(np.random.default_rng(0).integers(0, samples, 10_000).tolist())

    def from_numpy() -> None:
        np.load(places["numpy, place known"], mmap_mode="r")[next(wanted)].astype(np.float32)

    def from_sql() -> None:
        number = next(wanted)
        query = "SELECT block, vector FROM hidden_states WHERE sample_id = ? ORDER BY block"
        found = sql.execute(query, [name(number)]).fetchnumpy()
        assert np.array_equal(np.stack(list(found["vector"])), array[number].astype(np.float32))

    lookups = {"numpy, place known": from_numpy, "cmrm": from_sql}
    lookups["cmrm"]()
    took = take_turns(list(lookups), lambda variant: lookups[variant](), rounds=3 * given.rounds)
    print(
        f"\none sample's states at all blocks, among {samples * given.blocks:,} rows of {given.lookup_width} float16"
    )
    print_table(
        ("", "look-up ms"),
        [(variant, f"{1000 * statistics.median(took[variant]):.1f}") for variant in lookups],
    )
    manifests = len(list(Store.open(places["cmrm"]).manifests()))
    print(f"opening the store for SQL: {1000 * opened:.0f} ms, {manifests} manifests")
    sql.close()
    shutil.rmtree(places["cmrm"])
    places["numpy, place known"].unlink()


def measure_memory(given: argparse.Namespace) -> None:
    """The third table: the most memory that writing takes, a process each."""
    print(f"\nmost memory of a process that writes rows of {given.width} float16")
    rows = []
    for count in (0, 10_000, 100_000, given.lookup_rows):
        command = [sys.executable, __file__, "--only-write", str(count), "--width", str(given.width)]
        if given.place:
            command += ["--place", str(given.place)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append((f"{count:,} rows", f"{int(done.stdout) / 1e6:.0f}"))
    print_table(("", "MB"), rows)


def write_many(folder: Path, *, rows: int, blocks: int, width: int) -> None:
    """Write rows as one shard, made batch by batch; none are only imports."""
    samples = rows // blocks
    batches = (
        make_vectors(min(BATCH, samples - start), blocks, width, seed=start)
        for start in range(0, samples, BATCH)
    )
    write_shard(Store.create(folder / "store"), batches)


def measure_peak() -> int:
    """The most bytes of memory that this process has had."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_write_overhead(folder: Path, given: argparse.Namespace) -> None:
    """The fourth table: overhead of writing over computing the rows, commit included."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    torch.set_num_threads(1)
    config = LlamaConfig(
        hidden_size=768, intermediate_size=2048, num_hidden_layers=10, num_attention_heads=12, vocab_size=1000
    )
    model = LlamaModel(config).eval()
    tokens = torch.randint(0, 1000, (8, 64), generator=torch.Generator().manual_seed(0))

    def run_llama() -> np.ndarray:
        with torch.inference_mode():
            states = model(tokens, output_hidden_states=True).hidden_states[1:]
        return torch.stack([state[:, -1] for state in states], dim=1).half().numpy()

    fake = make_vectors(8, given.blocks, given.width)

    def wait_for_device() -> np.ndarray:
        time.sleep(0.08)
        return fake

    workloads = {
        "Llama 10 x 768 on one core, 64 tokens": (run_llama, 12),
        f"waiting 80 ms for 8 samples x {given.blocks} x {given.width}": (wait_for_device, 128),
    }
    print("\nwhat writing adds to the work that makes the rows")
    rows = []
    for workload, (work, batches) in workloads.items():
        work()

        def run(kind: str, work: Callable[[], np.ndarray] = work, batches: int = batches) -> None:
            made = (work() for _ in range(batches))
            write_shard(Store.create(folder / "written"), made) if kind == "writing" else list(made)

        took = take_turns(
            ["alone", "writing"],
            run,
            rounds=given.rounds,
            before=lambda _: shutil.rmtree(folder / "written", ignore_errors=True),
        )
        alone, writing = (statistics.median(took[kind]) for kind in ("alone", "writing"))
        rows.append((workload, f"{alone:.2f}", f"{writing:.2f}", f"{100 * (writing / alone - 1):.1f}"))
    print_table(("", "alone s", "writing s", "added %"), rows)


def take_turns(
    variants: Sequence[str],
    do: Callable[[str], Any],
    *,
    rounds: int,
    before: Callable[[str], Any] = lambda _: None,
) -> Mapping[str, Sequence[float]]:
    """Seconds of each variant's turns; every variant runs in each round, each first in turn."""
    took: dict[str, list[float]] = {variant: [] for variant in variants}
    for number in range(rounds):
        first = number % len(variants)
        for variant in (*variants[first:], *variants[:first]):
            before(variant)
            began = time.perf_counter()
            do(variant)
            took[variant].append(time.perf_counter() - began)
    return took


def compare(took: Mapping[str, Sequence[float]], variant: str, base: str) -> tuple[str, str]:
    """The ratio to a base, round by round: the median, and the range of the middle half."""
    ratios = [one / other for one, other in zip(took[variant], took[base], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return f"{median:.2f}", f"{low:.2f}–{high:.2f}"


def measure_size(folder: Path) -> int:
    """The bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def print_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns aligned, the first to the left."""
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    for row in (heading, *rows):
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    main()
