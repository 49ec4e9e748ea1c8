"""Judges of a user's own package are found by their entry point."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import invalidate_caches
from pathlib import Path
from types import ModuleType

import pytest

from cmrm.errors import UserError
from cmrm.judges import JUDGES, Answer, Judge, find_judge, list_judges, make_judge

MODULE = """
from collections.abc import Sequence
from dataclasses import dataclass

from cmrm.judges import Answer, Judge, Verdict


@dataclass(frozen=True, kw_only=True)
class LengthJudge(Judge):
    kind = "length"
    reads = frozenset(("answer",))

    most: int = 10

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [Verdict(verdict="safe" if len(one.answer) <= self.most else "unsafe") for one in answers]

    def spec(self):
        return {"judge": self.kind, "most": self.most}


class NoJudge:
    pass


answer = 42
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a package whose entry point `length` is what the text says."""

    def install(value: str) -> None:
        name = f"mine_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(MODULE)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[cmrm.judges]\nlength = {value.format(module=name)}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        invalidate_caches()

    return install


def test_a_users_own_judge_is_listed_made_and_asked(install: Callable[[str], None]):
    install("{module}:LengthJudge")
    assert "length" in list_judges()
    judge = make_judge("length", most=3)
    assert (judge.name, judge.place, judge.resolve()) == ("length", "processor", judge)
    found = judge.judge([Answer(question="q", answer=text, harmful=True) for text in ("abc", "abcd")])
    assert [one.verdict for one in found] == ["safe", "unsafe"]
    with pytest.raises(UserError, match=r"no option 'least'; it has .*most"):
        make_judge("length", least=1)


@pytest.mark.parametrize("value", ["{module}:NoJudge", "{module}:answer", "{module}"])
def test_an_entry_point_that_is_no_judge_is_named(install: Callable[[str], None], value: str):
    install(value)
    with pytest.raises(UserError, match=r"judge 'length': the entry point mine_.* is no subclass of"):
        find_judge("length")


@pytest.mark.parametrize("value", ["{module}:Missing", "nowhere_at_all:Judge"])
def test_an_entry_point_that_cannot_be_loaded_is_named(install: Callable[[str], None], value: str):
    install(value)
    with pytest.raises(UserError, match=r"judge 'length' of the entry point .* cannot be loaded"):
        make_judge("length")


@pytest.mark.parametrize("kind", sorted(JUDGES.own))
def test_each_own_judge_is_a_judge_under_its_own_kind(kind: str):
    found = find_judge(kind)
    assert issubclass(found, Judge)
    assert found.kind == kind


def test_an_unknown_judge_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"'oracle' is unknown; known judges: .*llama-guard.*wildguard"):
        make_judge("oracle")


PAGE = (Path(__file__).parents[3] / "docs" / "judges.md").read_text(encoding="utf-8")


def test_the_pages_example_of_a_judge_works(monkeypatch: pytest.MonkeyPatch):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    module = ModuleType("judges_page")
    monkeypatch.setitem(sys.modules, "judges_page", module)
    exec(compile(example, "docs/judges.md", "exec"), module.__dict__)
    judge = module.LengthJudge(most=3)
    found = judge.judge([Answer(question="q", answer=text, harmful=True) for text in ("abc", "abcd")])
    assert [one.verdict for one in found] == ["safe", "unsafe"]
    assert judge.spec()["most"] == 3


@pytest.mark.parametrize("kind", sorted(JUDGES.own))
def test_the_page_describes_every_judge(kind: str):
    (table,) = re.findall(r"\| kind \| reads safety as .*?\n\n", PAGE, flags=re.DOTALL)
    assert f"`{kind}`" in table


@pytest.mark.parametrize("kind", ["wildguard", "harmbench", "shieldgemma", "strongreject"])
def test_the_page_names_the_models_that_are_the_default(kind: str):
    judge = make_judge(kind)
    models = [getattr(judge, option) for option in ("model", "adapter") if hasattr(judge, option)]
    assert all(f"`{model}`" in PAGE for model in models)
