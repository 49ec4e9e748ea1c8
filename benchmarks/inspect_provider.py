"""What Inspect costs: the same questions through it, through cmrm's own stage, and through Inspect's `hf` provider.

    python benchmarks/inspect_provider.py                    # 64 questions, five turns, a small LLaVA on the CPU
    python benchmarks/inspect_provider.py --model organism   # the embedded model, where Inspect's own work shows most

In each turn all four are timed, one after the other, on loaded models: the stage of `cmrm run` that answers, with its
files, a whole `inspect_ai.eval` of the same image questions, and two of the questions as text alone, by cmrm and by
`hf`. Ratios are medians over the turns of each turn's ratio, by the clock and by CPU seconds. Answers must be
equal, or nothing is printed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import inspect_ai
import torch
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText, GenerateConfig, Model, get_model
from speed_models import build
from speed_prompts import make_picture, make_questions
from speed_shapes import SHAPES

from cmrm.organism.places import resolve_organism_model
from flows.inspect import registry
from flows.plan.plan import make_plan
from flows.spec.spec import Spec, check_spec
from storage.records.manifest import Manifest
from storage.shards.rows import read_rows
from storage.store import Store
from tasks.data.ingest import ingest
from tasks.generate.job import GenerateJob
from tasks.generate.stage import generate

TOKENS = 24


def main() -> None:
    """Time the turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="small", choices=("small", "medium", "organism"))
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--connections", type=int, default=64, help="Inspect's --max-connections; 0: adaptive, as by default"
    )
    given = parser.parse_args()
    assert registry.provide_model
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            Path(folder),
            model=given.model,
            questions=given.questions,
            device=given.device,
            connections=given.connections or None,
        )
        bench.turn()  # untimed: loads the models
        turns = [bench.turn() for _ in range(given.turns)]
    asked = f"{given.connections} at once" if given.connections else "adaptive"
    print(
        f"{given.questions} questions, {asked}, at most {TOKENS} tokens, {given.model} on {given.device}; s"
    )
    for name in turns[0]:
        print(f"  {name:<26} median {statistics.median(turn[name] for turn in turns):7.2f}")
    for above, below in (("Inspect, images", "cmrm run, images"), ("hf, text", "Inspect, text")):
        for clock in ("", ", CPU"):
            ratios = sorted(turn[above + clock] / turn[below + clock] for turn in turns)
            print(
                f"  {above} / {below}{clock}: {statistics.median(ratios):.2f} × ({ratios[0]:.2f}–{ratios[-1]:.2f})"
            )


class Bench:
    """The model, the questions, and a store in which they are ingested."""

    def __init__(
        self, folder: Path, *, model: str, questions: int, device: str, connections: int | None
    ) -> None:
        self.folder, self.device, self.connections = folder, device, connections
        own = resolve_organism_model(model)
        self.model = folder / "model" if own is None else own
        side = 32 if own is not None else 112
        if own is None:
            torch.manual_seed(0)
            vlm = build(replace(SHAPES[f"llava-{model}"], side=side), device="cpu", dtype=torch.float32)
            vlm.model.save_pretrained(self.model)
            vlm.processor.save_pretrained(self.model)
        (folder / "images").mkdir()
        self.questions = make_questions(questions)
        with (folder / "questions.jsonl").open("w") as file:
            for number, question in enumerate(self.questions):
                make_picture(number, side=side).save(folder / "images" / f"{number}.png")
                row = {"id": str(number), "question": question, "image": f"{number}.png"}
                file.write(json.dumps(row) + "\n")
        self.jobs = self._ingest()
        self.image_task = self._make_task(images=True)
        self.text_task = self._make_task(images=False)
        name = f"cmrm/{self.model}"
        self.ours = get_model(name, dtype="float32", device=device)
        self.theirs = get_model(
            "hf/local",
            model_path=str(self.model),
            tokenizer_path=str(self.model),
            device=device,
            auto_model_class="AutoModelForImageTextToText",
            do_sample=False,
            chat_template=_make_text_template(self.model),
        )

    def turn(self) -> dict[str, float]:
        """Time all four once; their answers must be equal."""
        found: dict[str, float] = {}
        stored = self._time(found, "cmrm run, images", self._generate)
        images = self._time(found, "Inspect, images", lambda: self._evaluate(self.image_task, self.ours))
        ours = self._time(found, "Inspect, text", lambda: self._evaluate(self.text_task, self.ours))
        theirs = self._time(found, "hf, text", lambda: self._evaluate(self.text_task, self.theirs))
        assert images == stored, "Inspect's answers are not those of the stage"
        equal = sum(ours[one].strip() == theirs[one].strip() for one in ours)
        assert equal >= 0.9 * len(ours), f"of {len(ours)} texts, hf answers {equal} alike"
        return found

    def _time(self, found: dict[str, float], name: str, work: Callable[[], dict[str, str]]) -> dict[str, str]:
        began, used = time.perf_counter(), time.process_time()
        answers = work()
        found[name] = time.perf_counter() - began
        found[f"{name}, CPU"] = time.process_time() - used
        return answers

    def _ingest(self) -> list[GenerateJob]:
        store = Store.create(str(self.folder / "store"))
        plan = make_plan(self._make_spec(), store=store)
        made: dict[str, Manifest] = {}
        for job in plan.ingest_jobs({}):
            ingest.do(job)
            made[job.dataset] = _need(store, job)
        return plan.by_model()[0].generate_jobs(made, [])

    def _make_spec(self) -> Spec:
        content: dict[str, Any] = {
            "model": {"id": str(self.model), "dtype": "float32", "device": self.device},
            "datasets": {
                "bench": {
                    "format": "jsonl",
                    "path": str(self.folder / "questions.jsonl"),
                    "images": str(self.folder / "images"),
                }
            },
            "anchors": {"from": {}},
            "conditions": ["image"],
            "target_states": [],
            "interventions": [],
            "images": {"size": 32},
            "generation": {"max_new_tokens": TOKENS},
        }
        return check_spec(content, where="the benchmark's spec")

    def _generate(self) -> dict[str, str]:
        # A store of its own each time: what is there would be reused.
        place = self.folder / "fresh"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.folder / "store", place)
        store = Store.open(str(place))
        jobs = [replace(job, store=store.url) for job in self.jobs]
        answers: dict[str, str] = {}
        for made in generate(jobs, store):
            rows = read_rows(store, made, "responses", ("sample_id", "answer")).to_pylist()
            answers |= {row["sample_id"]: row["answer"] for row in rows}
        return answers

    def _make_task(self, *, images: bool) -> Task:
        samples = []
        for number, question in enumerate(self.questions):
            content: list[Any] = [ContentText(text=question)]
            if images:
                content.insert(0, ContentImage(image=str(self.folder / "images" / f"{number}.png")))
            samples.append(Sample(id=str(number), input=[ChatMessageUser(content=content)]))
        config = GenerateConfig(max_tokens=TOKENS, max_connections=self.connections)
        return Task(dataset=MemoryDataset(samples), config=config)

    def _evaluate(self, task: Task, model: Model) -> dict[str, str]:
        log: EvalLog
        (log,) = inspect_ai.eval(task, model=model, log_dir=str(self.folder / "logs"), display="none")
        assert log.status == "success", log.error
        return {str(sample.id): sample.output.completion for sample in log.samples or ()}


def _need(store: Store, job: Any) -> Manifest:
    made = store.find(job.stage, job.key)
    assert made is not None
    return made


def _make_text_template(folder: Path) -> str:
    """The model's chat template for messages of plain text, as the `hf` provider gives them."""
    template = (folder / "chat_template.jinja").read_text()
    return (
        "{% set ns = namespace(turns=[]) %}{% for one in messages %}{% set ns.turns = ns.turns + "
        "[{'role': one['role'], 'content': [{'type': 'text', 'text': one['content']}]}] %}{% endfor %}"
        "{% set messages = ns.turns %}" + template
    )


if __name__ == "__main__":
    main()
