"""Kill real runs at random moments until they finish, many times over: `python -m tests.soak`.

Each round gives one command again and again, on a store of its own, and kills it with SIGKILL in stage after stage, at
moments drawn from the seed; then it is let finish, and its tables are held against those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from tests.attempt import STAGES, STAGES_WITH_DIRECTIONS, Attempt, list_files, start
from tests.forked import Forker
from tests.same_tables import Difference, compare_stores

# In each round every stage is killed once, and so many more are drawn.
DRAWN = 5
# Kinds of defences that need a labelled direction.
DIRECTED = {"direction", "project", "shiftdc"}
# The stages that have workers.
WITH_WORKERS = ("embed", "generate")
BAD_LINES = (
    '{"id": "cut',
    '{"id": "token", "question": "say </s> now", "image": "0.png"}',
    '{"id": "blind", "question": "where is it?", "image": "none.png"}',
)


class Failure(Exception):  # noqa: N818 - what the soak has found, not what went wrong with it
    """Something that a killed run must not do."""


@dataclass(kw_only=True)
class Soak:
    """What is run, where, and what has come of it so far.

    `environments` take turns, round by round; one without PREFECT_API_URL has the runs' own server, whose
    PREFECT_HOME is taken away again and again. In the others, runs start with all imports behind them where there is
    a `forker`, so that less of the time is spent on starts.
    """

    spec: Path
    folder: Path
    environments: Sequence[Mapping[str, str]]
    arguments: Sequence[str]
    chance: random.Random
    stages: Sequence[str] = STAGES
    kill_workers: bool = False
    forker: Forker | None = None
    hits: Counter[str] = field(default_factory=Counter)
    lasted: dict[str, float] = field(default_factory=dict)
    jobs: Counter[str] = field(default_factory=Counter)

    def run_calmly(self) -> None:
        """One undisturbed run: what all others must come to, and how long each stage takes."""
        attempt = self.start("calm", self.environments[0])
        check(attempt, attempt.end(), allowed={0})
        times = [*attempt.began.items(), ("", time.monotonic() - attempt.started)]
        self.lasted = {stage: after - since for (stage, since), (_, after) in pairwise(times)}
        self.jobs = Counter(name.split("/")[0] for name in read_manifests(self.folder / "calm"))

    def run_round(self, number: int, targets: Sequence[str]) -> tuple[Counter[str], int, Difference]:
        """Kill runs on a new store once in each of the stages, then let one finish: hits, wipes, and the difference."""
        store = self.folder / f"round-{number}"
        environment = self.environments[(number - 1) % len(self.environments)]
        hits: Counter[str] = Counter()
        wiped = 0
        kept: dict[str, bytes] = {}
        if self.kill_workers:
            hits = self.disturb_workers(self.start(store.name, environment), targets)
            kept, targets = check_kept(store, kept), ()
        for target in targets:
            attempt = self.start(store.name, environment)
            hit = self.disturb(attempt, target)
            kept = check_kept(store, kept)
            if hit is None:
                break  # it had ended by itself
            hits[hit] += 1
            # Every second kill: the run after it finds Prefect knowing nothing.
            if "PREFECT_API_URL" not in environment and hits.total() % 2:
                wipe(Path(environment["PREFECT_HOME"]))
                wiped += 1
        attempt = self.start(store.name, environment)
        check(attempt, attempt.end(), allowed={0})
        check_kept(store, kept)
        self.hits += hits
        return hits, wiped, compare_stores(store, self.folder / "calm")

    def disturb(self, attempt: Attempt, target: str) -> str | None:
        """Kill a run at a moment within a stage; the stage that was hit, None if the run ended before."""
        moment = self.chance.random() * self.remaining(attempt.store, target)
        attempt.wait_for(target)
        time.sleep(moment)
        if not attempt.kill():
            check(attempt, attempt.process.returncode, allowed={0})
            return None
        check(attempt, 0, allowed={0})
        return attempt.glance()

    def disturb_workers(self, attempt: Attempt, targets: Sequence[str]) -> Counter[str]:
        """Kill workers of one run, stage after stage, until it ends: with others in their place, or in order."""
        hits: Counter[str] = Counter()
        for target in targets:
            if not attempt.wait_for(target):
                break
            time.sleep(self.chance.random() * self.remaining(attempt.store, target))
            hit = attempt.glance()
            hits[hit] += attempt.kill_a_worker(self.chance)
        check(attempt, attempt.end(), allowed={0, 1, 2})
        return hits

    def remaining(self, store: Path, stage: str) -> float:
        """About how many seconds the stage still takes: what is committed is not done again."""
        done = Counter(name.split("/")[0] for name in read_manifests(store))
        left = 1 - done[stage] / self.jobs[stage] if self.jobs[stage] else 1.0
        return self.lasted.get(stage, 0.0) * max(left, 0.1)

    def start(self, name: str, environment: Mapping[str, str]) -> Attempt:
        """Give the command, on the store of this name."""
        return start(
            self.spec,
            self.folder / name,
            log=self.folder / f"{name}.log",
            environment=environment,
            arguments=self.arguments,
            forker=self.forker if "PREFECT_API_URL" in environment else None,
            stages=self.stages,
        )


def check(attempt: Attempt, status: int, *, allowed: set[int]) -> None:
    """Raise `Failure` where a run printed a traceback or ended with a status that it should not."""
    said = attempt.log.read_text(errors="replace")
    if status not in allowed or "Traceback" in said:
        raise Failure(f"a run on {attempt.store.name} ended with status {status} and said:\n{said[-4000:]}")


def check_kept(store: Path, before: Mapping[str, bytes]) -> dict[str, bytes]:
    """Raise `Failure` where a manifest is gone or was written again, which is work done twice; all that are there."""
    now = read_manifests(store)
    for name, content in before.items():
        if now.get(name) != content:
            raise Failure(f"{store.name}: {name} {'is gone' if name not in now else 'was made twice'}")
    return now


def read_manifests(store: Path) -> dict[str, bytes]:
    """Every manifest by its stage and key."""
    folder = store / "manifests"
    return {
        f"{stage}/{name}": (folder / stage / name).read_bytes()
        for stage in list_files(folder)
        for name in list_files(folder / stage)
    }


def wipe(home: Path) -> None:
    """Take Prefect's database and its records away; a server that is still ending writes into what was moved."""
    if home.is_dir():
        home.rename(home.with_name(f"{home.name}-{time.monotonic_ns()}"))


def draw_targets(chance: random.Random, stages: Sequence[str], drawn: int = DRAWN) -> list[str]:
    """The stages of one round in their order: each but the start once, and some more."""
    return sorted([*stages[1:], *chance.choices(stages, k=drawn)], key=stages.index)


def list_stages(spec: Path) -> Sequence[str]:
    """The stages that a run of the spec goes through."""
    entries = yaml.safe_load(spec.read_text()).get("interventions", ())
    return STAGES_WITH_DIRECTIONS if any(one.get("kind") in DIRECTED for one in entries) else STAGES


def write_soak_spec(folder: Path, model: Path, *, samples: int, **changes: Any) -> Path:
    """A spec with three data sets of so many questions, bad rows, target states, and interventions of both levels.

    `changes` are fields that it has otherwise.
    """
    (folder / "images").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (40 + number, 30), (60 * number, 90, 120)).save(folder / "images" / f"{number}.png")
    rows: dict[str, list[dict[str, Any]]] = {"harmful": [], "own": [], "plain": []}
    for n in range(samples):
        more = {"id": f"{n}", "image": f"{n % 4}.png"}
        rows["harmful"].append(
            more | {"question": f"how do I {'really ' * (n % 5)}frob {n}?", "caption": f"{n}"}
        )
        rows["own"].append(more | {"question": f"what colour is square {n}?", "reference": "red"})
        rows["plain"].append({"id": f"{n}", "question": f"name {'one more ' * (n % 3)}number over {n}"})
    for name, members in rows.items():
        lines = [*map(json.dumps, members), *(BAD_LINES if name == "own" else ())]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    images = {"harmful": {"images": "images"}, "own": {"images": "images"}, "plain": {}}
    spec = {
        "model": {"id": str(model), "dtype": "float32", "device": "cpu"},
        "datasets": {
            name: {"format": "jsonl", "path": f"{name}.jsonl", "harmful": name == "harmful", **images[name]}
            for name in rows
        },
        "anchors": {"from": dict.fromkeys(rows, 0.3), "seed": 1},
        "conditions": ["query", "caption", "image", "noise"],
        "images": {"size": 32},
        "interventions": [
            {"name": "dataset", "grid": {"image": ["blank", "noise"], "method": ["mean", "pca"]}},
            {"name": "sample", "level": "sample", "alpha": 0.5},
        ],
        "generation": {"max_new_tokens": 16},
        "batch_size": 4,
        "shard_size": 16,
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({**spec, **changes}))
    return path


def run_rounds(soak: Soak, *, kills: int, seconds: float) -> Iterator[str]:
    """Round after round until there were enough kills and each stage was hit, or the time is over; a line each."""
    end = time.monotonic() + seconds
    soak.run_calmly()
    yield f"undisturbed: {', '.join(f'{stage} {lasted:.1f} s' for stage, lasted in soak.lasted.items())}"
    number = 0
    wanted = WITH_WORKERS if soak.kill_workers else soak.stages[1:]
    while soak.hits.total() < kills or any(not soak.hits[stage] for stage in wanted):
        if time.monotonic() > end:
            raise Failure(f"only {soak.hits.total()} kills in {seconds / 60:.0f} min, of {kills}")
        number += 1
        since = time.monotonic()
        hits, wiped, difference = soak.run_round(number, draw_targets(soak.chance, soak.stages))
        where = ", ".join(f"{stage} {hits[stage]}" for stage in soak.stages if hits[stage])
        yield (
            f"round {number}: {hits.total()} kills ({where}), Prefect wiped {wiped} times, "
            f"then finished: {difference}, {time.monotonic() - since:.0f} s"
        )
        if not difference.nothing:
            raise Failure(f"round {number} differs: {difference}")


def main() -> int:
    """Kill runs until there were enough kills; 0 if every round came to the same as an undisturbed run, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="at least so many")
    # A cold start takes 8 s on two good cores and three times as long on slow ones.
    parser.add_argument("--minutes", type=float, default=30.0, help="start no round after so many")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument("--samples", type=int, default=32, help="questions in each of the three data sets")
    parser.add_argument(
        "--spec", type=Path, help="a spec of your own in place of one with tiny random weights"
    )
    parser.add_argument(
        "--kill-workers", action="store_true", help="kill worker processes of the run, not the run itself"
    )
    parser.add_argument("arguments", nargs="*", help="more arguments for `cmrm run`, after --")
    asked = parser.parse_args()
    # They are needed here alone, and set an environment of their own.
    from flows.server.embedded import EmbeddedServer
    from tests.conftest import build_llava
    from tests.forked import RUN_ON_LLAVA
    from tests.preloaded import Preloaded

    started = time.monotonic()
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="cmrm-soak-"))
        folder = Path(place)
        shutil.rmtree(os.environ["CMRM_CACHE"], ignore_errors=True)
        own_places = {"PREFECT_HOME": str(folder / "served"), "CMRM_CACHE": str(folder / "cache")}
        os.environ |= own_places | {"OMP_NUM_THREADS": "1"}
        server = EmbeddedServer(log=folder / "server.log")
        server.start()
        server.wait()
        own = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        own["PREFECT_HOME"] = str(folder / "own")
        # The runs' own servers cost most of the time, so two rounds of three share one.
        served = {**os.environ, "PREFECT_API_URL": server.url}
        spec = asked.spec or write_soak_spec(
            folder / "data",
            build_llava(folder / "model", image_size=32, patch_size=8),
            samples=asked.samples,
        )
        soak = Soak(
            spec=spec.resolve(),
            stages=list_stages(spec),
            folder=folder,
            environments=(own, served, served),
            arguments=asked.arguments,
            chance=random.Random(asked.seed),
            forker=Forker(parent=stack.enter_context(Preloaded(*RUN_ON_LLAVA, environment=served))),
            kill_workers=asked.kill_workers,
        )
        outcome = "0 lost, 0 twice, tables equal"
        rounds = 0
        try:
            for line in run_rounds(soak, kills=asked.kills, seconds=asked.minutes * 60):
                rounds += line.startswith("round ")
                print(line, flush=True)
        except Failure as failure:
            outcome = f"FAILED: {failure}"
    print()
    for stage in soak.stages:
        print(f"{stage:<9} {soak.hits[stage]:>3} kills")
    minutes = (time.monotonic() - started) / 60
    print(f"{soak.hits.total()} kills over {rounds} rounds in {minutes:.0f} min: {outcome}")
    return int(outcome.startswith("FAILED"))


if __name__ == "__main__":
    sys.exit(main())
