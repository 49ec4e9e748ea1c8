"""A stage's training is AdamW on its own batches, resumes as if it had never stopped, and keeps what validated best."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from cmrm.organism.pretrained.training import Stage, train

STEPS = 60


class Killed(BaseException):
    """What ends a process."""


def fit(weights: nn.Linear, rng: random.Random) -> Tensor:
    """Loss on a batch of one's own: the sum of eight numbers is learnt."""
    numbers = torch.tensor([[rng.uniform(-1, 1) for _ in range(8)] for _ in range(4)])
    return ((weights(numbers).squeeze(1) - numbers.sum(dim=1)) ** 2).mean()


def make_stage(
    weights: nn.Linear,
    *,
    loss: Callable[[random.Random], Tensor] | None = None,
    validate: Callable[[], float] | None = None,
) -> Stage:
    return Stage(
        name="sums",
        seed=3,
        steps=STEPS,
        learning_rate=0.05,
        parameters=dict(weights.named_parameters()),
        loss=loss or (lambda rng: fit(weights, rng)),
        validate=validate,
        every=10,
    )


def make_weights() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 1)


def train_plainly(steps: int) -> nn.Linear:
    """The same in a few lines over torch's own optimizer and schedule."""
    weights = make_weights()
    optimizer = torch.optim.AdamW(weights.parameters(), lr=0.05, betas=(0.9, 0.98), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 20) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / STEPS)) / 2),
    )
    for step in range(steps):
        optimizer.zero_grad()
        fit(weights, random.Random(f"3 sums {step}")).backward()
        nn.utils.clip_grad_norm_(weights.parameters(), 1.0)
        optimizer.step()
        rate.step()
    return weights


def assert_same(one: nn.Linear, other: nn.Linear) -> None:
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_stage_is_what_torchs_own_optimizer_makes_of_its_batches(tmp_path: Path) -> None:
    weights = make_weights()
    with tqdm(total=STEPS, disable=True) as bar:
        outcome = train(make_stage(weights), tmp_path / "stage.safetensors", bar)
    assert (outcome.steps, outcome.kept_step, dict(outcome.validation)) == (STEPS, STEPS, {})
    assert_same(weights, train_plainly(STEPS))


@pytest.mark.parametrize("killed_at", [3, 25, 59])
def test_a_killed_stage_goes_on_as_if_it_had_not_been(tmp_path: Path, killed_at: int) -> None:
    file, calls = tmp_path / "stage.safetensors", iter(range(1_000))
    first = make_weights()

    def die(rng: random.Random) -> Tensor:
        if next(calls) == killed_at:
            raise Killed
        return fit(first, rng)

    with tqdm(total=STEPS, disable=True) as bar, pytest.raises(Killed):
        train(make_stage(first, loss=die), file, bar)
    assert not file.exists()
    taken: list[int] = []
    weights = make_weights()

    def count(rng: random.Random) -> Tensor:
        taken.append(1)
        return fit(weights, rng)

    with tqdm(total=STEPS) as bar:
        train(make_stage(weights, loss=count), file, bar)
        assert bar.n == STEPS
    # What the last checkpoint before the kill holds is not computed again.
    assert len(taken) == STEPS - killed_at // 10 * 10
    assert_same(weights, train_plainly(STEPS))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_the_weights_of_the_smallest_validation_loss_are_kept(tmp_path: Path) -> None:
    losses = iter([3.0, 1.0, 2.0, 1.0, 1.5, 0.0])
    weights = make_weights()
    with tqdm(total=STEPS) as bar:
        outcome = train(
            make_stage(weights, validate=lambda: next(losses)), tmp_path / "stage.safetensors", bar
        )
        assert bar.n == STEPS
    # Three looks in a row without a smaller loss end it: the last loss is never seen.
    assert (outcome.steps, outcome.kept_step) == (50, 20)
    assert dict(outcome.validation) == {10: 3.0, 20: 1.0, 30: 2.0, 40: 1.0, 50: 1.5}
    assert_same(weights, train_plainly(20))


def test_a_killed_stage_remembers_what_it_had_kept(tmp_path: Path) -> None:
    file = tmp_path / "stage.safetensors"

    def look_and_die() -> float:
        if len(seen) == 3:
            raise Killed
        seen.append(1)
        return [1.0, 2.0, 3.0][len(seen) - 1]

    seen: list[int] = []
    with tqdm(total=STEPS, disable=True) as bar, pytest.raises(Killed):
        train(make_stage(make_weights(), validate=look_and_die), file, bar)
    weights = make_weights()
    with tqdm(total=STEPS, disable=True) as bar:
        outcome = train(make_stage(weights, validate=lambda: 4.0), file, bar)
    assert (outcome.steps, outcome.kept_step) == (40, 10)
    assert_same(weights, train_plainly(10))


def test_what_is_trained_is_read_and_not_trained_again(tmp_path: Path) -> None:
    file = tmp_path / "stage.safetensors"

    def refuse(_: random.Random) -> Tensor:
        raise AssertionError

    with tqdm(total=2 * STEPS) as bar:
        made = train(make_stage(make_weights()), file, bar)
        weights = make_weights()
        assert train(make_stage(weights, loss=refuse), file, bar) == made
        assert bar.n == 2 * STEPS
    assert_same(weights, train_plainly(STEPS))
