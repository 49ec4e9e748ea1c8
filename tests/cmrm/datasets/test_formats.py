"""The table of formats, and what every format has in common."""

from __future__ import annotations

import inspect

import pytest

from cmrm.datasets import find_format, read_dataset
from cmrm.datasets.formats import OWN
from cmrm.errors import UserError


def test_each_format_says_whether_its_questions_are_harmful():
    assert {name: find_format(name).harmful for name in OWN} == {
        "vlsafe": True,
        "forbidden-questions": True,
        "mm-safetybench": True,
        "figstep": True,
        "vlguard": None,
        "xstest": None,
        "mossbench": False,
        "llava-bench-coco": False,
        "scienceqa": False,
        "vlsbench": True,
        "siuo": None,
        "msts": True,
        "mssbench": None,
        "hades": True,
        "jailbreakv-28k": True,
        "holisafe": None,
        "mm-safetybench-plus-plus": None,
        "spa-vl": None,
        "jsonl": None,
        "json": None,
        "csv": None,
        "parquet": None,
        "huggingface": None,
        "advbench": True,
        "harmbench": True,
        "jailbreakbench": None,
        "mm-vet": False,
        "mmbench": False,
        "or-bench": None,
        "pope": False,
        "sorry-bench": True,
        "strongreject": True,
        "vqav2": False,
    }


@pytest.mark.parametrize("name", sorted(OWN))
def test_the_table_lists_what_the_reader_takes(name):
    found = find_format(name)
    taken = set(inspect.signature(found.read).parameters) - {"path", "dataset"}
    assert found.options | found.needs == taken
    assert found.files <= found.options


@pytest.mark.parametrize("name", sorted(OWN))
def test_an_unknown_option_is_refused_with_the_known_ones(tmp_path, name):
    with pytest.raises(UserError, match=r"no option 'categorys'; it takes .*categories"):
        read_dataset(name, tmp_path, dataset="d", categorys=["a"])


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"known formats: .*csv, .*figstep, .*jsonl, .*vlsafe, .*xstest"):
        read_dataset("vl-safe", tmp_path, dataset="d")
