"""How objects are cut into extents, the unit of fetching and of caching."""

_LEAST, _MOST = 64 * 2**10, 4 * 2**20
_EXTENTS = 1024


def extent_bytes(total_bytes: int) -> int:
    """Bytes of an extent of a dataset of `total_bytes`: a power of two, 64 KiB to 4 MiB.

    4 MiB where there are 4 GiB or more. Less data is cut finer, into a thousand extents at least,
    so that what a shuffled batch wants of it is a small part of it.
    """
    wanted = max(1, total_bytes // _EXTENTS)
    return min(_MOST, max(_LEAST, 1 << (wanted.bit_length() - 1)))
