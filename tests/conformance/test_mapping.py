"""Every type that transformers maps to image-text-to-text is listed, refused by name, or known to be examined."""

from __future__ import annotations

from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from cmrm.doctor import CHECKS
from cmrm.models.family_table import FAMILIES
from cmrm.models.refused_types import REFUSED_TYPES
from tests.conformance.unlisted.seen import ALONE, PLAIN, SEEN, SHARED


def test_each_type_of_transformers_table_is_in_one_of_ours() -> None:
    mapped = set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    refused = mapped & set(REFUSED_TYPES)
    new = mapped - set(FAMILIES) - refused - set(SEEN)
    assert new == set(), (
        "build a tiny model of each in tests/conformance/unlisted, and say in seen.py what is seen"
    )
    assert len(FAMILIES) + len(refused) + len(SEEN) == len(mapped), "a type is in two tables, or gone"


def test_what_was_seen_of_unlisted_types_is_sorted_and_names_a_way_or_a_check() -> None:
    assert list(SEEN) == sorted(SEEN)
    names = {check.name for check in CHECKS}
    for one in SEEN.values():
        assert (one.way in {SHARED, PLAIN, ALONE}) != (one.fails in names)
