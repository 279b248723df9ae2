"""Texts that look the same become the same; what carries meaning stays."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstep.data.prepare.text.normalise import fold_blanks, normalise


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("a\r\nb\rc\u2028d\x85e", "a\nb\nc\nd\ne"),
        ("a\0b\x07\x1b\x7f\ufeffc", "abc"),
        ("tab\tstays\n", "tab\tstays\n"),
        ("half \ud800 pair \ud83d\ude00", "half \ufffd pair \U0001f600"),
    ],
)
def test_each_kind_of_difference_is_taken_away(text: str, wanted: str) -> None:
    assert normalise(text) == wanted


@given(st.text())
def test_normalising_twice_is_once_and_the_result_can_be_encoded(text: str) -> None:
    found = normalise(text)
    assert normalise(found) == found
    assert unicodedata.is_normalized("NFC", found)
    assert found.encode().decode() == found


def test_folding_leaves_one_blank_one_empty_line_and_nothing_around() -> None:
    text = "  a \t b  \n\n \n\n  c\u00a0\u00a0d \n"
    assert fold_blanks(text) == "a b\n\nc d"
    assert fold_blanks(fold_blanks(text)) == fold_blanks(text)
