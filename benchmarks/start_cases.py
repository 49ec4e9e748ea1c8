"""The cases of `start.py`: what is measured, what it is measured against, and the goal."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
# As the installed command; an earlier checkout may have no entry but `main`.
CMRM = (sys.executable, "-c", "from flows import cli; getattr(cli, 'start', cli.main)()")
NOTHING = (sys.executable, "-c", "pass")
IMPORT_ENGINES = (sys.executable, "-c", "import duckdb, pyarrow")
IMPORT_PREFECT = (sys.executable, "-c", "import prefect")
IMPORT_TORCH = (
    sys.executable,
    "-c",
    "import torch, transformers\nfrom transformers import LlavaForConditionalGeneration, LlavaProcessor",
)
LOAD = (
    sys.executable,
    "-c",
    "import cmrm\nfrom cmrm.organism.places import resolve_organism_model\n"
    "from cmrm.models.revision import resolve_model\nfrom cmrm.models.loading import load_model\n"
    "load_model(resolve_model(str(resolve_organism_model('organism'))), dtype='float32', device='cpu')",
)
MANY = 600
STRENGTHS = [round(0.1 * step, 1) for step in range(11)]

# Makes one measurement: seconds.
Measure = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: what is measured, in seconds, over what, how large their ratio may be, and what comes before it.

    `bound` says where the time goes, for a goal that is missed.
    """

    name: str
    run: Measure
    base: Measure
    goal: float
    bound: str
    prepare: Callable[[], object] = object
    warm_up: bool = True
    most_turns: int = 100


def make_cases(folder: Path) -> Iterator[Case]:
    """The cases that need this checkout alone; stores and caches go into `folder`."""
    environment = make_environment(folder)
    wall = partial(time_command, environment=environment)
    demo = (*CMRM, "run", "--store", str(folder / "demo"))
    yield Case(
        name="second `cmrm run`, all committed / import duckdb, pyarrow",
        prepare=partial(wall, demo),
        run=partial(wall, demo),
        base=partial(wall, IMPORT_ENGINES),
        goal=5.0,
        bound="in equal parts: rows and images' digests; imports; keys and digests of what is committed",
    )
    many = (*CMRM, "run", str(write_many(folder)), "--store", str(folder / "many"))

    def commit_many() -> None:
        wall(demo)
        wall(many)
        jobs = sum(1 for _ in (folder / "many" / "manifests").rglob("*.json"))
        if jobs < MANY:
            raise RuntimeError(f"the spec of many jobs has {jobs}; give it more shards")

    yield Case(
        name=f"the same with more than {MANY} committed jobs / the row above",
        prepare=commit_many,
        run=partial(wall, many),
        base=partial(wall, demo),
        goal=2.0,
        bound="keying each job and verifying its files",
    )
    yield Case(
        name="cmrm --help / python -c pass",
        run=partial(wall, (*CMRM, "--help")),
        base=partial(wall, NOTHING),
        goal=8.0,
        bound="importing the table of commands",
    )
    yield Case(
        name="cmrm sql 'SELECT 1' / import duckdb, pyarrow",
        prepare=partial(wall, demo),
        run=partial(wall, (*CMRM, "sql", "SELECT 1", "--store", str(folder / "demo"))),
        base=partial(wall, IMPORT_ENGINES),
        goal=1.8,
        bound="beside DuckDB and Arrow: fsspec, which confines queries, and the command line, a tenth of a second each",
    )
    one_more = OneMore(folder, environment)
    yield Case(
        name="one sample more on a committed store / import prefect",
        prepare=one_more.commit,
        run=one_more.run,
        base=partial(wall, IMPORT_PREFECT),
        goal=4.0,
        bound="importing torch and LLaVA is most of it; then Prefect, the work and the report in turn",
    )
    yield Case(
        name="import cmrm, load the embedded model / import torch, LLaVA",
        run=partial(wall, LOAD),
        base=partial(wall, IMPORT_TORCH),
        goal=1.2,
        bound="reading the weights",
    )


def make_cases_over(folder: Path, before: Path, *, tests: bool, set_up: bool) -> Iterator[Case]:
    """The cases over an earlier checkout: processor seconds of the demo and of the tests, and the set-up's seconds."""
    yield Case(
        name="demo from nothing, processor seconds / before",
        run=partial(run_demo, folder, ROOT),
        base=partial(run_demo, folder, before),
        goal=0.6,
        bound="half of it is spent in the model's own modules, in both",
        warm_up=False,
    )
    if tests:
        yield Case(
            name="make test, processor seconds / before",
            run=partial(run_tests, ROOT),
            base=partial(run_tests, before),
            goal=0.4,
            bound="more tests than before: the figure is of whole suites, not of a test",
            warm_up=False,
            most_turns=1,
        )
    if set_up:
        yield Case(
            name="set-up of `make demo` on a fresh machine / before",
            run=partial(set_up_anew, folder, ROOT),
            base=partial(set_up_anew, folder, before),
            goal=0.6,
            bound="downloading and unpacking torch",
            warm_up=False,
            most_turns=3,
        )


def make_environment(folder: Path) -> dict[str, str]:
    """This process's variables, with caches and Prefect's database of the benchmark's own."""
    own = {
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "OMP_NUM_THREADS": "1",
        "CMRM_CACHE": str(folder / "cache"),
        "PREFECT_HOME": str(folder / "prefect"),
    }
    # Compiled files are kept, as they are where nobody asks Python to do without.
    unwanted = {"PREFECT_API_URL", "CMRM_STORE", "CMRM_WORKERS", "PYTHONDONTWRITEBYTECODE"}
    return {name: value for name, value in os.environ.items() if name not in unwanted} | own


def time_command(command: Sequence[str], *, environment: Mapping[str, str], folder: Path = ROOT) -> float:
    """Seconds of one command, started in `folder`; raises with what it said if it fails."""
    since = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - since
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return seconds


def count_processor_seconds(command: Sequence[str], *, environment: Mapping[str, str], folder: Path) -> float:
    """Seconds that a command and all processes that it started and awaited kept processors busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    time_command(command, environment=environment, folder=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_demo(folder: Path, checkout: Path) -> float:
    """Processor seconds of the demo, with no store, no cache and no database of Prefect's to begin with."""
    nothing = folder / "nothing"
    shutil.rmtree(nothing, ignore_errors=True)
    nothing.mkdir()
    return count_processor_seconds(
        (*CMRM, "run", "--store", str(nothing / "store")),
        environment=make_environment(nothing),
        folder=checkout,
    )


def run_tests(checkout: Path) -> float:
    """Processor seconds of `make test`, whose environment is set up already; of a suite with failures too."""
    command = ("sh", "-c", "make test || echo 'some tests failed' >&2")
    return count_processor_seconds(command, environment=os.environ, folder=checkout)


def set_up_anew(folder: Path, checkout: Path) -> float:
    """Seconds of the set-up that `make demo` does in a clean copy, with no cache of pip's or uv's."""
    clone = folder / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    environment = dict(os.environ)
    time_command(("git", "clone", "--quiet", str(checkout), str(clone)), environment=environment)
    caches = {"PIP_NO_CACHE_DIR": "1", "UV_NO_CACHE": "1"}
    return time_command(("make", ".venv/.run-stamp"), environment=environment | caches, folder=clone)


def write_many(folder: Path) -> Path:
    """A spec of some 600 small jobs: three data sets, eleven strengths at both levels, three judges."""
    sets = {
        "vlsafe": ("vlsafe", "vlsafe/harmlessness_examine.jsonl"),
        "xstest": ("xstest", "xstest/xstest_v2_prompts.csv"),
    }
    data = {
        name: {"format": format_, "path": f"organism://{path}", "images": "organism://images", "limit": 60}
        for name, (format_, path) in sets.items()
    }
    bench = {
        name: f"organism://bench/{file}"
        for name, file in (
            ("path", "qa90_questions.jsonl"),
            ("answers", "qa90_gpt4_answer.jsonl"),
            ("captions", "caps_boxes_coco2014_val_80.jsonl"),
        )
    }
    data["bench"] = {"format": "llava-bench-coco", "images": "organism://images", "limit": 60, **bench}
    spec = {
        "model": {"id": "organism", "dtype": "float32"},
        "datasets": data,
        "anchors": {"from": {"vlsafe": 0.2, "bench": 0.2}},
        "images": {"size": 32},
        "conditions": ["query", "image"],
        "interventions": [
            {"name": level, "level": level, "alpha": STRENGTHS, "blocks": [5, 6, 7]}
            for level in ("dataset", "sample")
        ],
        "judges": ["refusal", "match"],
        "generation": {"max_new_tokens": 4},
        "shard_size": 11,
    }
    path = folder / "many.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


class OneMore:
    """A committed store and its spec, whose data set has one sample more each time that it is run."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._data = folder / "one-more.jsonl"
        self._numbers = count()
        spec = {
            "model": {"id": "organism", "dtype": "float32"},
            "datasets": {"own": {"format": "jsonl", "path": str(self._data)}},
            "anchors": {"from": {}},
            "conditions": ["query"],
            "target_states": [],
            "interventions": [],
            "judges": ["refusal"],
            "generation": {"max_new_tokens": 8},
            # So that the one sample is a job of its own.
            "shard_size": 1,
        }
        path = folder / "one-more.yaml"
        path.write_text(yaml.safe_dump(spec))
        self._command = (*CMRM, "run", str(path), "--store", str(folder / "one-more"))

    def commit(self) -> None:
        """Run it with a few samples."""
        for _ in range(8):
            self._add()
        self.run()

    def run(self) -> float:
        """Seconds of a run with one sample more than the last had."""
        self._add()
        return time_command(self._command, environment=self._environment)

    def _add(self) -> None:
        number = next(self._numbers)
        with self._data.open("a") as file:
            file.write(json.dumps({"id": number, "question": f"what is in picture {number} ?"}) + "\n")
