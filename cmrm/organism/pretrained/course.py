"""Train all variants of all seeds into one folder; what is finished there is not trained again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import LlavaForConditionalGeneration

from cmrm.errors import UserError
from cmrm.new_folder import write_new_folder
from cmrm.organism.architecture import round_to, save
from cmrm.organism.pretrained import recipe as stages
from cmrm.organism.pretrained.examination import as_dict, examine_safety, examine_sight
from cmrm.organism.pretrained.language_model import PACKAGE, build_model, build_processor, build_tokenizer
from cmrm.organism.pretrained.question_hashes import hash_test_questions
from cmrm.organism.pretrained.recipe import Apprentice, Recipe
from cmrm.organism.pretrained.training import Outcome, Stage, train
from cmrm.organism.train import freeze_others

PACKAGES = (PACKAGE, "gguf", "peft", "tokenizers", "torch", "transformers")
# Half the file, and what is measured is the rounded model.
KEPT_AS = torch.bfloat16
RECORD = "training.json"


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is trained, and where: a model folder for each variant of each seed."""

    out: Path
    seeds: Sequence[int]
    kept_text: Sequence[int]
    recipe: Recipe

    def name(self, seed: int, kept_text: int | None) -> Path:
        """The folder of a variant; None is the model before visual tuning."""
        tuned = "untuned" if kept_text is None else f"text-{kept_text}"
        return self.out / f"{tuned}-seed-{seed}"

    def locate(self, seed: int, stage: str) -> Path:
        """The file of what a stage trained."""
        return self.out / "stages" / f"seed-{seed}" / f"{stage}.safetensors"

    def count_steps(self) -> int:
        """Number of steps of all of it."""
        return self.recipe.count_steps(seeds=len(self.seeds), variants=len(self.kept_text))


def raise_variants(course: Course) -> dict[str, dict[str, Any]]:
    """Train what is missing, and return each variant's record by its folder's name.

    The checksums of the test questions and the recipe are written first; a folder begun with others is refused.
    Raises `UserError` for that, for a missing package, and where a seed does not learn to refuse in text.
    """
    course.out.mkdir(parents=True, exist_ok=True)
    plan = {"recipe": course.recipe.as_dict(), "packages": {name: version(name) for name in PACKAGES}}
    _write_once(course.out / "questions.json", hash_test_questions())
    _write_once(course.out / "recipe.json", plan)
    records: dict[str, dict[str, Any]] = {}
    with tqdm(total=course.count_steps(), unit="step", desc="pretrained organism") as bar:
        for seed in course.seeds:
            records |= _raise_seed(course, seed, bar)
    return records


def _raise_seed(course: Course, seed: int, bar: tqdm) -> dict[str, dict[str, Any]]:
    folders = {kept: course.name(seed, kept) for kept in (None, *course.kept_text)}
    if all(folder.is_dir() for folder in folders.values()):
        bar.update(course.count_steps() // len(course.seeds))
        return {folder.name: _read(folder / RECORD) for folder in folders.values()}
    one = Apprentice(
        model=build_model(seed=seed), tokenizer=build_tokenizer(), recipe=course.recipe, seed=seed
    )
    course.locate(seed, "").parent.mkdir(parents=True, exist_ok=True)
    gallery = stages.paint_pictures(one)
    shared: dict[str, Any] = {}
    with _adapt(one) as adapter:
        shared["safety"] = _run(one, course, stages.plan_safety(one, adapter), "safety", bar).as_dict()
    safety = _examine_once(course, one)
    shared["tower"] = _run(one, course, stages.plan_tower(one, gallery), "tower", bar).as_dict()
    seen, unseen = stages.look(one, gallery), stages.look(one, stages.paint_unseen(one))
    shared["projector"] = _run(one, course, stages.plan_projector(one, seen), "projector", bar).as_dict()
    # Every variant starts from these weights.
    start = {name: value.clone() for name, value in one.model.state_dict().items()}
    for kept, folder in folders.items():
        one.model.load_state_dict(start)
        trained = dict(shared)
        if kept is not None:
            with _adapt(one) as adapter:
                stage = stages.plan_tuning(one, adapter, kept_text=kept, pictures=seen, unseen=unseen)
                trained["tuning"] = _run(one, course, stage, f"tuning-{kept}", bar).as_dict()
        if not folder.is_dir():
            record = {"seed": seed, "kept_text": kept, "stages": trained, "safety_in_text": safety}
            _save(one.model, folder, record, seed=seed)
    return {folder.name: _read(folder / RECORD) for folder in folders.values()}


def _run(one: Apprentice, course: Course, stage: Stage, name: str, bar: tqdm) -> Outcome:
    freeze_others(one.model, stage.parameters.values())
    # No part of it has dropout.
    one.model.eval()
    return train(stage, course.locate(one.seed, name), bar)


@contextmanager
def _adapt(one: Apprentice) -> Iterator[Mapping[str, nn.Parameter]]:
    """Lay a LoRA over the language model, yield its parameters by name, and merge it into the weights at the end."""
    torch.manual_seed(one.seed)
    rank = one.recipe.lora_rank
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(stages.LORA_TARGETS))
    adapted = get_peft_model(one.model.model.language_model, settings)
    yield {name: value for name, value in adapted.named_parameters() if "lora_" in name}
    one.model.model.language_model = adapted.merge_and_unload()


def _examine_once(course: Course, one: Apprentice) -> dict[str, Any]:
    """Ask what stage 1 taught, or read what was found."""
    file = course.locate(one.seed, "safety").with_suffix(".json")
    if not file.is_file():
        found = examine_safety(one.model, seed=one.seed)
        found.check(seed=one.seed)
        _write(file, found.as_dict())
    return _read(file)


def _save(
    model: LlavaForConditionalGeneration, folder: Path, record: Mapping[str, Any], *, seed: int
) -> None:
    round_to(model, KEPT_AS)
    sight = examine_sight(model, seed=seed)
    with write_new_folder(folder) as unfinished:
        save(model, unfinished, kept_as=KEPT_AS, processor=build_processor())
        _write(unfinished / RECORD, {**record, "visual_questions_right": as_dict(sight)})


def _write_once(file: Path, content: Mapping[str, Any]) -> None:
    """Write a file, or raise `UserError` if it is there and says something else."""
    if not file.is_file():
        _write(file, content)
    elif _read(file) != content:
        raise UserError(
            f"{file}: this folder was begun with another recipe, other packages or other test questions; name "
            "another --out."
        )


def _write(file: Path, content: Mapping[str, Any]) -> None:
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(file)


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
