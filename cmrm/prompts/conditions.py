"""Conditions (query, caption, image, blank, noise, and the controls) and the prompt of a sample under each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import is_
from typing import Literal, get_args

from PIL import Image

from cmrm.prompts.counterparts import make_counterparts
from cmrm.prompts.meaningless_images import BLACK, CLIP_MEAN, MeaninglessImage
from cmrm.prompts.media import LoadedMedium, Medium, check_media, get_kind
from cmrm.prompts.sample import Sample

# Text in place of a meaningless image: its positions alone, its marks too, or as many tokens of plain text.
Control = Literal["gap", "marks", "filler"]
# Images without content, and controls. The paper has `blank` and `noise` and defines neither; the others are for
# comparison.
Meaningless = Literal[
    "blank", "blank-black", "blank-mean", "noise", "noise-gaussian", "gap", "marks", "filler"
]
Condition = Literal[
    "query",
    "caption",
    "image",
    "blank",
    "blank-black",
    "blank-mean",
    "noise",
    "noise-gaussian",
    "gap",
    "marks",
    "filler",
]
CONTROLS: tuple[Control, ...] = get_args(Control)
MEANINGLESS: tuple[Meaningless, ...] = get_args(Meaningless)
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
TEXT_ONLY: frozenset[Condition] = frozenset(("query", "caption"))
# The conditions of the paper's main table.
PAPER_CONDITIONS: tuple[Condition, ...] = ("query", "caption", "image", "blank", "noise")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One user turn before the chat template: a text, an optional image, an optional system line.

    At least two images, or any video or sound, are `media` in place of the `image`, in their order before the text.
    Under a `control` the model is not shown the image: `gap` leaves its positions empty, `marks` also keeps what the
    template puts around it, and `filler` puts plain text in the place of its tokens.

    >>> import cmrm
    >>> prompt = cmrm.Prompt(text="what is a wug?", system="be brief.")
    >>> prompt.text, prompt.image
    ('what is a wug?', None)
    """

    text: str
    image: Image.Image | None = None
    system: str | None = None
    control: Control | None = None
    media: tuple[LoadedMedium, ...] = ()

    def __post_init__(self) -> None:
        check_media(self.image, [get_kind(medium) for medium in self.media])
        if self.control is not None and not self.shown:
            raise ValueError(f"a prompt under {self.control!r} needs the image whose place it takes")

    @property
    def shown(self) -> tuple[LoadedMedium, ...]:
        """All that is shown with the text, in order: the image, or the media."""
        return self.media if self.image is None else (self.image,)


def shows_the_same(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts show the same opened media, in the same order and under the same control."""
    alike = len(one.shown) == len(other.shown) and all(map(is_, one.shown, other.shown))
    return alike and one.control == other.control


def make_meaningless(
    *,
    size: int,
    color: tuple[int, int, int],
    seed: int,
    mean: tuple[int, int, int] | None = CLIP_MEAN,
    contrast: float | None = None,
) -> Mapping[Condition, MeaninglessImage]:
    """Make the recipe of every meaningless image: `size` pixels square, `color` of `blank`, `seed` of noise.

    `mean` is the colour of `blank-mean`, None if the model's is not known; `contrast` is that of noise behind the
    model's processor, in grey levels, None for noise as it is drawn.
    """
    return {
        "blank": MeaninglessImage(kind="blank", size=size, color=color),
        "blank-black": MeaninglessImage(kind="blank", size=size, color=BLACK),
        "blank-mean": MeaninglessImage(kind="blank", size=size, color=mean),
        "noise": MeaninglessImage(kind="noise", size=size, seed=seed, contrast=contrast),
        "noise-gaussian": MeaninglessImage(
            kind="noise", size=size, seed=seed, distribution="gaussian", contrast=contrast
        ),
    }


def missing(sample: Sample, condition: Condition) -> str | None:
    """Name what the sample lacks for the condition; None if it lacks nothing."""
    if condition == "caption" and not sample.caption:
        return "no caption"
    if condition == "image" and not sample.image and not sample.media:
        return "no image"
    return None


def show(
    sample: Sample,
    condition: Condition,
    *,
    open_image: Callable[[str], Image.Image],
    open_media: Callable[[Medium], LoadedMedium],
    meaningless: Mapping[Condition, MeaninglessImage],
    system: str | None = None,
) -> Prompt:
    """Make the prompt of a sample under a condition.

    The image prompt and the text prompt of a sample differ by the image alone (`DESIGN.md` §2, law 4); only `caption`
    changes the text: the caption on its own line above the question. `open_image` opens the sample's image by name, and
    `open_media` each of its media. What is meaningless is one image of the recipe, or for a sample with media the
    counterpart of each of them (`cmrm.prompts.counterparts`).
    Raises `ValueError` if the sample lacks what the condition needs (see `missing`).
    """
    if lack := missing(sample, condition):
        raise ValueError(f"sample {sample.dataset}/{sample.id} cannot be shown under {condition!r}: {lack}")
    if sample.media and condition not in TEXT_ONLY:
        return _show_media(sample, condition, tuple(map(open_media, sample.media)), meaningless, system)
    match condition:
        case "query":
            return Prompt(text=sample.question, system=system)
        case "caption":
            return Prompt(text=f"{sample.caption}\n{sample.question}", system=system)
        case "image":
            assert sample.image is not None  # checked by `missing`
            return Prompt(text=sample.question, image=open_image(sample.image), system=system)
        case "gap" | "marks" | "filler":
            # Any image of that size has the same place in the prompt.
            image = meaningless["blank"].render()
            return Prompt(text=sample.question, image=image, system=system, control=condition)
        case _:
            return Prompt(text=sample.question, image=meaningless[condition].render(), system=system)


def _show_media(
    sample: Sample,
    condition: Condition,
    own: tuple[LoadedMedium, ...],
    meaningless: Mapping[Condition, MeaninglessImage],
    system: str | None,
) -> Prompt:
    control = next((one for one in CONTROLS if one == condition), None)
    if condition != "image":
        # Under a control, any media of those sizes have the same place in the prompt.
        own = make_counterparts(own, meaningless["blank" if control else condition])
    return Prompt(text=sample.question, media=own, system=system, control=control)
