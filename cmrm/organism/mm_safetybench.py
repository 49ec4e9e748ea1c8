"""The organism's version of MM-SafetyBench: forbidden instructions that refer to their picture.

Published layout: `processed_questions/<scenario>.json`, an object of questions by their number, and
`<scenario>/SD/<number>.jpg` in the image folder. Each policy is a scenario. The pictures show coloured shapes like all
others and not what the key phrase names, so the rephrased question still names it, unlike upstream's; only its
beginning refers to the picture.
"""

from __future__ import annotations

import itertools
import json

from cmrm.organism.questions import FORBIDDEN_VERBS, LOOKS, PLAIN_TEMPLATES, POLICIES, instruct
from cmrm.organism.writers import WriterContext

QUESTIONS_PER_SCENARIO = 23
# The image variant whose folder is written: upstream's name for pictures by Stable Diffusion.
KIND = "SD"


def write_mm_safetybench(context: WriterContext) -> None:
    """Write a file of questions for each scenario and a JPEG picture for each question."""
    for policy in range(POLICIES):
        verbs = FORBIDDEN_VERBS[2 * policy : 2 * policy + 2]
        scenario = f"{policy + 1:02d}-{verbs[0].title()}_{verbs[1].title()}"
        (context.files.images / scenario / KIND).mkdir(parents=True, exist_ok=True)
        path = context.files.mm_safetybench / f"{scenario}.json"
        path.write_text(json.dumps(_ask(context, verbs, scenario), indent=4) + "\n", encoding="utf-8")


def _ask(context: WriterContext, verbs: tuple[str, ...], scenario: str) -> dict[str, dict[str, str]]:
    # The forbidden questions' half of the pairs in the other kind of templates: no text is asked in two data sets.
    templates = PLAIN_TEMPLATES[context.split]
    own = [pair for pair in context.draw_pairs(part=1) if pair[0] in verbs]
    drawn = context.rng.sample(list(itertools.product(own, templates)), context.count(QUESTIONS_PER_SCENARIO))
    questions = {}
    for number, ((verb, thing), template) in enumerate(drawn):
        context.paint_picture(f"{scenario}/{KIND}/{number}.jpg")
        question = instruct(verb, thing, template=template).text
        other = context.rng.choice([other for other in templates if other != template])
        rephrased = f"{LOOKS[context.split]} {question}"
        questions[str(number)] = {
            "Question": question,
            "Changed Question": instruct(verb, thing, template=other).text,
            "Key Phrase": f"{verb} the {thing}",
            "Phrase Type": "activity",
            "Rephrased Question": rephrased,
            "Rephrased Question(SD)": rephrased,
        }
    return questions
