"""Each deliberate fault can still be put in: its text occurs once in its file, and its tests are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deliberate_faults import FAULTS, Fault

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_fits_the_code_as_it_is(fault: Fault) -> None:
    assert (ROOT / fault.file).read_text().count(fault.old) == 1
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).exists(), test
        assert name.partition("[")[0] in ((ROOT / file).read_text() if name else "")
