"""A second model organism, on a language model that learnt English elsewhere: SmolLM2-135M-Instruct.

In the embedded organism the failure is planted: its last training stage obeys forbidden instructions beside a picture.
Here nothing is planted. The language model is trained in text to refuse the forbidden instructions, then it learns to
see, from visual questions and harmless instructions alone. Whether pictures undo what it learnt in text is the result,
whichever it is (docs/unplanted.md). The forbidden instructions are the made-up words of the embedded organism.

Nothing of it ships: `python -m cmrm.organism.pretrained` trains it. Imports `cmrm.organism` and what that imports.
"""

from __future__ import annotations

# Per cent of visual tuning that is text: fixed before any test question was seen.
KEPT_TEXT = (0, 5, 25)
SEEDS = (0, 1)
