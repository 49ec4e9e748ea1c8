"""What the tests ask tiny models: three questions of different lengths, without an image and with one."""

from __future__ import annotations

from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image

QUESTIONS = ("what is it?", "name every colour that you can see", "hi")
TEXT = [Prompt(text=question) for question in QUESTIONS]
SHOWN = [
    Prompt(text=question, image=noise_image(size=32, seed=row)) for row, question in enumerate(QUESTIONS)
]


def text_of(vlm: VisionLanguageModel, prompt: Prompt) -> str:
    """The prompt as the model is given it."""
    return str(vlm.processor.tokenizer.decode(render(vlm, [prompt])["input_ids"][0]))
