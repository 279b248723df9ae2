"""A keyed permutation of 0..n-1 that needs no table: any element in O(1), forwards or backwards.

A Feistel network of 64-bit multiply-xorshift rounds over the next power of two, its halves equal
or one bit apart, with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains",
2002). Part of the order's version 1: no result of this file may ever change.
"""

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

# An even number, so that halves of different width are back in their places at the end. Chosen
# with _FEWEST_BITS by a test of all pairs: with fewer, sizes under 10 are visibly not uniform.
ROUNDS = 8
_FEWEST_BITS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEPS = (np.arange(1, ROUNDS + 1, dtype=np.uint64) * _GOLDEN)[:, np.newaxis]
_WORD = 2**64 - 1
# The finaliser of splitmix64 (Steele et al. 2014): shifts, and the factors between them.
_SHIFTS = (30, 27, 31)
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_S30, _S27, _S31 = (np.uint64(shift) for shift in _SHIFTS)
_F1, _F2 = (np.uint64(factor) for factor in _FACTORS)
# With so few indices plain integers are faster than arrays.
_FEW = 6


def mix(words: Words) -> Words:
    """Scrambles 64-bit words, one to one."""
    found: Words = words.copy()
    return _mixed(found, np.empty_like(found))


def _mixed(words: Words, scratch: Words) -> Words:
    """As `mix`, in place: an order asks for few numbers often, and memory costs more than work."""
    np.right_shift(words, _S30, out=scratch)
    np.bitwise_xor(words, scratch, out=words)
    np.multiply(words, _F1, out=words)
    np.right_shift(words, _S27, out=scratch)
    np.bitwise_xor(words, scratch, out=words)
    np.multiply(words, _F2, out=words)
    np.right_shift(words, _S31, out=scratch)
    return np.bitwise_xor(words, scratch, out=words)


def derive_key(*words: int | Integers | Words) -> Words:
    """Makes a 64-bit key of a sequence of integers; arrays give an array of keys.

    The words are absorbed one after another, so that (seed 1, epoch 0) and (seed 0, epoch 1) share
    nothing. Shapes broadcast; the result has at least one dimension.
    """
    return extend_key(np.zeros(1, dtype=np.uint64), *words)


def extend_key(key: Words, *words: int | Integers | Words) -> Words:
    """The key of the sequence that `key` was made of and then `words`."""
    for word in words:
        absorbed = (
            np.uint64(word & _WORD) if isinstance(word, int) else word.astype(np.uint64, copy=False)
        )
        found: Words = np.bitwise_xor(key, absorbed)
        np.add(found, _GOLDEN, out=found)
        key = _mixed(found, np.empty_like(found))
    return key


def permute(size: int, key: Words, indices: Integers) -> Integers:
    """Where each of `indices`, all in [0, size), goes under `key`: one key, or one an index."""
    return _walk(size, key, indices, forwards=True)


def unpermute(size: int, key: Words, indices: Integers) -> Integers:
    """The inverse of `permute`: what came to stand at each of `indices`."""
    return _walk(size, key, indices, forwards=False)


def _walk(size: int, key: Words, indices: Integers, *, forwards: bool) -> Integers:
    if indices.size == 0 or size == 1:
        return indices.copy()
    bits = max(_FEWEST_BITS, (size - 1).bit_length())
    keys: Words = key + _STEPS
    _mixed(keys, np.empty_like(keys))
    if not forwards:
        keys = keys[::-1]
    words = indices.astype(np.uint64)
    _cipher(bits, keys, words, forwards=forwards)
    outside = np.flatnonzero(words >= size)
    # The cipher permutes a whole power of two: each word that lands outside [0, size) walks on
    # along its cycle until it is back inside, which keeps the whole one to one.
    while outside.size > _FEW:
        walked = words[outside]
        walking = keys if keys.shape[1] == 1 else keys[:, outside]
        _cipher(bits, walking, walked, forwards=forwards)
        words[outside] = walked
        outside = outside[walked >= size]
    for place in outside.tolist():
        mine = keys[:, 0 if keys.shape[1] == 1 else place].tolist()
        word = int(words[place])
        while word >= size:
            word = _cipher_one(bits, mine, word, forwards=forwards)
        words[place] = word
    return words.astype(np.int64)


def _cipher(bits: int, keys: Words, words: Words, *, forwards: bool) -> None:
    """Encrypts words of `bits` in place; backwards, with keys in reverse, it decrypts them."""
    low, high = bits - bits // 2, bits // 2
    left, right = words >> np.uint64(low), words & np.uint64(2**low - 1)
    mixed, scratch = np.empty_like(words), np.empty_like(words)
    for key in keys:
        if forwards:
            np.bitwise_xor(right, key, out=mixed)
            _mixed(mixed, scratch)
            np.right_shift(mixed, np.uint64(64 - high), out=mixed)
            np.bitwise_xor(left, mixed, out=left)
            left, right = right, left
            low, high = high, low
        else:
            low, high = high, low
            np.bitwise_xor(left, key, out=mixed)
            _mixed(mixed, scratch)
            np.right_shift(mixed, np.uint64(64 - high), out=mixed)
            np.bitwise_xor(right, mixed, out=right)
            left, right = right, left
    np.left_shift(left, np.uint64(low), out=words)
    np.bitwise_or(words, right, out=words)


def _cipher_one(bits: int, keys: list[int], word: int, *, forwards: bool) -> int:
    """As `_cipher`, of one plain number."""
    low, high = bits - bits // 2, bits // 2
    left, right = word >> low, word & ((1 << low) - 1)
    for key in keys:
        if forwards:
            left, right = right, left ^ (_mix_one(right ^ key) >> (64 - high))
            low, high = high, low
        else:
            low, high = high, low
            left, right = right ^ (_mix_one(left ^ key) >> (64 - high)), left
    return (left << low) | right


def _mix_one(word: int) -> int:
    word = (word ^ (word >> _SHIFTS[0])) * _FACTORS[0] & _WORD
    word = (word ^ (word >> _SHIFTS[1])) * _FACTORS[1] & _WORD
    return int(word ^ (word >> _SHIFTS[2]))
