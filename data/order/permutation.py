"""A keyed permutation of 0..n-1 that needs no table: any element in O(1), forwards or backwards.

A Feistel network of 64-bit multiply-xorshift rounds over the next power of two, its halves equal
or one bit apart, with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains",
2002). Part of the order's version 1: no result of this file may ever change.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
_Cipher = Callable[[int, list[Words], Words], Words]

# An even number, so that halves of different width are back in their places at the end. Chosen
# with _FEWEST_BITS by a test of all pairs: with fewer, sizes under 10 are visibly not uniform.
ROUNDS = 8
_FEWEST_BITS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEPS = np.arange(1, ROUNDS + 1, dtype=np.uint64) * _GOLDEN
_WORD = 2**64 - 1


def mix(words: Words) -> Words:
    """Scrambles 64-bit words, one to one (the finaliser of splitmix64, Steele et al. 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def derive_key(*words: int | Integers | Words) -> Words:
    """Makes a 64-bit key of a sequence of integers; arrays give an array of keys.

    The words are absorbed one after another, so that (seed 1, epoch 0) and (seed 0, epoch 1) share
    nothing. Shapes broadcast; the result has at least one dimension.
    """
    key = np.zeros(1, dtype=np.uint64)
    for word in words:
        absorbed = (
            np.asarray([word & _WORD], dtype=np.uint64)
            if isinstance(word, int)
            else word.astype(np.uint64)
        )
        key = mix((key ^ absorbed) + _GOLDEN)
    return key


def permute(size: int, key: Words, indices: Integers) -> Integers:
    """Where each of `indices`, all in [0, size), goes under `key`: one key, or one an index."""
    return _walk(_encrypt, size, key, indices)


def unpermute(size: int, key: Words, indices: Integers) -> Integers:
    """The inverse of `permute`: what came to stand at each of `indices`."""
    return _walk(_decrypt, size, key, indices)


def _walk(cipher: _Cipher, size: int, key: Words, indices: Integers) -> Integers:
    if indices.size == 0 or size == 1:
        return indices.copy()
    bits = max(_FEWEST_BITS, (size - 1).bit_length())
    keys = [mix(key + step) for step in _STEPS]
    words = cipher(bits, keys, indices.astype(np.uint64))
    outside = np.flatnonzero(words >= size)
    # The cipher permutes a whole power of two: each word that lands outside [0, size) walks on
    # along its cycle until it is back inside, which keeps the whole one to one.
    while outside.size:
        walking = keys if key.size == 1 else [one[outside] for one in keys]
        walked = cipher(bits, walking, words[outside])
        words[outside] = walked
        outside = outside[walked >= size]
    return words.astype(np.int64)


def _encrypt(bits: int, keys: list[Words], words: Words) -> Words:
    low, high = bits - bits // 2, bits // 2
    left, right = words >> np.uint64(low), words & np.uint64(2**low - 1)
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) >> np.uint64(64 - high))
        low, high = high, low
    return (left << np.uint64(low)) | right


def _decrypt(bits: int, keys: list[Words], words: Words) -> Words:
    low, high = bits - bits // 2, bits // 2
    left, right = words >> np.uint64(low), words & np.uint64(2**low - 1)
    for key in reversed(keys):
        low, high = high, low
        left, right = right ^ (mix(left ^ key) >> np.uint64(64 - high)), left
    return (left << np.uint64(low)) | right
