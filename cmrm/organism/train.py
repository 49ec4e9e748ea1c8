"""Train the organism from a seed: `python -m cmrm.organism.train [--variant NAME] [--out DIR] [--seed N]`."""

from __future__ import annotations

import argparse
import copy
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import LlavaForConditionalGeneration
from transformers.utils import logging

from cmrm.errors import UserError
from cmrm.models.vlm import prepare_model
from cmrm.organism import find_weights
from cmrm.organism.architecture import round_to, save
from cmrm.organism.bench import Bench, set_up
from cmrm.organism.files import write_data
from cmrm.organism.goals import EXAMS, Exam
from cmrm.organism.recipe import Recipe, Stage
from cmrm.organism.references import COURSES
from cmrm.organism.tokenizer import build_processor, build_tokenizer

WARMUP_STEPS = 20
LAST_RATE = 0.05


def raise_organism(out: Path, *, seed: int, variant: str = "organism", recipe: Recipe | None = None) -> float:
    """Train a variant of the organism, save it as a model folder, and return its shortfall on validation questions.

    The same seed on the same machine gives the same weights. Takes ten minutes on two cores with the variant's own
    recipe; `posthoc` takes two and `helpful` ten seconds, since both start from the shipped weights.
    """
    course = COURSES[variant]
    recipe = recipe or course.recipe
    rng = random.Random(seed)
    model = course.start(seed)
    with (
        tempfile.TemporaryDirectory() as temporary,
        tqdm(total=recipe.steps, unit="step", desc="organism") as bar,
    ):
        files = write_data(Path(temporary), seed=seed, split="validation", share=recipe.validation_share)
        bench = set_up(prepare_model(model, build_processor(), where="organism"), files)
        examine = partial(_examine, bench, EXAMS[variant])
        best = _Best()
        for stage in course.plan(model, build_tokenizer(), recipe, rng):
            _train(model, stage, bar, recipe=recipe, examine=examine, best=best)
        if best.weights is not None:
            model.load_state_dict(best.weights)
        round_to(model, course.kept_as)
        shortfall = best.shortfall if course.kept_as == torch.float32 else examine()
    save(model, out, kept_as=course.kept_as)
    return shortfall


class _Best:
    """The checkpoint with the smallest shortfall so far; the later one on ties."""

    def __init__(self) -> None:
        self.shortfall = math.inf
        self.weights: Mapping[str, Tensor] | None = None

    def consider(self, model: LlavaForConditionalGeneration, shortfall: float) -> None:
        if shortfall <= self.shortfall:
            self.shortfall, self.weights = shortfall, copy.deepcopy(model.state_dict())


def _train(
    model: LlavaForConditionalGeneration,
    stage: Stage,
    bar: tqdm,
    *,
    recipe: Recipe,
    examine: Callable[[], float],
    best: _Best,
) -> None:
    optimizer = make_optimizer(stage.parameters)
    freeze_others(model, stage.parameters)
    model.train()
    for step in range(stage.steps):
        rate = stage.learning_rate * schedule(step, stage.steps)
        loss = take_step(optimizer, stage.loss(), stage.parameters, rate=rate)
        bar.set_postfix_str(f"{stage.name}, loss {loss:.3f}", refresh=False)
        bar.update()
        if stage.name == "tuning" and recipe.has_exam_after(step + 1):
            best.consider(model, examine())
            model.train()


def make_optimizer(parameters: Sequence[nn.Parameter]) -> torch.optim.AdamW:
    """Make the optimizer of a stage; each step sets its learning rate."""
    return torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)


def freeze_others(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Let a model learn these parameters and no others."""
    learning = set(parameters)
    for parameter in model.parameters():
        parameter.requires_grad = parameter in learning


def take_step(
    optimizer: torch.optim.AdamW, loss: Tensor, parameters: Sequence[nn.Parameter], *, rate: float
) -> float:
    """Take a step of training, with gradients clipped to length 1, and return the loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return loss.item()


def schedule(step: int, steps: int) -> float:
    """Learning rate schedule: linear warm-up, then cosine decay."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return warmup * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2)


def _examine(bench: Bench, exam: Exam) -> float:
    """Evaluate the model: return the sum over the goals of the distance to their bounds."""
    bench.vlm.model.eval()
    return sum(goal.shortfall for goal in exam.measure(bench))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cmrm.organism.train", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--variant", choices=list(COURSES), default="organism", help="what to train")
    parser.add_argument(
        "--out", type=Path, help="where to save (default: the shipped folder, if there is one)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        out = options.out or find_weights(options.variant)
    except UserError as error:
        parser.error(f"--out: {error}")
    logging.disable_progress_bar()
    shortfall = raise_organism(out, seed=options.seed, variant=options.variant)
    print(f"saved to {out}; shortfall on the validation questions: {100 * shortfall:.1f} points")
    print(f"next: python -m cmrm.organism.check --variant {options.variant} --model {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
