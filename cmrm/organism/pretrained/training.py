"""Train some tensors of a model: resumable within a stage, stopped early by a validation loss."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from cmrm.organism.train import make_optimizer, schedule, take_step

# What AdamW keeps of each parameter, besides the number of steps.
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A training stage: what is trained, by name, and by which loss.

    `loss` draws its batch from the generator it is given, another one for each step: a resumed stage sees what an
    uninterrupted one does. `validate` makes the loss to stop by; where it is None, all `steps` are taken.
    """

    name: str
    seed: int
    steps: int
    learning_rate: float
    parameters: Mapping[str, nn.Parameter]
    loss: Callable[[random.Random], Tensor]
    validate: Callable[[], float] | None = None
    # A checkpoint, and a look at the validation loss, after so many steps.
    every: int = 25
    # Looks in a row without a smaller loss, after which training stops.
    patience: int = 3


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage came to: steps taken, the step whose weights were kept, and the validation loss at each look."""

    steps: int
    kept_step: int
    validation: Mapping[int, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        looks = {str(step): round(loss, 4) for step, loss in self.validation.items()}
        return {"steps": self.steps, "kept_step": self.kept_step, "validation_loss": looks}


@dataclass(kw_only=True)
class _Progress:
    """How far a stage has come; the best weights are those in the file, the latest those in the parameters."""

    step: int = 0
    kept_step: int = 0
    validation: dict[int, float] = field(default_factory=dict)

    def is_over(self, stage: Stage) -> bool:
        looks_since_best = sum(step > self.kept_step for step in self.validation)
        return self.step >= stage.steps or looks_since_best >= stage.patience

    def note(self, loss: float | None) -> bool:
        """Take down a look; return whether these weights are the ones to keep."""
        if loss is not None:
            best = min(self.validation.values(), default=math.inf)
            self.validation[self.step] = loss
            if loss >= best:
                return False
        self.kept_step = self.step
        return True


def train(stage: Stage, file: Path, bar: tqdm) -> Outcome:
    """Train a stage, or read what it trained before from `file`; the parameters then hold what was kept.

    While it trains, its latest weights and the optimizer's state are in a checkpoint beside the file, and its best
    weights in a file of their own: what was killed goes on there. Both are removed at the end. `bar` is advanced by
    all steps of the stage, those that early stopping saved included.
    """
    if file.is_file():
        bar.update(stage.steps)
    else:
        _train(stage, file, bar)
    return _read_outcome(_load(stage, file))


def _train(stage: Stage, file: Path, bar: tqdm) -> None:
    checkpoint, best = file.with_suffix(".checkpoint"), file.with_suffix(".best")
    learnt = list(stage.parameters.values())
    optimizer = make_optimizer(learnt)
    progress = _Progress()
    if checkpoint.is_file():
        progress = _resume(stage, optimizer, checkpoint)
    bar.update(progress.step)
    while not progress.is_over(stage):
        drawn = stage.loss(random.Random(f"{stage.seed} {stage.name} {progress.step}"))
        rate = stage.learning_rate * schedule(progress.step, stage.steps)
        loss = take_step(optimizer, drawn, learnt, rate=rate)
        progress.step += 1
        bar.set_postfix_str(f"{stage.name}, loss {loss:.3f}", refresh=False)
        bar.update()
        if progress.step % stage.every == 0 or progress.step == stage.steps:
            if progress.note(None if stage.validate is None else stage.validate()):
                _save(best, stage.parameters, progress)
            _save(checkpoint, _with_moments(stage, optimizer), progress)
    bar.update(stage.steps - progress.step)
    kept, _ = _read(best)
    _save(file, kept, progress)
    for temporary in (checkpoint, best):
        temporary.unlink()


def _with_moments(stage: Stage, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = dict(stage.parameters)
    for name, parameter in stage.parameters.items():
        # A parameter that no batch has touched has no state yet.
        for moment in MOMENTS:
            if moment in optimizer.state[parameter]:
                tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    return tensors


def _resume(stage: Stage, optimizer: torch.optim.AdamW, checkpoint: Path) -> _Progress:
    tensors, metadata = _read(checkpoint)
    progress = _Progress(**metadata)
    with torch.no_grad():
        for name, parameter in stage.parameters.items():
            parameter.copy_(tensors[name])
            moments = {moment: tensors[key] for moment in MOMENTS if (key := f"{moment}/{name}") in tensors}
            if moments:
                optimizer.state[parameter] = {"step": torch.tensor(float(progress.step)), **moments}
    return progress


def _load(stage: Stage, file: Path) -> dict[str, Any]:
    tensors, metadata = _read(file)
    with torch.no_grad():
        for name, parameter in stage.parameters.items():
            parameter.copy_(tensors[name])
    return metadata


def _read_outcome(metadata: Mapping[str, Any]) -> Outcome:
    return Outcome(steps=metadata["step"], kept_step=metadata["kept_step"], validation=metadata["validation"])


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(file, "pt") as opened:
        progress = json.loads(opened.metadata()["progress"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    # JSON has no numbers as keys.
    progress["validation"] = {int(step): loss for step, loss in progress["validation"].items()}
    return tensors, progress


def _save(file: Path, tensors: Mapping[str, Tensor], progress: _Progress) -> None:
    """Write tensors and progress at once, by renaming."""
    unfinished = file.with_suffix(file.suffix + ".unfinished")
    kept = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(kept, unfinished, metadata={"progress": json.dumps(vars(progress))})
    unfinished.replace(file)
