"""Several cards: the same states and answers where accelerate spreads the model over two of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from cmrm.decoding.api import generate_arms
from cmrm.models.prompt_states import choose_tolerance
from cmrm.models.vlm import VisionLanguageModel
from cmrm.steering.capture import embed
from on_a_gpu import naive
from on_a_gpu.checks import Evidence, NotPossibleError
from on_a_gpu.exactness import Steered
from on_a_gpu.subject import Subject

# In half precision rounding may change a word where the two cards are not of one kind.
ALIKE = 0.9


def check_device_maps(subject: Subject) -> Evidence:
    """Read and answer on one card, then with the later half of the blocks on another."""
    cards = torch.cuda.device_count() if subject.device.type == "cuda" else 0
    if cards < 2:
        raise NotPossibleError("one card" if cards else "no card")
    if find_spec("accelerate") is None:
        raise NotPossibleError(
            f"{cards} cards, and accelerate, which spreads a model over them, is not installed"
        )
    return compare_spread(subject, [torch.device("cuda", number) for number in range(2)])


def compare_spread(subject: Subject, devices: Sequence[torch.device]) -> Evidence:
    """Compare states and answers of the model on its device with those of the model on two devices."""
    states, texts = _measure(subject)
    with spread(subject.vlm, devices, first=len(subject.vlm.blocks) // 2):
        spread_states, spread_texts = _measure(subject)
    apart, allowed = naive.measure_distance(spread_states, states), choose_tolerance(subject.dtype)
    same, share = naive.count_equal(spread_texts, texts), 1.0 if subject.dtype == torch.float32 else ALIKE
    wrong = [] if apart <= allowed else [f"states are {apart:.1e} apart, and {allowed:.1e} is allowed"]
    wrong += [] if same >= share * len(texts) else [f"{same} of {len(texts)} answers are the same"]
    return Evidence(
        line=f"on {devices[0]} and {devices[1]}: states {apart:.1e} apart, {same} of {len(texts)} answers the same",
        figures={"states_apart": apart, "allowed": allowed, "same": same, "answers": len(texts)},
        wrong=wrong,
    )


def _measure(subject: Subject) -> tuple[Tensor, list[str]]:
    vlm = subject.vlm
    states = embed(vlm, subject.pictured, blocks=subject.blocks).to("cpu")
    ones = torch.ones(len(subject.steered), vlm.hidden_size)
    arm = Steered(delta=ones, blocks=subject.steered).intervention
    answers = generate_arms(vlm, subject.pictured, max_new_tokens=subject.sizes.new_tokens, arms=[None, arm])
    return states, [one.text for each in answers for one in each.answers]


@contextmanager
def spread(vlm: VisionLanguageModel, devices: Sequence[torch.device], *, first: int) -> Iterator[None]:
    """Have accelerate put the blocks from `first` on, and the norm after them, on the second device; then undo it."""
    from accelerate import dispatch_model
    from accelerate.hooks import remove_hook_from_submodules

    home = vlm.device
    names = {id(module): name for name, module in vlm.model.named_modules()}
    norm = vlm.decoder.get_submodule("norm")
    there = {names[id(part)]: devices[1] for part in (*vlm.blocks[first:], norm)}
    here = dict.fromkeys(_list_rest(vlm.model, there), devices[0])
    dispatch_model(vlm.model, device_map=here | there, main_device=devices[0], force_hooks=True)
    try:
        yield
    finally:
        remove_hook_from_submodules(vlm.model)
        dispatch_model(vlm.model, device_map={"": home}, force_hooks=True)
        remove_hook_from_submodules(vlm.model)
        del vlm.model.hf_device_map


def _list_rest(module: nn.Module, taken: Collection[str], prefix: str = "") -> Iterator[str]:
    """List the largest parts that hold none of those taken, by their names in the whole."""
    for name, part in module.named_children():
        whole = f"{prefix}{name}"
        if any(one.startswith(f"{whole}.") for one in taken):
            yield from _list_rest(part, taken, f"{whole}.")
        elif whole not in taken:
            yield whole
