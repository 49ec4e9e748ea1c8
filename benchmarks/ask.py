"""Time asking a store and judging, each against NumPy or alone: `python benchmarks/ask.py`.

* A look-up of one sample's states among a million rows, a centroid and two principal components of 20,000 x 4,096.
* The rule judges on answers of some 60 words, 30 % of them refusals.
* The memory of ingest and of counting verdicts, by the number of samples, a process each.

Medians of turns that alternate, in time of the wall and of the processor; ± is half the range, ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from peers import SHARD, make_vectors, name, write_cmrm
from store import measure_peak, print_table

from cmrm.judges import Answer
from cmrm.judges.match import MatchJudge
from cmrm.judges.refusal import RefusalJudge
from storage.sql.database import connect
from storage.sql.vectors import centroid, pca

SENTENCES = (
    "The image shows a busy city street with several people walking along the sidewalk.",
    "In the foreground, a man in a blue shirt is riding a bicycle past a row of parked cars.",
    "There are two dogs lying on the grass, and one of them is chewing on a red toy.",
    "A large clock hangs on the wall of the building, and it reads about 10:30.",
    "It isn't clear from the photograph whether the train is arriving or leaving the station.",
    "The person doesn't seem to notice the camera, as they're looking in another direction.",
    "Next, mix the ingredients in a bowl for 5 minutes until the dough is smooth.",
    "However, it is important to keep in mind that safety rules differ from place to place.",
    "The children are playing soccer while their parents watch from a bench nearby.",
    "I would suggest speaking with someone you trust about how you feel.",
    "The cat's fur is mostly black, with a patch of white on its chest.",
    "If you want to visit, the best time of the year is between April and June.",
)
REFUSALS = (
    "I'm sorry, but I cannot assist with that request.",
    "As an AI language model, I can't provide instructions for illegal activities.",
    "It is not appropriate to discuss such a topic.",
)
REFERENCES = ("two", "red", "a dog", "23", "no", "on the grass", "10:30")


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the store with many states, 512 wide")
    parser.add_argument("--vectors", type=int, default=20_000, help="to average and decompose, 4,096 wide")
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--only-samples", type=int, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cmrm-ask-") as temporary:
        folder = Path(temporary)
        if given.only_samples is not None:
            ingest_and_count(folder, given.only_samples)
            print(measure_peak())
            return
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        measure_judging(given.answers)
        measure_memory()
        measure_look_up(folder, given.rows)
        measure_means(folder, given.vectors)


def measure_look_up(folder: Path, rows: int) -> None:
    """One sample's states at all blocks, by its id, against NumPy's map of an array with the place known."""
    blocks, width = 32, 512
    samples = rows // blocks
    array = np.lib.format.open_memmap(folder / "many.npy", "w+", np.float16, (samples, blocks, width))
    for start in range(0, samples, SHARD):
        members = make_vectors(min(SHARD, samples - start), blocks, width, seed=start)
        array[start : start + len(members)] = members
        write_cmrm(folder / "many", members, start=start)
    wanted = iter(np.random.default_rng(0).integers(0, samples, 10_000).tolist())
    with connect(folder / "many") as sql:

        def ask(source: str) -> None:
            number = next(wanted)
            query = f"SELECT block, vector FROM {source} ORDER BY block"  # noqa: S608 - one of two below
            found = sql.execute(query, [name(number)]).fetchnumpy()
            assert np.array_equal(np.stack(list(found["vector"])), array[number].astype(np.float32))

        by_index = partial(ask, "states_of_sample(?)")
        wall, processor = time.perf_counter(), time.process_time()
        by_index()
        print(
            f"\nthe first look-up by the index, which makes it: {1000 * (time.perf_counter() - wall):.1f} ms, "
            f"{1000 * (time.process_time() - processor):.1f} of the processor"
        )
        turns = {
            "NumPy, place known": lambda: array[next(wanted)].astype(np.float32),
            "the macro states_of_sample": by_index,
            "the view hidden_states": partial(ask, "hidden_states WHERE sample_id = ?"),
        }
        show(f"one sample's states among {samples * blocks:,} rows of {width}", turns, rounds=21)


def measure_means(folder: Path, count: int) -> None:
    """A centroid and two principal components, against NumPy on the vectors of the same query, and in memory."""
    for start in range(0, count, SHARD):
        write_cmrm(folder / "wide", make_vectors(min(SHARD, count - start), 1, 4096, seed=start), start=start)
    query = "SELECT vector FROM hidden_states WHERE block = 0"
    with connect(folder / "wide") as sql:

        def read() -> np.ndarray:
            column = sql.sql(query).to_arrow_table()["vector"]
            return np.concatenate([one.flatten().to_numpy().reshape(len(one), -1) for one in column.chunks])

        def decompose() -> None:
            vectors = read()
            centred = vectors - vectors.mean(axis=0, dtype=np.float64)
            np.linalg.eigh(centred.T @ centred)

        means: dict[str, Callable[[], Any]] = {
            "NumPy's mean of the query's vectors": lambda: read().mean(axis=0, dtype=np.float64),
            "centroid in Python": lambda: centroid(sql, query),
            "the macro centroid": lambda: sql.execute(
                "SELECT centroid(vector) FROM hidden_states"
            ).fetchall(),
        }
        show(f"centroid of {count:,} x 4,096", means, rounds=5)
        fits: dict[str, Callable[[], Any]] = {
            "NumPy: covariance, eigh": decompose,
            "pca in Python": lambda: pca(sql, query),
            "the macro pca": lambda: sql.execute("SELECT pca(vector) FROM hidden_states").fetchall(),
        }
        show(f"two principal components of {count:,} x 4,096, float64", fits, rounds=1)


def measure_judging(count: int) -> None:
    """Answers a second of processor time."""
    draw = random.Random(0)
    texts = []
    for _ in range(count):
        parts = [draw.choice(REFUSALS)] if draw.random() < 0.3 else []
        while sum(len(part.split()) for part in parts) < 53:
            parts.append(draw.choice(SENTENCES))
        texts.append(" ".join(parts))
    answers = [
        Answer(question="", answer=text, harmful=place % 2 == 0, reference=draw.choice(REFERENCES))
        for place, text in enumerate(texts)
    ]
    harmless = [one for one in answers if not one.harmful]
    words = statistics.mean(len(text.split()) for text in texts)
    print(f"\njudging {count:,} answers of {words:.0f} words, {len(set(texts)):,} of them distinct")
    rows = []
    for judge, judged in ((RefusalJudge(), answers), (MatchJudge(), harmless)):
        speeds = []
        for _ in range(5):
            began = time.process_time()
            judge.judge(judged)
            speeds.append(len(judged) / (time.process_time() - began))
        spread = (max(speeds) - min(speeds)) / 2 / statistics.median(speeds)
        rows.append((judge.kind, f"{statistics.median(speeds):,.0f}", f"{100 * spread:.0f}%"))
    print_table(("judge", "answers/s of a core", "±"), rows)


def measure_memory() -> None:
    """The most memory of a process that ingests questions and counts two verdicts on each."""
    print("\nmost memory of ingest and of counting verdicts, without a model and without Prefect's server")
    peaks = {}
    for count in (1_000, 100_000):
        command = [sys.executable, __file__, "--only-samples", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[count] = int(done.stdout)
    few, many = peaks.values()
    rows = [(f"{count:,} samples", f"{peak / 1e6:.0f}", f"{peak / few:.2f}") for count, peak in peaks.items()]
    print_table(("", "MB", "ratio"), rows)
    print(f"{(many - few) / 99_000:.0f} bytes a sample")


def ingest_and_count(folder: Path, count: int) -> None:
    """Ingest questions, commit two verdicts on each, and read both as a report does."""
    from storage.records.hashing import stage_key
    from storage.records.manifest import Manifest
    from storage.store import Store
    from storage.tables.arrow import from_rows, table_path
    from storage.tables.parquet import to_parquet
    from tasks.core.stage_name import StageName
    from tasks.data.ingest import ingest, plan_ingest
    from tasks.data.sources import Source
    from tasks.report.stage import read_outcomes

    path = folder / "questions.jsonl"
    with path.open("w") as file:
        for number in range(count):
            row = {
                "id": f"q{number:07}",
                "question": f"{SENTENCES[number % 12]} Why is it so in case {number}?",
            }
            file.write(json.dumps({**row, "harmful": number % 2 == 0}) + "\n")
    store = Store.create(folder / "store")
    source = Source(dataset="d", format="jsonl", path=path, images=None, options={}, fraction=0.02)
    (job,) = plan_ingest([source], store=store, seed=0, pairs={})
    ingested = Manifest.from_json(ingest.do(job)["manifests"][0].encode())
    judged = []
    same = {"model": "m", "judge": "refusal", "dataset": "d", "intervention": "", "verdict": "safe"}
    for start in range(0, count, 1024):
        rows = [
            {**same, "sample_id": f"q{number:07}", "condition": shown, "refused": True, "raw": "i am sorry"}
            | {"answer_digest": "0" * 64}
            for number in range(start, min(start + 1024, count))
            for shown in ("query", "image")
        ]
        key = stage_key("judge", {"start": start})
        data = to_parquet(from_rows(rows, "judgements"), "judgements")
        judged.append(store.commit("judge", key, {table_path("judgements", key): data}))
    outcomes = read_outcomes(store, {StageName.INGEST: [ingested], StageName.JUDGE: judged})
    assert len(outcomes.samples) == count


def show(title: str, variants: Mapping[str, Callable[[], Any]], *, rounds: int) -> None:
    """Time variants in turns, each first in turn, after a turn that is not timed where there are several rounds."""
    took: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
    names = list(variants)
    for number in range(-1 if rounds > 1 else 0, rounds):
        first = number % len(names)
        for variant in (*names[first:], *names[:first]):
            wall, processor = time.perf_counter(), time.process_time()
            variants[variant]()
            if number >= 0:
                took[variant].append((time.perf_counter() - wall, time.process_time() - processor))
    medians = {
        variant: [statistics.median(column) for column in zip(*turns, strict=True)]
        for variant, turns in took.items()
    }
    print(f"\n{title}")
    rows = []
    for variant, (wall, processor) in medians.items():
        walls = [one for one, _ in took[variant]]
        ratios = [mine / first for mine, first in zip((wall, processor), medians[names[0]], strict=True)]
        rows.append(
            (
                variant,
                f"{1000 * wall:.1f}",
                f"{50 * (max(walls) - min(walls)) / wall:.0f}%",
                f"{ratios[0]:.2f}",
                f"{1000 * processor:.1f}",
                f"{ratios[1]:.2f}",
            )
        )
    print_table(("", "wall ms", "±", "ratio", "processor ms", "ratio"), rows)


if __name__ == "__main__":
    main()
