"""Equal and nearly equal texts are found wherever they lie, and the first of them is kept."""

import random
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.data import DataError
from keepstep.data.prepare import PrepareConfig
from keepstep.data.prepare.stages.groups import Sorted, groups
from keepstep.data.prepare.stages.near import Signatures, near_duplicates
from keepstep.data.prepare.text.ngrams import is_repeat, ngram_hashes, plain_words, word_hashes


def column(keys: list[int], base: int, is_wide: bool) -> Sorted:
    """A part's keys, each a hash of its own as those of texts are."""
    high = word_hashes([str(key // 2) for key in keys])
    low = np.array(keys, dtype=np.uint64)
    order = np.lexsort((low, high))
    return Sorted(high[order], low[order] if is_wide else None, order.astype(np.int64) + base)


@settings(max_examples=100, deadline=None)
@given(
    parts=st.lists(st.lists(st.integers(0, 9), max_size=20), min_size=1, max_size=5),
    rows=st.integers(1, 40),
    is_wide=st.booleans(),
)
def test_all_but_the_first_of_equal_keys_are_found_with_the_first_and_the_one_before(
    parts: list[list[int]], rows: int, is_wide: bool
) -> None:
    keys = [key if is_wide else key // 2 for part in parts for key in part]
    bases = np.cumsum([0, *map(len, parts)]).tolist()
    columns = [column(part, base, is_wide) for part, base in zip(parts, bases, strict=False)]
    found = set()
    for batch in groups(columns, rows):
        found |= set(zip(*(side.tolist() for side in batch), strict=True))
    wanted = set()
    for place, key in enumerate(keys):
        before = [other for other in range(place) if keys[other] == key]
        if before:
            wanted.add((before[0], before[-1], place))
    assert found == wanted


def text_of(words: int, seed: int) -> list[str]:
    pick = random.Random(seed)
    return [f"word{pick.randrange(5000)}" for _ in range(words)]


def found(texts: list[list[str]], parts: int = 1, **changes: object) -> list[int]:
    config = PrepareConfig(**changes)  # type: ignore[arg-type]
    arrays = []
    for part in np.array_split(np.arange(len(texts)), parts):
        signatures = Signatures(config)
        for place in part.tolist():
            signatures.add(" ".join(texts[place]))
        arrays.append(signatures.arrays())
    return list(
        near_duplicates(
            [x["signatures"] for x in arrays], [x["bands"] for x in arrays], config.near_threshold
        )
    )


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_near_duplicates_are_those_that_share_most_ngrams_with_an_earlier_text(parts: int) -> None:
    texts = [text_of(400, seed) for seed in range(6)]
    # One word in 400 changes 5 of 396 n-grams; thirty words at even distances change 150.
    near, far = list(texts[2]), list(texts[4])
    near[200] = "changed"
    far[5::13] = ["changed"] * len(far[5::13])
    assert found([*texts, near, far], parts) == [6]


def test_case_and_punctuation_make_no_difference_and_order_does() -> None:
    text = text_of(100, 1)
    loud = [f"{word.upper()}," for word in text]
    assert found([text, loud, sorted(text)]) == [1]


def test_texts_without_words_and_short_ones_are_like_their_equals_alone() -> None:
    assert found([["!!!"], ["???"], ["!!!"], ["a"], ["b"], ["a"], ["a b"]]) == [2, 5]


def test_the_threshold_decides() -> None:
    text = text_of(400, 1)
    half = text[:270] + text_of(130, 2)
    assert found([text, half], near_threshold=0.4) == [1]
    assert found([text, half], near_threshold=0.9) == []


def test_near_without_datasketch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(DataError, match=r"pip install keepstep\[dedup\]"):
        Signatures(PrepareConfig())


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 6))
def test_hashes_of_ngrams_are_equal_where_the_ngrams_are(numbers: list[int], n: int) -> None:
    words = [str(number) for number in numbers]
    wanted = [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]
    hashes = ngram_hashes(word_hashes(words), n)
    assert len(hashes) == len(wanted)
    assert len(set(hashes.tolist())) == len(set(wanted))
    repeats = [gram in wanted[:place] for place, gram in enumerate(wanted)]
    assert is_repeat(hashes).tolist() == repeats


def test_words_are_runs_of_letters_or_single_letters_of_scripts_without_blanks() -> None:
    assert plain_words("It's 3 PM: \u732b\u306f") == ["it", "s", "3", "pm", "\u732b", "\u306f"]
