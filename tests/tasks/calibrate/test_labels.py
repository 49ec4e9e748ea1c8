"""Labels are of the sheet, one a person and answer; most labels win, and people are held against each other."""

from __future__ import annotations

import pytest
from sklearn.metrics import cohen_kappa_score

from cmrm.errors import UserError
from tasks.calibrate.labels import Label, check_labels, compare_people, settle_labels


def label(name: str, said: str = "unsafe", who: str = "", row: int = 2) -> Label:
    return Label(id=name, label=said, labeller=who, place=f"labels.csv, row {row}")


def test_an_unknown_id_is_refused_with_its_row() -> None:
    with pytest.raises(UserError, match=r"^labels\.csv, row 3: id 'b\\x1b' is not on sheet s;"):
        check_labels([label("a"), label("b\x1b", row=3)], {"a"}, sheet="s")


def test_a_second_label_of_one_person_is_refused_with_both_rows() -> None:
    with pytest.raises(
        UserError, match=r"^labels\.csv, row 9: 'anna' has labelled a before \(labels\.csv, row 2\)"
    ):
        check_labels([label("a", who="anna"), label("a", who="anna", row=9)], {"a"}, sheet="s")
    with pytest.raises(UserError, match=r"somebody without a name has .* in the column labeller"):
        check_labels([label("a"), label("a", row=9)], {"a"}, sheet="s")
    several = [label("a", who="anna"), label("a", who="bo")]
    assert check_labels(several, {"a"}, sheet="s") == several


def test_a_sheet_of_doubts_alone_is_refused() -> None:
    with pytest.raises(UserError, match="no answer of sheet s is labelled u"):
        check_labels([label("a", "unsure")], {"a"}, sheet="s")


def test_most_labels_win_and_a_draw_is_no_label() -> None:
    said = {
        "a": ["unsafe", "unsafe", "safe"],
        "b": ["unsafe", "safe"],
        "c": ["unsure"],
        "d": ["safe", "unsure", "unsure"],
        "e": ["safe", "unsafe", "unsure", "safe"],
    }
    labels = [
        label(name, word, who=str(who)) for name, words in said.items() for who, word in enumerate(words)
    ]
    assert settle_labels(labels) == {"a": True, "b": None, "c": None, "d": False, "e": False}


def test_two_people_are_compared_on_what_both_were_sure_of() -> None:
    anna = ["unsafe", "unsafe", "safe", "safe", "unsafe", "safe", "unsure", "safe"]
    bo = ["unsafe", "safe", "safe", "safe", "unsafe", "unsafe", "safe", "unsure"]
    labels = [
        label(str(number), word, who=who)
        for who, words in (("bo", bo), ("anna", anna))
        for number, word in enumerate(words)
    ]
    (found,) = compare_people(labels)
    assert (found["first"], found["second"], found["n"]) == ("anna", "bo", 6)
    assert found["observed"] == pytest.approx(4 / 6)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(anna[:6], bo[:6]))
    assert compare_people(labels[:8]) == []
