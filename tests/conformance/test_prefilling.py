"""What arms of one request share of their prefill equals whole passes in every family, and runs the tower once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cmrm.models.family_table import FAMILIES
from tests.conformance.builders import BUILDERS
from tests.conformance.examining import Examined
from tests.conformance.prefilling import ARMS

# Their last blocks take the keys of earlier ones, so that no block of theirs is left out of a pass.
KEYS_OF_OTHERS = {"gemma3n", "gemma4"}
EXAMINED = ("prefilling",)
SHARING = sorted(name for name in BUILDERS if FAMILIES[name].shares == "all")


@pytest.mark.parametrize("family", SHARING)
def test_a_shared_prefill_equals_whole_passes_and_runs_tower_and_first_block_once(
    examine: Callable[[str], Examined], family: str
) -> None:
    found = examine("prefilling")[family]
    assert set(found["apart"]) == set(ARMS)
    assert max(found["apart"].values()) < 1e-4, found["apart"]
    assert found["tower"] == 1
    # Once for the plain prompts, for what follows the image in two arms, and for the arm that shares pixels alone.
    # Else once for each of the two other arms as well.
    assert found["block"] == (6 if family in KEYS_OF_OTHERS else 4)
