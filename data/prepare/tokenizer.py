"""Text <-> token ids: a byte-level BPE trained on the spot, or a given tokenizer.json."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import fsspec
import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ..errors import DataError
from .text.documents import cut

END_OF_TEXT = "<|endoftext|>"
# What published tokenizers call their end of text, in the order in which they are tried.
_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "[EOS]")
# Longer documents are encoded in parts cut at line ends: bounded memory, and work for all cores.
_PART_CHARACTERS = 128 * 1024
_GROUP_CHARACTERS = 4 * 1024 * 1024
# Enough to settle the merges of any usual vocabulary; more would only cost time.
_TRAINING_CHARACTERS = 64 * 1024 * 1024


class Tokenizer:
    """A Hugging Face tokenizer and its end-of-text token; text never encodes to that token."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        # A text that spells a special token out must not become that token.
        inner.encode_special_tokens = True
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        if all(inner.token_to_id(end) is None for end in _ENDS):
            inner.add_special_tokens([END_OF_TEXT])
        known = (inner.token_to_id(end) for end in _ENDS)
        self.end_token = next(found for found in known if found is not None)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int) -> "Tokenizer":
        """Trains a byte-level BPE on the first 64 Mi characters of `texts`; deterministic.

        It has `vocabulary_size` entries at most: fewer where the text has fewer frequent pairs.
        """
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator(_first(texts, _TRAINING_CHARACTERS), trainer)
        return cls(inner)

    @classmethod
    def load(cls, url: str | Path) -> "Tokenizer":
        """Reads a tokenizer.json from a path or fsspec URL.

        Raises:
            DataError: it is not there, not readable, or no tokenizer.
        """
        try:
            with fsspec.open(str(url), "rb") as stream:
                content = stream.read()
        except (FileNotFoundError, IsADirectoryError, PermissionError, ValueError) as error:
            raise _unusable(url, error) from error
        return cls.parse(content, url)

    @classmethod
    def parse(cls, content: bytes, url: str | Path) -> "Tokenizer":
        """The tokenizer of the bytes of a tokenizer.json; `url` is where they lie.

        Raises:
            DataError: they are no tokenizer.
        """
        try:
            return cls(tokenizers.Tokenizer.from_buffer(content))
        except Exception as error:  # the binding has no narrower class for what it cannot read
            raise _unusable(url, error) from error

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id."""
        return max(self._inner.get_vocab(with_added_tokens=True).values()) + 1

    def encode_documents(
        self, texts: Iterable[str], *, is_alone: bool = True
    ) -> Iterator[npt.NDArray[np.uint32]]:
        """The ids of each text, in order, each with the end token behind.

        On all cores, or on one where other processes work beside this one; the ids are the same.
        """
        end = np.array([self.end_token], dtype=np.uint32)
        for group in _groups(texts) if is_alone else ([text] for text in texts):
            parts = [list(cut(text, _PART_CHARACTERS)) for text in group]
            batches = [list(chain(*parts))] if is_alone else [[piece] for piece in chain(*parts)]
            encoded = chain.from_iterable(
                self._inner.encode_batch_fast(batch, add_special_tokens=False) for batch in batches
            )
            for pieces in parts:
                ids = [np.array(next(encoded).ids, dtype=np.uint32) for _ in pieces]
                yield np.concatenate([*ids, end])

    def encode(self, text: str) -> list[int]:
        """The ids of a short text, without the end token."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens are shown."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=False)

    def to_json(self) -> str:
        """The content of a tokenizer.json, which `load` and Hugging Face read."""
        return self._inner.to_str(pretty=False)


def _unusable(url: str | Path, error: Exception) -> DataError:
    return DataError(
        f"data.tokenizer: found {str(url)!r} not usable ({error}), needed a Hugging Face "
        "tokenizer.json; correct the path, or leave it out to have one trained"
    )


def _first(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        # In parts, so that a long document is spread over the cores too.
        for part in cut(text, _PART_CHARACTERS):
            yield part
            characters -= len(part)
            if characters <= 0:
                return


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= _GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group
