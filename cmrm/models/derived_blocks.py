"""Find the decoder blocks and the image token of a model, from what passes did."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from cmrm.models.generation_trace import Call, Trace, UnderivableError
from cmrm.models.modules import find_config_path, find_image_fields, list_module_lists
from cmrm.models.prompt_states import choose_tolerance, compare_states
from cmrm.models.vlm import VisionLanguageModel


def find_block_path(outline: VisionLanguageModel, shown: Trace, alone: Trace) -> tuple[str, int]:
    """Find the one list of modules that each pass on the residual stream of every token, and of how many streams.

    Several streams lie side by side in the last dimension.
    """
    reasons = {}
    fit: dict[str, int] = {}
    for path, module in list_module_lists(outline.decoder).items():
        # What lies in a block, such as its experts, is part of that block.
        if any(path.startswith(f"{outer}.") for outer in fit):
            continue
        streams = _count_streams(path, outline.hidden_size, shown)
        reason = _explain_unfit(path, len(module), streams * outline.hidden_size, shown, alone)
        if reason is None:
            fit[path] = streams
        else:
            reasons[path] = reason
    if len(fit) == 1:
        return next(iter(fit.items()))
    if fit:
        raise UnderivableError(
            "decoder blocks",
            f"several lists of {type(outline.decoder).__name__} read each token: {', '.join(fit)}",
        )
    told = (
        "; ".join(f"{path}: {reason}" for path, reason in list(reasons.items())[:4])
        or "it has no list of modules"
    )
    raise UnderivableError(
        "decoder blocks",
        f"no list of {type(outline.decoder).__name__} passes on the states of all tokens ({told})",
    )


def _count_streams(path: str, hidden: int, trace: Trace) -> int:
    """Count the streams, side by side, that the first module of a list gives; 1 if it gives something else."""
    made = next((one.made for one in trace.calls if one.path == path), None)
    if made is None or made.dim() != 3 or made.shape[-1] % hidden:
        return 1
    return int(made.shape[-1]) // hidden


def _explain_unfit(path: str, length: int, width: int, shown: Trace, alone: Trace) -> str | None:
    """Explain why the modules of a list are not the decoder's blocks; None if they are."""
    for trace in (shown, alone):
        calls = [one for one in trace.calls if one.path == path]
        numbers = [one.number for one in calls]
        expected = (1, len(trace.ids), width)
        if trace is shown and numbers != list(range(length)):
            return "its modules are not called once each, in order"
        if not numbers or numbers != sorted(set(numbers)):
            return "without an image its modules are not called once each, in order"
        for one in calls:
            for states in (one.given, one.made):
                if states is None or tuple(states.shape) != expected:
                    size = "no tensor" if states is None else list(states.shape)
                    return f"module {one.number} passes {size}, not {list(expected)}"
        broken = _find_break(calls, trace)
        if broken is not None:
            return broken
    return None


def _find_break(calls: Sequence[Call], trace: Trace) -> str | None:
    """Find two blocks between which the states of text change; what is added there, no hook on a block would see."""
    for before, after in pairwise(calls):
        assert before.made is not None
        assert after.given is not None
        error = compare_states(after.given[0], before.made[0].to(after.given.device))
        # Image features may be added between blocks (deepstack); the last token is text.
        changed = (error > choose_tolerance(before.made.dtype)).nonzero().flatten().tolist()
        if len(trace.ids) - 1 in changed or len(changed) == len(trace.ids):
            return (
                f"what module {after.number} reads is not what module {before.number} gives (relative error "
                f"{float(error.max()):.2g})"
            )
    return None


def find_shown_token(
    outline: VisionLanguageModel, path: str, shown: Trace, other: Trace, alone: Trace
) -> tuple[int, bool]:
    """Find the token that stands for the image, and whether the image's features take its place in the prompt."""
    new = set(shown.ids) - set(alone.ids)
    if shown.ids != other.ids:
        raise UnderivableError("image tokens", "two images of one size give prompts of different tokens")
    first, second = (next(one.given for one in trace.calls if one.path == path) for trace in (shown, other))
    assert first is not None
    assert second is not None
    places = (first[0] != second[0]).any(dim=-1).nonzero().flatten().tolist()
    tokens = {shown.ids[place] for place in places}
    if len(tokens) > 1:
        raise UnderivableError(
            "image tokens", f"features of the image stand at {len(tokens)} tokens, {sorted(tokens)[:4]}"
        )
    if tokens and not tokens <= new:
        raise UnderivableError(
            "image tokens", f"token {min(tokens)} stands for the image and is in text prompts too"
        )
    if tokens:
        return min(tokens), True
    named = sorted(new & find_image_fields(outline.model.config).keys())
    if len(named) != 1:
        raise UnderivableError(
            "image tokens",
            f"no state at the first block depends on the pixels, and {len(named)} tokens of the image prompt are named "
            "in config.json as an image's",
        )
    return named[0], False


def name_image_token(config: Any, token: int) -> str:
    """Name the field of the config that holds the image token; the token itself where none does."""
    return find_image_fields(config).get(token, str(token))


def name_image_only(outline: VisionLanguageModel, skipped: frozenset[int]) -> str | None:
    """Name the field of the config that lists the blocks which an image alone makes run; None where all run."""
    if not skipped:
        return None
    path = find_config_path(outline.model.config, sorted(skipped))
    if path is None:
        raise UnderivableError(
            "decoder blocks",
            f"blocks {sorted(skipped)} are skipped without an image, and no field of config.json lists them",
        )
    return path
