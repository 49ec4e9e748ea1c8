"""What an export reads of a run's model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cmrm.errors import UserError
from cmrm.models.families import Derivation, Family
from tasks.core.models import ModelUse
from tasks.export.models import read_row, resolve_recorded
from tests.model_uses import use_folder

ROW = Family(model_type="llava", blocks="layers", image_token="image_token_id", media=("images", "video"))


def use_llava(folder: Path) -> ModelUse:
    """A run's use of a model whose row its spec gives."""
    return replace(use_folder(folder), family=ROW)


def test_the_row_of_a_run_is_the_one_that_its_spec_or_a_package_gave(llava_folder: Path) -> None:
    use = use_llava(llava_folder)
    assert read_row(use.describe(), "llava") == ROW
    plain = replace(use, family=None)
    assert read_row(plain.describe(), "llava") is None
    derived = replace(plain, derivation=Derivation.here())
    assert read_row(derived.describe(), "llava") is None
    for one in (use, plain, derived):
        assert resolve_recorded(one.describe()) == use.identity


def test_a_record_of_other_files_is_refused(llava_folder: Path) -> None:
    use = use_llava(llava_folder)
    with pytest.raises(UserError, match="are not those on which the run's Δ was measured"):
        resolve_recorded({**use.describe(), "fingerprint": "sha256:other"})
