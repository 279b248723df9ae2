"""Words of a text as numbers, and the n-grams that they form, hashed in arrays."""

import re

import numpy as np
import numpy.typing as npt
import xxhash

Hashes = npt.NDArray[np.uint64]

# A run of letters and digits, or one letter of a script that is written without blanks: Thai and
# Lao, Burmese, Khmer, kana, CJK ideographs.
_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORDS = re.compile(f"[{_ALONE}]|[^\\W{_ALONE}]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORDS.findall(text.lower())


def word_hashes(words: list[str]) -> Hashes:
    """The xxh3-64 of each word."""
    known: dict[str, int] = {}
    for word in words:
        if word not in known:
            known[word] = xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))
    return np.fromiter((known[word] for word in words), np.uint64, len(words))


def ngram_hashes(hashes: Hashes, n: int) -> Hashes:
    """A hash of each n words in a row: a polynomial modulo 2**64; empty for fewer words."""
    count = len(hashes) - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    found = hashes[:count].copy()
    for place in range(1, n):
        found = found * _BASE + hashes[place : place + count]
    return found


def is_repeat(hashes: Hashes) -> npt.NDArray[np.bool_]:
    """Whether each value occurred before."""
    order = np.argsort(hashes, kind="stable")
    found = np.zeros(len(hashes), dtype=np.bool_)
    found[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
    return found
