"""The names of the stages, as manifests, keys and Prefect's runs contain them."""

from __future__ import annotations

from enum import StrEnum

from storage.sql import comparisons


class StageName(StrEnum):
    """A stage of a run, or of work on finished runs; its value is what stores hold and must not change."""

    EMBED_IMAGES = "look"
    PAIR = "pair"
    INGEST = "ingest"
    EXTRACT_STATES = "embed"
    SHIFT = "shift"
    SHIFT_PARTS = "apart"
    DIRECTION = "direction"
    PROBE = "probe"
    CAPTION = "caption"
    GENERATE = "generate"
    IMPORT_ANSWERS = "import"
    OVERHEAD = "overhead"
    JUDGE = "judge"
    JUDGE_TEXTS = "judge-texts"
    REPORT = "report"
    # Storage finds the reports that a comparison refers to, so it defines this name.
    COMPARE = comparisons.COMPARE


# The stages whose results are answers, in the order in which runs and reports have them.
ANSWERS = (StageName.GENERATE, StageName.IMPORT_ANSWERS)
