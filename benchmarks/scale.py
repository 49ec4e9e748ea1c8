"""Cost and speed-up of distributing a run over workers, and its memory: `python benchmarks/scale.py [--only memory]`.

Four questions, each answered on this machine in one go:
* How long does orchestration take for a shard that has nothing to do, by number of shards and by workers?
* How long does the embedded model take, by number of shards and by workers?
* Does memory grow with the data set?
* How long does a run take that reuses all of its shards, against an import of Prefect and a start of its server?
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
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from flows.server.client import quiet_prefect

ROOT = Path(__file__).parents[1]
GOAL_MS = 50
GOAL_CACHED = 2
# Samples of the smaller runs whose memory is measured, one shard and four, and the goal for the largest over the first.
FEW, GOAL_MEMORY = (1_000, 4_000), 1.1
QUIET = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "CMRM_CACHE": "", "PREFECT_HOME": ""}
START = """
import time
since = time.perf_counter()
import prefect.flows
from pathlib import Path
from flows.server.embedded import EmbeddedServer
server = EmbeddedServer(log=Path({log!r}))
server.start()
server.wait()
print(time.perf_counter() - since)
"""


def main() -> None:
    """Run all four and print their tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000, help="of the largest data set")
    parser.add_argument("--shards", type=int, default=200, help="of the run that is reused")
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster of this machine too")
    parser.add_argument("--only", choices=["empty", "shards", "memory", "reuse"], help="this question alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cmrm-scale-") as temporary:
        folder = Path(temporary)
        os.environ.update(
            QUIET | {"CMRM_CACHE": str(folder / "cache"), "PREFECT_HOME": str(folder / "prefect")}
        )
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        quiet_prefect()
        workers = ["1", *(str(count) for count in powers(os.cpu_count() or 1)), *["ray:auto"][: options.ray]]
        print(f"{os.cpu_count()} processors; Prefect's server embedded; every figure of this one run\n")
        questions = {
            "empty": partial(show_empty_shards, folder, workers),
            "shards": partial(show_shards_and_workers, folder, workers),
            "memory": partial(show_memory, folder, options.samples),
            "reuse": partial(show_reuse, folder, options.shards),
        }
        for name, show in questions.items():
            if options.only in (None, name):
                show()


def powers(count: int) -> Iterator[int]:
    """2, 4, 8, … and the count itself, where it is above 1."""
    size = 2
    while size < count:
        yield size
        size *= 2
    if count > 1:
        yield count


def show_empty_shards(folder: Path, workers: Sequence[str]) -> None:
    """Milliseconds for a shard whose job commits one row."""
    from empty_shards import time_empty_shards

    counts = (1, 10, 50, 200)
    print(
        f"Orchestration alone: ms a shard (goal ≤ {GOAL_MS}), median of 3; what starting the workers takes is left out"
    )
    print(row("workers", [f"{count} shards" for count in counts]))
    for one in workers:
        times = time_empty_shards(folder / "empty", workers=one, counts=counts, turns=3)
        print(row(one, [f"{1000 * statistics.median(times[count]) / count:.1f}" for count in counts]))
    print()


def show_shards_and_workers(folder: Path, workers: Sequence[str]) -> None:
    """Seconds of whole runs of the embedded model on 480 questions."""
    counts = (1, 8, 32)
    print("The embedded model on 480 questions, 4 arms: seconds of the whole command")
    print(row("workers", [f"{count} shards" for count in counts]))
    for one in workers:
        seconds = []
        for count in counts:
            spec = write_spec(folder, samples=480, shard_size=-(-480 // count))
            store = folder / f"real-{one.replace(':', '-')}-{count}"
            seconds.append(run(spec, store, "--workers", one)[0])
            shutil.rmtree(store)
        print(row(one, [f"{one:.1f}" for one in seconds]))
    print()


def show_memory(folder: Path, samples: int) -> None:
    """Peak memory of a whole run in one process by the size of the data set: ingest, answers, verdicts, report.

    A run of several shards prepares one beside the one that is answered, which one of a single shard does not.
    """
    print(
        f"One process, shards of 1,024, answers of one token: the most memory of the run (goal ≤ {GOAL_MEMORY})"
    )
    print(row("samples", ["MB", "ratio", "seconds", "answers/s"]))
    peaks = []
    for count in (*FEW, samples):
        spec = write_spec(
            folder,
            samples=count,
            shard_size=1024,
            conditions=["query"],
            interventions=[],
            anchors={"from": {}},
            generation={"max_new_tokens": 1},
        )
        seconds, memory = run(spec, folder / f"memory-{count}")
        peaks.append(memory)
        cells = [
            f"{memory / 1e6:.0f}",
            f"{memory / peaks[0]:.3f}",
            f"{seconds:.0f}",
            f"{count / seconds:.0f}",
        ]
        print(row(f"{count:,}", cells), flush=True)
        shutil.rmtree(folder / f"memory-{count}")
    print(f"  {(peaks[-1] - peaks[-2]) / (samples - FEW[-1]):.0f} bytes a sample from {FEW[-1]:,} on\n")


def show_reuse(folder: Path, shards: int) -> None:
    """Seconds of a run with every shard committed, and Prefect's own start-up time."""
    size = 4
    spec = write_spec(folder, samples=shards * size // 2, shard_size=size, conditions=["image"])
    store = folder / "reused"
    run(spec, store)
    (record,) = (store / "runs").glob("*.json")
    jobs = len(set(find_keys(json.loads(record.read_text()))))
    again = statistics.median(run(spec, store)[0] for _ in range(3))
    start = statistics.median(start_prefect(folder) for _ in range(3))
    print(f"Reused: {jobs} jobs, {shards} of them shards that a model answered; medians of 3")
    print(row("", ["seconds", "ratio"]))
    print(row("import of Prefect + server", [f"{start:.1f}", "1.0"]))
    print(
        row("the whole command again", [f"{again:.1f}", f"{again / start:.1f}"])
        + f"   (goal ≤ {GOAL_CACHED})"
    )


def run(spec: Path, store: Path, *arguments: str) -> tuple[float, int]:
    """Run the command in a subprocess; returns its seconds and the peak memory of it and its children."""
    command = [
        sys.executable,
        "-c",
        "from flows.cli import start; start()",
        "run",
        str(spec),
        "--store",
        str(store),
    ]
    since = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - since
        if process.returncode:
            said.seek(0)
            sys.exit(f"the run failed with status {process.returncode}:\n{said.read().decode()}")
    return seconds, used.ru_maxrss * 1024


def start_prefect(folder: Path) -> float:
    """Seconds to import Prefect and start its server in a subprocess."""
    text = START.format(log=str(folder / "server.log"))
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout)


def find_keys(record: dict[str, Any]) -> list[str]:
    """The keys that a run used, wherever its record keeps them."""
    return list(record.get("keys") or record["content"]["keys"])


def write_spec(folder: Path, *, samples: int, shard_size: int, **changes: Any) -> Path:
    """Write a spec with so many questions for the embedded model; a fiftieth of them are anchors."""
    place = folder / f"spec-{samples}-{shard_size}"
    place.mkdir(exist_ok=True)
    from cmrm.organism import ensure_organism

    data = ensure_organism(folder / "cache").data
    source = [json.loads(line) for line in data.vlsafe.read_text().splitlines()]
    with (place / "questions.jsonl").open("w") as file:
        for number in range(samples):
            one = source[number % len(source)]
            question = {"id": number, "question": one["query"], "image": one["image_id"]}
            file.write(json.dumps(question) + "\n")
    spec = {
        "model": {"id": "organism", "dtype": "float32", "device": "cpu"},
        "datasets": {
            "many": {"format": "jsonl", "path": "questions.jsonl", "images": str(data.images)},
        },
        "anchors": {"from": {"many": 0.02}},
        "images": {"size": 32},
        "conditions": ["query", "image"],
        "target_states": [],
        "interventions": [{"name": "CMRM", "alpha": 1.0, "blocks": [4, 5, 6, 7]}],
        "generation": {"max_new_tokens": 8},
        "batch_size": 128,
        "shard_size": shard_size,
        **changes,
    }
    (place / "spec.yaml").write_text(yaml.safe_dump(spec))
    return place / "spec.yaml"


def row(name: str, cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"  {name:<28}" + "".join(f"{cell:>12}" for cell in cells)


if __name__ == "__main__":
    main()
