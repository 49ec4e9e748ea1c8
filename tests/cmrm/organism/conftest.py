"""The organism with its data sets, written once for all that read them."""

from __future__ import annotations

import pytest

from cmrm.organism import Organism, ensure_organism


@pytest.fixture(scope="session")
def organism(tmp_path_factory: pytest.TempPathFactory) -> Organism:
    """The shipped model and its data sets, in a folder of their own."""
    return ensure_organism(tmp_path_factory.mktemp("organism"))
