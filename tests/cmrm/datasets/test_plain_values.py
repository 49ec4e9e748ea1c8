"""What rows hold beside texts, mappings of values, constants, fields within fields: the same in every kind of file."""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmrm.datasets.splits import split
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected
from storage.tables.parquet import iterate_rows


@pytest.fixture(params=["jsonl", "json", "parquet"])
def read_own(request, read, tmp_path):
    def read_rows(rows, **options):
        path = tmp_path / f"mine.{request.param}"
        if request.param == "parquet":
            # A table has all columns of all rows.
            names = dict.fromkeys(name for row in rows for name in row)
            pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
        elif request.param == "json":
            path.write_text(json.dumps(rows))
        else:
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return read(request.param, path, open_rows=iterate_rows, **options)

    return read_rows


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (3.0, "3"),
        (0.5, "0.5"),
        (1e300, "1e+300"),
        (True, "true"),
        (False, "false"),
        (["red"], "red"),
        ([7], "7"),
        ([], None),
        (math.nan, None),
        (None, None),
    ],
)
def test_a_number_a_truth_value_or_a_list_of_one_is_read_as_text(read_own, value, text):
    (row,) = read_own([{"id": 1, "question": "q", "reference": value}])
    assert row.reference == text


def test_a_day_in_parquet_is_read_as_text(read, tmp_path):
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.Table.from_pylist([{"question": "When?", "reference": dt.date(2024, 2, 29)}]), path)
    assert [row.reference for row in read("parquet", path, open_rows=iterate_rows)] == ["2024-02-29"]


@pytest.mark.parametrize("places", [0, 2, 10])
def test_a_decimal_column_says_what_is_harmful_and_which_choice_is_right(read, tmp_path, places):
    def make(numbers):
        return pa.array([Decimal(number) for number in numbers], pa.decimal128(30, places))

    path = tmp_path / "mine.parquet"
    columns = {"id": make(range(3)), "harmful": make([1, 0, 2]), "reference": make([1, 0, 0])}
    columns |= {"question": ["a", "b", "c"], "choices": [["x", "y"]] * 3}
    pq.write_table(pa.table(columns), path)
    first, second, third = read("parquet", path, open_rows=iterate_rows)
    assert [(row.id, row.harmful, row.reference) for row in (first, second)] == [
        ("0", True, "B"),
        ("1", False, "A"),
    ]
    assert third.reason == "field 'harmful' is '2', neither true nor false"


@pytest.mark.parametrize(
    ("number", "text"), [("0.50", "0.50"), ("99999999999999999999.00", "99999999999999999999")]
)
def test_a_decimal_is_read_as_text_exactly(read, tmp_path, number, text):
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"question": ["q"], "reference": [Decimal(number)]}), path)
    assert [row.reference for row in read("parquet", path, open_rows=iterate_rows)] == [text]


def test_a_share_is_no_label(read, tmp_path):
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"question": ["q"], "harmful": [Decimal("0.50")]}), path)
    (row,) = read("parquet", path, open_rows=iterate_rows)
    assert row.reason == "field 'harmful' is '0.50', neither true nor false"


def test_a_list_of_several_is_no_text(read_own):
    (row,) = read_own([{"id": "7", "question": "q", "reference": ["a", "b"]}])
    assert (row.id, row.reason.rpartition(": ")[2]) == (
        "7",
        "field 'reference' is a list of 2, not one text",
    )


@pytest.mark.parametrize(
    ("value", "harmful"),
    [(0, False), (1, True), (0.0, False), (1.0, True), ("true", True), ("False", False), ([0], False)],
)
def test_harmful_is_said_by_numbers_and_words_too(read_own, value, harmful):
    (row,) = read_own([{"question": "q", "harmful": value}])
    assert row.harmful is harmful


def test_harmful_is_mapped_from_the_values_of_a_column(read_own):
    rows = [{"question": f"q{place}", "label": label} for place, label in enumerate(["Unsafe ", "safe", "1"])]
    mapped = read_own(rows, harmful={"column": "label", "true": ["unsafe", 1]})
    assert [row.harmful for row in mapped] == [True, False, True]


def test_what_yaml_made_of_a_label_means_the_label(read_own):
    # YAML reads `true: [unsafe, yes, 1]` as a text, a truth value and a number.
    labels = ["yes", "Yes", "true", "1", "1.0", "unsafe", "safe", "no", "2"]
    rows = read_own(
        [{"question": "q", "label": label} for label in labels],
        harmful={"column": "label", "true": ["unsafe", True, 1]},
    )
    assert [row.harmful for row in rows] == [True] * 6 + [False] * 3


def test_a_value_under_neither_true_nor_false_is_rejected(read_own):
    rows = [{"question": "a", "label": "unsafe"}, {"question": "b", "label": "unsure"}]
    first, second = read_own(rows, harmful={"column": "label", "true": ["unsafe"], "false": ["safe"]})
    assert first.harmful
    assert isinstance(second, Rejected)
    assert "'unsure', which `harmful` has under neither" in second.reason


def test_a_mapping_that_would_call_all_rows_harmless_is_refused(read_own):
    rows = [{"question": "a", "label": "harmful"}, {"question": "b", "label": "benign"}]
    with pytest.raises(
        UserError, match=r"no row of d has 'unsafe' in 'label'.* there are 'harmful', 'benign'"
    ):
        read_own(rows, harmful={"column": "label", "true": ["unsafe"]})


@pytest.mark.parametrize(
    "harmful",
    [
        {"column": "label"},
        {"true": ["a"]},
        {"column": "label", "true": []},
        {"column": "label", "true": ["a", "b"], "false": ["A"]},
    ],
)
def test_a_mapping_that_says_nothing_or_two_things_is_refused(read_own, harmful):
    with pytest.raises(UserError, match="harmful"):
        read_own([{"question": "a", "label": "a"}], harmful=harmful)


def test_constants_hold_for_every_row_and_make_no_other_id(read_own):
    rows = [{"image": "a.png", "category": "ignored"}, {"image": "b.png", "category": "ignored"}]
    constants = {"question": "What is this?", "category": "photographs"}
    found = read_own(rows, constants=constants)
    assert [(row.question, row.category) for row in found] == [("What is this?", "photographs")] * 2
    others = read_own(rows, constants={**constants, "category": "drawings"})
    assert [row.id for row in others] == [row.id for row in found]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constants": {"id": "1"}}, "constants has 'id'"),
        ({"constants": {"category": 3}}, "constants.category is 3"),
        ({"constants": {"category": "a"}, "columns": {"category": "b"}}, "category stands under columns and"),
        ({"harmful": {"column": "a", "true": ["b"]}, "columns": {"harmful": "c"}}, "harmful"),
    ],
)
def test_a_field_that_is_set_twice_or_cannot_be_set_is_refused(read_own, options, message):
    with pytest.raises(UserError, match=message):
        read_own([{"question": "a"}], **options)


NESTED = {
    "meta": {"kind": "a", "tags": ["x"]},
    "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A wug."}],
}


def test_a_dotted_path_names_a_field_within_fields(read_own):
    columns = {
        "question": "conversations.0.value",
        "reference": "conversations.1.value",
        "category": "meta.kind",
        "caption": "meta.tags",
    }
    (row,) = read_own([NESTED], columns=columns)
    assert (row.question, row.reference, row.category, row.caption) == ("What?", "A wug.", "a", "x")


def test_a_field_whose_own_name_has_a_dot_comes_before_a_path(read_own):
    (row,) = read_own([{"question": "q", "meta.kind": "whole", **NESTED}], columns={"category": "meta.kind"})
    assert row.category == "whole"


@pytest.mark.parametrize(
    ("column", "near"),
    [
        ("conversation.0.value", "conversations.0.value"),
        ("conversations.0.Value", "conversations.0.value"),
        ("meta.knd", "meta.kind"),
        ("prompt", "question"),
    ],
)
def test_a_column_that_no_row_has_is_refused_with_the_nearest_name(read_own, column, near):
    rows = [{"question": "q", **NESTED}, {"question": "p", **NESTED}]
    with pytest.raises(UserError) as caught:
        read_own(rows, columns={"caption": column})
    assert f"no row of d has {column!r}, which columns.caption names" in str(caught.value)
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_column_that_only_some_rows_have_is_no_mistake(read_own):
    rows = [{"question": "q", "seen": None}, {"question": "p", "seen": "a wug"}]
    assert [row.caption for row in read_own(rows, columns={"caption": "seen"})] == [None, "a wug"]


def test_names_in_a_message_are_cut_and_few(read_own):
    with pytest.raises(UserError) as caught:
        read_own([{f"{place}{'x' * 500}": 1 for place in range(200)}])
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("answer", "letter"),
    [(0, "A"), (2, "C"), (2.0, "C"), ("B", "B"), ("blue", "C"), ("1", "B"), (["red"], "A"), (None, None)],
)
def test_choices_are_lettered_and_the_answer_is_a_letter(read_own, answer, letter):
    (row,) = read_own(
        [{"question": "Which?", "choices": ["red", "green", "blue"], "answer": answer}],
        columns={"reference": "answer"},
    )
    assert row.question.splitlines()[:4] == ["Which?", "(A) red", "(B) green", "(C) blue"]
    assert row.reference == letter


@pytest.mark.parametrize("answer", [3, -1, "D", "violet", 1.5, True])
def test_an_answer_that_is_none_of_the_choices_is_rejected(read_own, answer):
    (row,) = read_own(
        [{"id": 1, "question": "Which?", "choices": ["red", "green", "blue"], "answer": answer}],
        columns={"reference": "answer"},
    )
    assert isinstance(row, Rejected)
    assert "which is none of the 3 choices" in row.reason


def test_numbers_as_choices_are_chosen_by_index(read_own):
    (row,) = read_own([{"question": "2 + 1?", "choices": [1, 2, 3], "reference": 2}])
    assert (row.question.splitlines()[3], row.reference) == ("(C) 3", "C")


def test_a_list_of_one_number_is_an_index_as_the_number_is(read_own):
    for choices in (["2", "1"], ["1", "0"]):
        (row,) = read_own([{"question": "q", "choices": choices, "reference": [1]}])
        assert row.reference == "B"


def test_rotations_of_the_choices_share_a_side_of_the_split(read_own):
    rotations = (["a wug", "a blick"], ["a blick", "a wug"])
    rows = read_own(
        [
            {"question": f"What is {number}?", "choices": choices, "reference": "a wug"}
            for number in range(20)
            for choices in rotations
        ]
    )
    anchors, targets = ({row.group for row in side} for side in split(rows, fraction=0.3, seed=1))
    assert len(anchors | targets) == 20
    assert anchors
    assert not anchors & targets


def test_rows_without_ids_are_told_apart_by_all_that_they_say(read_own):
    rows = [{"question": "What is wrong here?", "context": f"Context {place}"} for place in range(8)]
    rows += [{"question": "What is wrong here?", "harmful": harmful} for harmful in (True, False)]
    names = [row.id for row in read_own(rows)]
    assert len(set(names)) == len(rows)
    # The rows of a Parquet file say null where those of JSONL say nothing.
    assert [row.id for row in read_own(rows[::-1])] == names[::-1]


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("<image>\nWhat is it?", "What is it?"),
        ("What is it?\n<image>", "What is it?"),
        ("<image> What is it?", "What is it?"),
        ("Look.\n<image>\nWhat is it?", "Look.\nWhat is it?"),
        ("What is in <image> here?", "What is in here?"),
        ("What is it?", "What is it?"),
    ],
)
def test_an_images_marker_is_taken_out_and_recorded_where_an_image_is_given(read_own, text, asked):
    (row,) = read_own([{"question": text, "image": "a.png"}])
    assert (row.question, row.removed) == (asked, "<image>" if "<image>" in text else None)


def test_a_marker_without_an_image_stays_and_two_with_one_are_rejected(read_own):
    (alone,) = read_own([{"question": "<image>\nWhat is it?"}])
    assert (alone.question, alone.removed) == ("<image>\nWhat is it?", None)
    (several,) = read_own([{"question": "<image><image>\nWhich?", "image": "a.png"}])
    assert "stands in the question 2 times, and one image is given" in several.reason
