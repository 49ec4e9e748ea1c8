"""Device idle time in a real run: the share of time in which no module of the model runs."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from speed_bench import Bench
from speed_prompts import make_picture, make_questions
from speed_table import Figure, Goal, Row
from speed_timing import tell
from torch import nn

from cmrm.models.vlm import VisionLanguageModel

GOAL = 0.05
LONG = 0.1
TITLE = "The device's waiting in a real run"
# What flows and storage need, and a machine that only has a GPU may lack.
NEEDED = ("prefect", "duckdb", "pydantic", "pyarrow")
QUIET = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "ERROR"}


@dataclass(kw_only=True)
class Watch:
    """Busy intervals of the model: start and end of each outermost call of a module, in seconds."""

    device: torch.device
    spans: list[tuple[float, float]] = field(default_factory=list)
    depth: int = 0
    since: float = 0.0

    def attach(self, vlm: VisionLanguageModel) -> None:
        """Watch the model, and the parts that are called without it."""
        for part in _list_parts(vlm):
            part.register_forward_pre_hook(self._enter, with_kwargs=True)
            part.register_forward_hook(self._leave, always_call=True)

    def _enter(self, *_: Any) -> None:
        if self.depth == 0:
            self.since = time.perf_counter()
        self.depth += 1

    def _leave(self, *_: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            if self.device.type == "cuda":
                # GPU work is asynchronous; without synchronizing it would count as a gap.
                torch.cuda.synchronize(self.device)
            self.spans.append((self.since, time.perf_counter()))

    @property
    def busy(self) -> float:
        return sum(end - begin for begin, end in self.spans)

    @property
    def span(self) -> float:
        """Seconds from the start of the first call to the end of the last."""
        return self.spans[-1][1] - self.spans[0][0]

    @property
    def gaps(self) -> list[float]:
        """Seconds between calls."""
        return [after[0] - before[1] for before, after in zip(self.spans, self.spans[1:], strict=False)]


def list_absent() -> list[str]:
    """What a run needs and this machine lacks."""
    return [name for name in NEEDED if find_spec(name) is None]


def measure_idle(bench: Bench) -> Figure:
    """Run a spec on this model in this process and watch its parts."""
    tell("a real run")
    if absent := list_absent():
        row = Row(name="cmrm run", seconds=None, result=f"{absent[0]} is not installed")
        return Figure(title=TITLE, about="", rows=[row], goals=[_make_goal("", "not measured")])
    watch = Watch(device=bench.device)
    with tempfile.TemporaryDirectory(prefix="cmrm-idle-") as temporary:
        spec = write_spec(Path(temporary), bench)
        with _quietly(Path(temporary)), _watching(watch):
            since = time.perf_counter()
            run(spec, Path(temporary) / "store")
            seconds = time.perf_counter() - since
    idle = 1 - watch.busy / watch.span
    long = [gap for gap in watch.gaps if gap > LONG]
    short = watch.span - watch.busy - sum(long)
    return Figure(
        title=TITLE,
        about=(
            f"`cmrm run`: {bench.amounts.stored} samples, anchors among them, plain and under dataset-level CMRM; "
            "refusal phrases judge."
        ),
        rows=[
            Row(name="the whole command", seconds=seconds),
            Row(name="from the first to the last call of the model", seconds=watch.span, ratio=1.0),
            Row(name="in calls of the model", seconds=watch.busy, ratio=watch.busy / watch.span),
            Row(
                name=f"in {len(long)} gaps above {LONG:g} s", seconds=sum(long), ratio=sum(long) / watch.span
            ),
            Row(name="in shorter gaps", seconds=short, ratio=short / watch.span),
        ],
        goals=[_make_goal(f"{idle:.1%}", "yes" if idle <= GOAL else "no")],
        notes=[
            "What a GPU does between calls (the next word chosen, the cache rearranged) counts as waiting.",
            *(
                ["On a CPU the device is the host: background work slows the model and is no gap."]
                if bench.device.type == "cpu"
                else [
                    "Each call is waited for, so kernel launches are not asynchronous as in an unobserved run."
                ]
            ),
        ],
    )


def _make_goal(figure: str, reached: Any) -> Goal:
    return Goal(
        name="device idle while shards load, write, judge",
        goal=f"≤ {GOAL:.0%}",
        figure=figure,
        reached=reached,
    )


def _list_parts(vlm: VisionLanguageModel) -> list[nn.Module]:
    model = vlm.model
    named = ("vision_tower", "visual", "multi_modal_projector")
    inner = [getattr(model.base_model, name, None) for name in named]
    parts = [model, model.base_model, vlm.decoder, model.get_output_embeddings(), *inner]
    return list({id(part): part for part in parts if isinstance(part, nn.Module)}.values())


@contextmanager
def _watching(watch: Watch) -> Iterator[None]:
    import cmrm.models.loading

    load = cmrm.models.loading.load_model

    def load_watched(*args: Any, **kwargs: Any) -> VisionLanguageModel:
        vlm = load(*args, **kwargs)
        watch.attach(vlm)
        return vlm

    with mock.patch.object(cmrm.models.loading, "load_model", load_watched):
        yield


@contextmanager
def _quietly(folder: Path) -> Iterator[None]:
    own = {"CMRM_CACHE": str(folder / "cache"), "PREFECT_HOME": str(folder / "prefect")}
    with mock.patch.dict(os.environ, QUIET | own):
        yield


def run(spec: Path, store: Path) -> None:
    """Run a spec as the command does, in this process."""
    from flows.run import run_spec
    from flows.spec.spec import read_spec

    run_spec(read_spec(spec), store=str(store))


def write_spec(folder: Path, bench: Bench) -> Path:
    """The model's folder, a data set with a picture for each question, and a spec."""
    import yaml

    model = folder / "model"
    bench.vlm.model.save_pretrained(model)
    bench.vlm.processor.save_pretrained(model)
    images = folder / "images"
    images.mkdir()
    with (folder / "questions.jsonl").open("w") as file:
        for number, question in enumerate(make_questions(bench.amounts.stored)):
            name = f"{number}.jpg"
            make_picture(number, side=bench.shape.side).save(images / name, quality=90)
            file.write(json.dumps({"id": number, "question": question, "image": name}) + "\n")
    spec = {
        "model": {
            "id": str(model),
            "dtype": str(bench.vlm.model.dtype).removeprefix("torch."),
            "device": bench.device.type,
        },
        "datasets": {"asked": {"format": "jsonl", "path": "questions.jsonl", "images": "images"}},
        "anchors": {"from": {"asked": 0.2}},
        "images": {"size": bench.shape.side},
        "conditions": ["image"],
        "target_states": [],
        "interventions": [{"name": "CMRM", "alpha": 1.0, "blocks": list(bench.steered)}],
        "generation": {"max_new_tokens": bench.amounts.new_tokens},
        "batch_size": bench.amounts.batch,
        "shard_size": bench.amounts.shard,
    }
    place = folder / "spec.yaml"
    place.write_text(yaml.safe_dump(spec))
    return place
