"""Media of prompts as a processor takes them: which ones a model takes, and how they are handed over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from cmrm.models.chat_template import SystemForm, make_turns
from cmrm.models.families import Family, MediaForm
from cmrm.prompts.conditions import Control, Prompt
from cmrm.prompts.media import Audio, LoadedMedium, MediumKind, Video, get_kind, goes_alone

# Samples a second where a processor names no rate of its own, as transformers has it.
USUAL_RATE = 16_000
NAMES: dict[MediaForm, str] = {
    "images": "several images",
    "video": "video",
    "audio": "sound",
    "mixed": "media of several kinds together",
}


def list_kinds(prompt: Prompt) -> tuple[MediumKind, ...]:
    """List the kinds of what a prompt shows, in order."""
    return tuple(get_kind(medium) for medium in prompt.shown)


def list_forms(kinds: Sequence[MediumKind]) -> list[MediaForm]:
    """List what a model must take besides one image, for a prompt that shows media of these kinds."""
    needed: list[MediaForm] = ["images"] if kinds.count("image") > 1 else []
    needed += [one for one in ("video", "audio") if one in kinds]
    return [*needed, "mixed"] if len(set(kinds)) > 1 else needed


def explain_untaken(family: Family, kinds: Sequence[MediumKind]) -> str | None:
    """Explain why a family's prompts cannot show media of these kinds; None if they can."""
    lacking = [NAMES[form] for form in list_forms(kinds) if form not in family.media]
    if not lacking:
        return None
    taken = ", ".join(("one image", *(NAMES[form] for form in family.media)))
    return f"{family.model_type} does not take {' or '.join(lacking)}: its row lists {taken}"


def split_by_kind(family: Family, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Split prompts, by their places, into those that can share a batch.

    Those share one that are under the same control, unless one has video or sound, or the family takes no text beside
    images.
    """
    groups: dict[tuple[Control | None, bool | int], list[int]] = {}
    for place, prompt in enumerate(prompts):
        alone = goes_alone(list_kinds(prompt))
        text_only = not prompt.shown and not family.mixed_batches
        groups.setdefault((prompt.control, place + 2 if alone else text_only), []).append(place)
    return list(groups.values())


def explain_unprinted(
    processor: Any,
    template: str,
    kinds: Sequence[MediumKind],
    *,
    form: SystemForm,
    system: str | None,
    who: str,
) -> str | None:
    """Explain which medium a chat template leaves out; None if it prints something for each.

    A template ignores parts of a kind that it does not know, and the processor then drops the medium in silence.
    """
    previous = 0
    for count in range(len(kinds) + 1):
        parts = [name_part(kind) for kind in kinds[:count]]
        turns = make_turns(text="?", parts=parts, system=system, form=form)
        try:
            text = processor.apply_chat_template(turns, chat_template=template, add_generation_prompt=True)
        except (TemplateError, TypeError) as error:
            return f"the chat template of this {who} model refuses {', '.join(kinds[:count])} ({error})"
        length = len("".join(text.split()))
        if count and length <= previous:
            return (
                f"the chat template of this {who} model prints nothing for {kinds[count - 1]} {count} of {len(kinds)}, "
                "so the model would never be shown it; give the model's folder a template that does"
            )
        previous = length
    return None


def name_part(kind: MediumKind) -> dict[str, Any]:
    """Make the part of a turn that stands for a medium of a kind, of which the template alone is printed."""
    return {"type": kind, kind: "any"}


def make_parts(shown: Sequence[LoadedMedium], *, rate: int) -> list[dict[str, Any]]:
    """Make the parts of a turn that hold opened media; `rate` is the one at which the processor takes sound."""
    return [{"type": get_kind(medium), get_kind(medium): _convert(medium, rate)} for medium in shown]


def find_rate(processor: Any) -> int:
    """Find the rate, in samples a second, at which a processor takes sound."""
    owners = (getattr(processor, name, None) for name in ("feature_extractor", "audio_processor"))
    found = (getattr(owner, "sampling_rate", None) for owner in owners)
    return next((int(rate) for rate in found if rate), USUAL_RATE)


def list_video_arguments(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """List what a processor is told of the prompts' videos, none of whose frames it is to leave out.

    Without their rate, processors that print the time of each frame would make one up.
    """
    videos = list(_find_videos(prompts))
    if not videos:
        return {}
    return {
        "do_sample_frames": False,
        "video_metadata": [
            {
                "total_num_frames": len(video.frames),
                "fps": video.fps,
                "duration": video.seconds,
                "frames_indices": list(range(len(video.frames))),
                "width": video.size[0],
                "height": video.size[1],
            }
            for video in videos
        ],
    }


def resample(samples: NDArray[np.float32], rate: int, new_rate: int) -> NDArray[np.float32]:
    """Change the rate of a sound, float32 [samples], by its spectrum: what both rates can hold is kept.

    Source: resampling by the discrete Fourier transform, as `scipy.signal.resample` does it.
    """
    count = max(1, round(len(samples) * new_rate / rate))
    if count == len(samples):
        return samples
    spectrum = np.fft.rfft(samples.astype(np.float64))
    kept = spectrum[: min(len(samples), count) // 2 + 1]
    return (np.fft.irfft(kept, n=count) * (count / len(samples))).astype(np.float32)


def _find_videos(prompts: Sequence[Prompt]) -> Iterator[Video]:
    for prompt in prompts:
        yield from (medium for medium in prompt.shown if isinstance(medium, Video))


def _convert(medium: LoadedMedium, rate: int) -> Any:
    match medium:
        case Video():
            return np.stack([np.asarray(frame) for frame in medium.frames])
        case Audio():
            return resample(medium.samples, medium.rate, rate)
        case _:
            return medium
