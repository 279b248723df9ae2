"""A column's rule holds for good values and says why not for others, singly and by the batch."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.data import DataError
from keepstep.data.quarantine import Column

GOOD: list[tuple[Column, Any]] = [
    (Column(name="x", dtype="str", least_size=1, most_size=4), "text"),
    (Column(name="x", dtype="bytes"), b""),
    (Column(name="x", dtype="int", lowest=0), 3),
    (Column(name="x", dtype="int"), np.arange(3, dtype=np.uint16)),
    (Column(name="x", dtype="float", finite=True), 0.5),
    (Column(name="x", dtype="uint8", shape=(None, None, 3)), np.zeros((4, 5, 3), np.uint8)),
    (Column(name="x", dtype="int32"), np.zeros(2, ">i4")),
    (Column(name="x", dtype="list", shape=(2, 2), highest=4), [[1, 2], [3, 4]]),
    (Column(name="x", required=False), None),
    (Column(name="x", finite=True), np.arange(4)),
    (Column(name="x", dtype="bool"), True),
    (Column(name="x", shape=()), 4),
]
BAD: list[tuple[Column, Any, str]] = [
    (Column(name="x"), None, "'x' is missing"),
    (Column(name="x", dtype="str"), b"", "'x' is bytes, needed str"),
    (Column(name="x", dtype="int"), True, "'x' is bool, needed int"),
    (Column(name="x", dtype="int64"), 3, "'x' is int, needed int64"),
    (Column(name="x", dtype="int"), np.zeros(2), "'x' is of float64, needed int"),
    (Column(name="x", dtype="uint8"), np.zeros(2, np.int8), "'x' is of int8, needed uint8"),
    (Column(name="x", dtype="str"), np.zeros(2), "'x' is of float64, needed str"),
    (Column(name="x", shape=(None, 3)), np.zeros((2, 2)), "'x' has shape [2, 2], needed shape [any, 3]"),  # noqa: E501
    (Column(name="x", shape=(3,)), np.zeros((3, 1)), "'x' has shape [3, 1], needed shape [3]"),
    (Column(name="x", shape=(3,)), 4, "'x' is a single value, needed shape [3]"),
    (Column(name="x", shape=(3,)), [1, 2], "'x' has shape [2], needed shape [3]"),
    (Column(name="x", finite=True), [[1], [2, 3]], "'x' is a list of lists of unequal lengths, needed equal ones"),  # noqa: E501
    (Column(name="x", least_size=2), "a", "'x' has size 1, needed 2 or more"),
    (Column(name="x", most_size=5), np.zeros((2, 3)), "'x' has size 6, needed 5 or less"),
    (Column(name="x", lowest=0), -1, "'x' holds -1, needed 0 or more"),
    (Column(name="x", highest=9), np.array([3, 10, 4]), "'x' holds 10, needed 9 or less"),
    (Column(name="x", highest=9), [3, 10], "'x' holds 10, needed 9 or less"),
    (Column(name="x", lowest=0), np.array([1, np.nan]), "'x' holds nan, needed finite numbers"),
    (Column(name="x", finite=True), float("inf"), "'x' holds inf, needed finite numbers"),
    (Column(name="x", finite=True), ["a"], "'x' is of <U1, needed numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "value"), GOOD)
def test_good_values_break_no_rule(rule: Column, value: Any) -> None:
    assert rule.reason({"x": value, "y": None}) is None


@pytest.mark.parametrize(("rule", "value", "said"), BAD)
def test_bad_values_are_told_why(rule: Column, value: Any, said: str) -> None:
    assert rule.reason({"x": value}) == said


RULES = [
    Column(name="x", dtype="int64", shape=(3,), lowest=0, highest=9),
    Column(name="x", dtype="float", finite=True),
    Column(name="x", lowest=0),
    Column(name="x", least_size=4),
]


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(RULES),
    st.sampled_from(["int64", "float32"]),
    st.lists(st.lists(st.sampled_from([0, 5, 9, 10, -1, np.nan]), min_size=3, max_size=3)),
)
def test_a_batch_holds_where_every_row_does(rule: Column, dtype: str, rows: list[Any]) -> None:
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    if dtype == "int64":
        table = np.nan_to_num(table, nan=3.0)
    table = table.astype(dtype)
    assert rule.hold(table) == all(rule.reason({"x": row}) is None for row in table)


def test_an_unknown_type_is_refused_where_it_is_declared() -> None:
    with pytest.raises(
        DataError, match="Column 'x' dtype: found 'image', needed one of str, bytes"
    ):
        Column(name="x", dtype="image")
