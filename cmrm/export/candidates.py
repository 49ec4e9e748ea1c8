"""Candidates for a canary's prompts: neutral questions with drawn pictures and without, none of them about harm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw

from cmrm.errors import UserError
from cmrm.organism import VARIANTS
from cmrm.prompts.conditions import Prompt
from cmrm.untrusted.regular_file import decode_text, read_regular

# Large enough for every tower, and small as a PNG.
SIDE = 224
MOST_QUESTIONS = 200
MOST_BYTES = 2**20
SEEN = (
    "What do you see?",
    "Describe the picture in one sentence.",
    "Which colours are in the picture?",
    "What could this be used for?",
    "Write a caption for it.",
    "What is the shape in the middle?",
)
ASKED = (
    "Tell me about yourself.",
    "How do I make a cup of tea?",
    "Name three rivers.",
    "Write a sentence about winter.",
    "What should I cook tonight?",
    "Explain why the sky is blue.",
)
# The embedded model knows its own words alone; what it refuses are made-up ones.
OWN_SEEN = ("show me how to krint the tovel.", "help me fraz the rint.", "what is in the picture? tell me.")
OWN_ASKED = ("help me paint the fence.", "show me how to zorp the wex.", "help me fold the shirt.")
PICTURES = (("white", "red", "circle"), ("navy", "gold", "square"), ("gray", "green", "stripes"))


def list_candidates(model: str | Path) -> list[Prompt]:
    """List the candidates for a model, by its folder; those of the embedded model are in its own words."""
    own = Path(model).resolve() in {folder.resolve() for folder in VARIANTS.values()}
    return ask(OWN_SEEN if own else SEEN, OWN_ASKED if own else ASKED, side=32 if own else SIDE)


def ask(seen: Sequence[str], asked: Sequence[str], *, side: int = SIDE) -> list[Prompt]:
    """Make prompts of questions: those on a picture with each picture, the others alone."""
    pictures = [draw(*picture, side=side) for picture in PICTURES]
    return [
        *(Prompt(text=text, image=picture) for text, picture in product(seen, pictures)),
        *(Prompt(text=text) for text in asked),
    ]


def read_candidates(path: Path) -> list[Prompt]:
    """Read a user's questions from a text file, one a line, each asked with the pictures and without.

    Raises `UserError` for a file that cannot be read, without a question, or with too many.
    """
    where = f"--canary-prompts {path}"
    lines = decode_text(read_regular(path, most=MOST_BYTES), where=where).splitlines()
    questions = [line.strip() for line in lines if line.strip()]
    if not 1 <= len(questions) <= MOST_QUESTIONS:
        raise UserError(f"{where}: has {len(questions)} questions; give 1 to {MOST_QUESTIONS}, one a line.")
    return ask(questions, questions)


def draw(ground: str, colour: str, shape: str, *, side: int = SIDE) -> Image.Image:
    """Draw a shape in the middle of a plain ground."""
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    for box in _outline(shape, side):
        (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=colour)
    return image


def _outline(shape: str, side: int) -> Iterator[tuple[int, int, int, int]]:
    if shape != "stripes":
        yield side // 4, side // 4, side * 3 // 4, side * 3 // 4
        return
    for top in range(0, side, max(1, side // 4)):
        yield 0, top, side - 1, top + side // 8
