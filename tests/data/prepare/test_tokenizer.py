"""Tokenizers: trained ones are deterministic and lossless, given ones are taken as they are."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers

from keepstep.data import DataError, Tokenizer

TEXTS = [f"{number} green bottles, hanging on the wall.\n" * 3 for number in range(50)]
TRAINED = Tokenizer.train(TEXTS, 320)


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert Tokenizer.train(TEXTS, 320).to_json() == TRAINED.to_json()
    assert TRAINED.vocabulary_size == 320


def test_a_small_text_gives_a_smaller_vocabulary() -> None:
    assert 257 <= Tokenizer.train(["a b"], 4096).vocabulary_size < 270


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(), max_size=4))
def test_any_text_comes_back_from_its_tokens(texts: list[str]) -> None:
    encoded = list(TRAINED.encode_documents(texts))
    assert [int(ids[-1]) for ids in encoded] == [TRAINED.end_token] * len(texts)
    assert [TRAINED.decode(ids[:-1].tolist()) for ids in encoded] == texts


def test_text_that_spells_the_end_token_does_not_become_it() -> None:
    (ids,) = TRAINED.encode_documents(["a<|endoftext|>b"])
    assert ids.tolist().count(TRAINED.end_token) == 1
    assert TRAINED.decode(ids.tolist()) == "a<|endoftext|>b<|endoftext|>"


def test_a_document_longer_than_a_part_is_one_document() -> None:
    long = "".join(TEXTS) * 60
    (ids,) = TRAINED.encode_documents([long])
    assert len(long) > 300_000
    assert TRAINED.decode(ids[:-1].tolist()) == long


def test_a_saved_tokenizer_is_loaded_as_the_same(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(TRAINED.to_json())
    loaded = Tokenizer.load(f"file://{path}")
    assert loaded.end_token == TRAINED.end_token
    assert [x.tolist() for x in loaded.encode_documents(TEXTS)] == [
        x.tolist() for x in TRAINED.encode_documents(TEXTS)
    ]


def given_tokenizer(path: Path, vocabulary: dict[str, int]) -> Path:
    inner = Inner(models.WordLevel(vocabulary, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.enable_truncation(2)
    inner.enable_padding(length=9)
    inner.save(str(path))
    return path


def test_a_given_tokenizer_keeps_its_own_end_and_never_truncates(tmp_path: Path) -> None:
    path = given_tokenizer(tmp_path / "t.json", {"?": 0, "a": 1, "</s>": 2, "b": 5})
    tokenizer = Tokenizer.load(path)
    (ids,) = tokenizer.encode_documents(["a b a c"])
    assert ids.tolist() == [1, 5, 1, 0, 2]
    assert tokenizer.vocabulary_size == 6


def test_a_given_tokenizer_without_an_end_gets_one(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(given_tokenizer(tmp_path / "t.json", {"?": 0, "a": 1}))
    assert (tokenizer.end_token, tokenizer.vocabulary_size) == (2, 3)


@pytest.mark.parametrize("content", [None, "no json", "{}"])
def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=f"data.tokenizer: found '{path}' not usable"):
        Tokenizer.load(path)
