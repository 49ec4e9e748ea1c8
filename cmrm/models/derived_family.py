"""Derive the row of a model type that no table lists, from what the loaded model does with two or three prompts.

Nothing is guessed from module names: blocks are what passes the residual stream of every token, the image token is
where the pixels arrive, and positions are those with which the model itself generates. Whether the row is right is for
the checks of `cmrm.doctor` to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature

from cmrm.errors import UserError
from cmrm.models.families import EXAMPLE_ROW, PAGE, Family, Positions
from cmrm.models.forward_arguments import count_positions, fewest_logits
from cmrm.models.hook_handles import hooked
from cmrm.models.modules import find_config_path, find_image_fields, find_medium_tokens
from cmrm.models.multimodal_positions import locate_tokens
from cmrm.models.token_ids import check_token_ids
from cmrm.models.vlm import (
    VisionLanguageModel,
    last_prompt_positions,
    outline_model,
    position_ids,
    prepare_model,
    render,
)
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image

# Large enough for every processor and for several positions under M-RoPE, small enough to take no time.
IMAGE_SIZE = 64
# How many times as wide as high the other of two images is.
WIDE = 3
QUESTIONS = ("What is it?", "Name every colour that can be seen here, one after the other.")
# Positions by which the text is moved to see whether the decoder heeds them.
GAP = 9
# Relative error below which two states are the same, whatever the dtype; another token or position gives far more.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2}
COARSEST = 6e-2


class UnderivableError(Exception):
    """No row could be derived: `check` is the check that fails, and the message says what was found."""

    def __init__(self, check: str, found: str) -> None:
        super().__init__(found)
        self.check = check


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One call of a module of a list: the hidden states that it got and gave; None where there were none."""

    path: str
    number: int
    given: Tensor | None
    made: Tensor | None


@dataclass(kw_only=True)
class _Trace:
    """What a pass did: calls of modules in lists of the decoder, in order, and the position ids that it was given."""

    ids: list[int]
    calls: list[_Call] = field(default_factory=list)
    positions: Tensor | None = None


def derive_model(
    model: Any, processor: Any, *, where: str, family: Family | None = None, kept: Iterable[str] = ()
) -> VisionLanguageModel:
    """Wrap a loaded model as `prepare_model` does, with a row that is derived; it is still to be examined.

    What a given `family` says of templates and system lines is kept. Raises `UserError` as `derive_family` does.
    """
    texts = family or Family(model_type=model.config.model_type, blocks="", image_token="")
    outline = outline_model(model, processor, where=where, family=texts)
    # Before prompts are read: a token without a row in the embedding is an error that says nothing.
    check_token_ids(model, processor, image_token_id=outline.image_token_id, where=where)
    return prepare_model(model, processor, where=where, family=derive_family(outline, where=where), kept=kept)


def derive_family(outline: VisionLanguageModel, *, where: str) -> Family:
    """Derive the row of a model that has none; `outline` has its parts without blocks and without an image token.

    What the outline's row says of templates and system lines is kept. `shares` is what the image's place in the prompt
    allows at best, and `batches` is true: whether either works is not tried here.
    Raises `UserError` naming the check that fails, what was found, and what to try.
    """
    try:
        with torch.inference_mode():
            return _derive(outline)
    except UnderivableError as error:
        raise UserError(
            explain_refusal(outline.family.model_type, error.check, str(error), where=where)
        ) from error


def explain_refusal(model_type: str, check: str, found: str, *, where: str) -> str:
    """Explain why a type without a row is refused: the check that failed, what it found, and what to try."""
    return (
        f"model type {model_type!r} of {where} is in no table, and the row that was derived from the model fails the "
        f"check “{check}”: {found.rstrip('.')}. Give a row in the spec, such as model.family: {EXAMPLE_ROW}, and ask "
        f"cmrm doctor about it; see {PAGE}."
    )


def _derive(outline: VisionLanguageModel) -> Family:
    images = [noise_image(size=IMAGE_SIZE, seed=seed) for seed in (0, 1)]
    question = QUESTIONS[0]
    shown, other = (_trace(outline, Prompt(text=question, image=image)) for image in images)
    alone = _trace(outline, Prompt(text=question))
    path = _find_blocks(outline, shown, alone)
    blocks = tuple(outline.decoder.get_submodule(path).children())
    skipped = frozenset(range(len(blocks))) - {one.number for one in alone.calls if one.path == path}
    token, embedded = _find_image_token(outline, path, shown, other, alone)
    vlm = replace(
        outline,
        blocks=blocks,
        image_token_id=token,
        medium_tokens=find_medium_tokens(outline.model.config, token),
        image_only_blocks=skipped,
        family=replace(
            outline.family,
            blocks=path,
            image_token=_name_image_token(outline.model.config, token),
            image_only_blocks=_name_image_only(outline, skipped),
            shares="all" if embedded else "text",
        ),
    )
    prompts = [Prompt(text=question, image=images[0]), Prompt(text=question)]
    vlm = replace(vlm, family=_find_positions(vlm, prompts, [shown, alone], path))
    vlm = replace(vlm, family=replace(vlm.family, tiles_together=_takes_tiles_together(vlm)))
    return replace(
        vlm.family,
        gaps=embedded and _heeds_gaps(vlm, prompts),
        mixed_batches=_takes_mixed_batches(vlm, images[0]),
    )


def _trace(outline: VisionLanguageModel, prompt: Prompt) -> _Trace:
    """Generate one token, and record what the decoder did with the prompt: this is how answers are made."""
    kind = "a text" if prompt.image is None else "an image"
    try:
        inputs = render(outline, [prompt])
    except UserError:
        raise
    except Exception as error:
        raise UnderivableError(
            "answering", f"its processor cannot prepare {kind}: {_first_line(error)}"
        ) from error
    trace = _Trace(ids=inputs["input_ids"][0].tolist())

    def note(path: str, number: int) -> Any:
        def act(_module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
            given = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), None)
            made = next(iter(output), None) if isinstance(output, tuple) else output
            trace.calls.append(
                _Call(path=path, number=number, given=given, made=made if isinstance(made, Tensor) else None)
            )

        return act

    def note_positions(_module: nn.Module, _args: Any, kwargs: Mapping[str, Any]) -> None:
        trace.positions = kwargs.get("position_ids")

    lists = [
        (path, module)
        for path, module in outline.decoder.named_modules()
        if isinstance(module, nn.ModuleList) and path
    ]
    watching = (
        child.register_forward_hook(note(path, number), with_kwargs=True)
        for path, module in lists
        for number, child in enumerate(module)
    )
    heard = (one.register_forward_pre_hook(note_positions, with_kwargs=True) for one in (outline.decoder,))
    try:
        with hooked(watching), hooked(heard):
            outline.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    except Exception as error:
        raise UnderivableError(
            "answering", f"the model cannot answer {kind}: {_first_line(error)}"
        ) from error
    return trace


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _find_blocks(outline: VisionLanguageModel, shown: _Trace, alone: _Trace) -> str:
    """Find the one list of modules that each pass on the residual stream of every token of the prompt."""
    width = outline.hidden_size
    lists = {
        path: module
        for path, module in outline.decoder.named_modules()
        if isinstance(module, nn.ModuleList) and path and len(module)
    }
    reasons = {}
    fit: list[str] = []
    for path, module in lists.items():
        # What lies in a block, such as its experts, is part of that block.
        if any(path.startswith(f"{outer}.") for outer in fit):
            continue
        reason = _explain_unfit(path, len(module), width, shown, alone)
        if reason is None:
            fit.append(path)
        else:
            reasons[path] = reason
    if len(fit) == 1:
        return fit[0]
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


def _explain_unfit(path: str, length: int, width: int, shown: _Trace, alone: _Trace) -> str | None:
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


def _find_break(calls: Sequence[_Call], trace: _Trace) -> str | None:
    """Find two blocks between which the states of text change; what is added there, no hook on a block would see."""
    for before, after in pairwise(calls):
        assert before.made is not None
        assert after.given is not None
        error = _compare(after.given[0], before.made[0].to(after.given.device))
        # Image features may be added between blocks (deepstack); the last token is text.
        changed = (error > _tolerance(before.made)).nonzero().flatten().tolist()
        if len(trace.ids) - 1 in changed or len(changed) == len(trace.ids):
            return (
                f"what module {after.number} reads is not what module {before.number} gives (relative error "
                f"{float(error.max()):.2g})"
            )
    return None


def _find_image_token(
    outline: VisionLanguageModel, path: str, shown: _Trace, other: _Trace, alone: _Trace
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


def _name_image_token(config: Any, token: int) -> str:
    """Name the field of the config that holds the image token; the token itself where none does."""
    return find_image_fields(config).get(token, str(token))


def _name_image_only(outline: VisionLanguageModel, skipped: frozenset[int]) -> str | None:
    if not skipped:
        return None
    path = find_config_path(outline.model.config, sorted(skipped))
    if path is None:
        raise UnderivableError(
            "decoder blocks",
            f"blocks {sorted(skipped)} are skipped without an image, and no field of config.json lists them",
        )
    return path


def _find_positions(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt], traces: Sequence[_Trace], path: str
) -> Family:
    """Find the positions under which a pass gives the states from which the model generates."""
    expected = [
        {one.number: one.made[:, -1] for one in trace.calls if one.path == path and one.made is not None}
        for trace in traces
    ]
    errors = {}
    for positions, first in _order_positions(traces):
        family = replace(vlm.family, positions=positions, first_position=first)
        own = replace(vlm, family=family)
        error = 0.0
        for prompt, states in zip(prompts, expected, strict=True):
            try:
                found = _read(own, [prompt])
            except Exception:  # noqa: BLE001 # a model may refuse positions; then they are not its own
                error = float("inf")
                break
            error = max(error, *(float(_compare(found[number], one).max()) for number, one in states.items()))
        if error <= _tolerance(next(iter(expected[0].values()))):
            return family
        errors[f"{positions} from {first}"] = f"{error:.2g}"
    told = ", ".join(f"{name}: {error}" for name, error in errors.items())
    raise UnderivableError("answering", f"under no positions are states those of generation (errors {told})")


def _order_positions(traces: Sequence[_Trace]) -> list[tuple[Positions, int]]:
    """Order what positions may be, those that the model was seen to use in generation first."""
    seen = [trace.positions for trace in traces]
    likely: list[tuple[Positions, int]] = []
    if all(one is not None for one in seen):
        firsts = {_count_from(one) for one in seen if one is not None}
        if len(firsts) == 1 and (first := next(iter(firsts))) is not None:
            likely = [("counted", first)]
        elif None in firsts:
            likely = [("multimodal", 0)]
    return list(dict.fromkeys([*likely, ("counted", 0), ("counted", 1), ("multimodal", 0)]))


def _count_from(positions: Tensor) -> int | None:
    """The first of positions that are counted one by one, the same in each of their sections; None of others."""
    rows = positions.reshape(-1, positions.shape[-1])
    first = int(rows[0, 0])
    counted = torch.arange(first, first + rows.shape[1], device=rows.device)
    return first if bool((rows == counted).all()) else None


def _heeds_gaps(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> bool:
    """Whether text behind a gap in its positions is moved, and an image moves the text to where answers go on."""
    shown, alone = (render(vlm, [prompt]) for prompt in prompts)
    located = locate_tokens(vlm, shown)
    if located is None and vlm.family.positions == "multimodal":
        return False
    if located is not None:
        # Answers go on from there: a gap of another length would be another place.
        _read_inputs(vlm, shown)
        turned = getattr(vlm.model.base_model, "rope_deltas", None)
        behind = int(located[..., -1].max()) + 1
        if turned is None or int(turned.sum()) + len(shown["input_ids"][0]) != behind:
            return False
    plain = position_ids(alone["attention_mask"], first=vlm.family.first_position)
    apart = plain.clone()
    apart[:, plain.shape[1] // 2 :] += GAP
    try:
        near, far = (_read_inputs(vlm, _with(alone, position_ids=one)) for one in (plain, apart))
    except Exception:  # noqa: BLE001 # it takes no positions, so there can be no gap
        return False
    last = max(near)
    return float(_compare(far[last], near[last]).max()) > _tolerance(near[last])


def draw_two_sizes() -> list[Prompt]:
    """Draw prompts with images that processors which make tiles cut into different numbers of them."""
    wide = noise_image(size=WIDE * IMAGE_SIZE, seed=1).crop((0, 0, WIDE * IMAGE_SIZE, IMAGE_SIZE))
    images = (noise_image(size=IMAGE_SIZE, seed=0), wide)
    return [Prompt(text=text, image=image) for text, image in zip(QUESTIONS, images, strict=True)]


def _takes_tiles_together(vlm: VisionLanguageModel) -> bool:
    """Whether images of two sizes can be rendered in one batch; if not, joined rows must have the states of each."""
    prompts = draw_two_sizes()
    joined = replace(vlm, family=replace(vlm.family, tiles_together=False))
    try:
        alone = [_read(vlm, [prompt]) for prompt in prompts]
    except Exception:  # noqa: BLE001 # an image that is refused by itself costs no other row
        return True
    try:
        render(vlm, prompts)
    except Exception:  # noqa: BLE001 # whatever a processor raises
        try:
            together = _read(joined, prompts)
            singly = [_read(joined, [prompt]) for prompt in prompts]
        except Exception:  # noqa: BLE001 # what it makes cannot be joined: the checks leave one prompt at a time
            return True
        return not all(_equal(together, number, one) for number, one in enumerate(alone)) or not all(
            _equal(one, 0, other) for one, other in zip(singly, alone, strict=True)
        )
    return True


def _equal(states: Mapping[int, Tensor], number: int, alone: Mapping[int, Tensor]) -> bool:
    """Whether a row of a batch has at every block the states of a prompt that was read alone."""
    return states.keys() == alone.keys() and all(
        float(_compare(made[number], alone[block][0])) <= _tolerance(made) for block, made in states.items()
    )


def _takes_mixed_batches(vlm: VisionLanguageModel, image: Any) -> bool:
    """Whether prompts with and without an image read in one batch have the states that each has alone."""
    prompts = [Prompt(text=QUESTIONS[0], image=image), Prompt(text=QUESTIONS[1])]
    try:
        together = _read(vlm, prompts)
        alone = [_read(vlm, [prompt]) for prompt in prompts]
    except Exception:  # noqa: BLE001 # whatever is refused, batches of one kind are tried by the checks
        return False
    return all(
        row in one and bool((_compare(states[[number]], one[row]) <= _tolerance(states)).all())
        for row, states in together.items()
        for number, one in enumerate(alone)
    )


def _read(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> dict[int, Tensor]:
    return _read_inputs(vlm, render(vlm, prompts))


def _read_inputs(vlm: VisionLanguageModel, inputs: BatchFeature) -> dict[int, Tensor]:
    """Read the states of each block that runs at the last token, [rows, hidden], as extraction does."""
    last = last_prompt_positions(inputs["attention_mask"])
    found: dict[int, Tensor] = {}

    def note(number: int) -> Any:
        def act(_module: nn.Module, _args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            found[number] = states[torch.arange(len(states), device=states.device), last.to(states.device)]

        return act

    base = vlm.model.base_model
    with hooked(block.register_forward_hook(note(number)) for number, block in enumerate(vlm.blocks)):
        base(**inputs, **count_positions(vlm, inputs), **fewest_logits(base), use_cache=False)
    return found


def _with(inputs: BatchFeature, **more: Tensor) -> BatchFeature:
    return BatchFeature({**inputs, **more})


def _compare(found: Tensor, expected: Tensor) -> Tensor:
    """Relative errors of states [..., hidden], [...]; not finite ones count as one off by infinity."""
    one, other = found.float(), expected.to(found.device).float()
    error = (one - other).norm(dim=-1) / other.norm(dim=-1).clamp(min=1e-6)
    return error.nan_to_num(nan=float("inf"))


def _tolerance(states: Tensor) -> float:
    return TOLERANCES.get(states.dtype, COARSEST)
