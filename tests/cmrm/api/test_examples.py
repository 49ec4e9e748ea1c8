"""Every name of the API has an example, and every example runs."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import cmrm

# Modules that are dear to import, or that the method must not need.
DEAR = ("typing", "torch", "transformers", "numpy", "PIL", "prefect", "duckdb", "pyarrow")


@pytest.fixture(params=cmrm.__all__)
def named(request: pytest.FixtureRequest) -> tuple[str, typing.Any]:
    return request.param, getattr(cmrm, request.param)


def test_the_example_of_each_name_says_what_comes_out(named, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, found = named
    tests = doctest.DocTestFinder(recurse=False).find(found, name, globs={})
    assert sum(len(test.examples) for test in tests) >= 2
    assert all("cmrm." in "".join(example.source for example in test.examples) for test in tests)
    runner = doctest.DocTestRunner(verbose=False)
    said: list[str] = []
    for test in tests:
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_each_name_begins_with_a_sentence_and_has_its_types(named):
    _, found = named
    assert inspect.getdoc(found).splitlines()[0].endswith(".")
    if dataclasses.is_dataclass(found):
        assert all(field.type for field in dataclasses.fields(found))
    elif not inspect.isclass(found):
        signature = inspect.signature(found)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(one.annotation is not inspect.Parameter.empty for one in signature.parameters.values())
        # They can be looked up where the function stands.
        assert typing.get_type_hints(inspect.unwrap(found))
    else:
        assert issubclass(found, Exception)


def test_import_cmrm_imports_nothing_dear():
    # Python may have imported some of them at its own start.
    code = (
        f"import sys; dear = {DEAR}; [sys.modules.pop(name, None) for name in dear]; "
        "import cmrm; dir(cmrm); print(*sorted(set(dear) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_the_names_that_type_checkers_see_are_those_that_are_given():
    source = Path(cmrm.__file__).read_text(encoding="utf-8")
    seen = source.split("if TYPE_CHECKING:")[1].split("__all__")[0]
    for name in cmrm.__all__:
        (line,) = (line for line in seen.splitlines() if name in line.partition(" import ")[2].split(", "))
        assert line.split()[1] == cmrm._MODULES[name]
    assert sorted(cmrm._MODULES) == sorted(cmrm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(cmrm, "nothing")  # noqa: B009 - as an expression of its own it would look useless
