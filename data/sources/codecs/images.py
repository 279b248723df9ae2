"""Pictures: uncompressed ones of a Pillow mode -> arrays; lists of encoded ones -> their bytes."""

from typing import Any

import numpy as np
import numpy.typing as npt

# Pillow's modes: values a pixel (0: no axis of its own) and their type, in its memory's order.
_MODES = {
    "L": (0, "u1"),
    "P": (0, "u1"),
    "LA": (2, "u1"),
    "PA": (2, "u1"),
    "La": (2, "u1"),
    "RGB": (3, "u1"),
    "YCbCr": (3, "u1"),
    "LAB": (3, "u1"),
    "HSV": (3, "u1"),
    "RGBA": (4, "u1"),
    "RGBa": (4, "u1"),
    "RGBX": (4, "u1"),
    "CMYK": (4, "u1"),
    "I": (0, "<i4"),
    "F": (0, "<f4"),
    "I;16": (0, "<u2"),
    "I;16L": (0, "<u2"),
    "I;16B": (0, ">u2"),
}


def raw_image(body: memoryview) -> npt.NDArray[Any]:
    """Width, height, length of the mode (uint32), the mode, then pixels -> (height, width[, n]).

    Raises:
        ValueError: an unknown mode, or another number of bytes than its size needs.
    """
    width, height, length = np.frombuffer(body[:12], dtype="<u4").tolist()
    mode = bytes(body[12 : 12 + length]).decode()
    pixels = body[12 + length :]
    if mode == "1":
        # Rows of one bit a pixel, each filled up to whole bytes.
        rows = np.frombuffer(pixels, dtype=np.uint8).reshape(height, (width + 7) // 8)
        return np.unpackbits(rows, axis=1, count=width).astype(np.bool_)
    if mode not in _MODES:
        raise ValueError(
            f"a picture of mode {mode[:20]!r}, which is not one of {', '.join(_MODES)}"
        )
    depth, dtype = _MODES[mode]
    shape = (height, width, depth) if depth else (height, width)
    return np.frombuffer(pixels, dtype=dtype).reshape(shape)


def blobs(body: memoryview) -> list[memoryview]:
    """A uint32 count, as many uint32 sizes, then the blobs -> each one's bytes.

    Raises:
        ValueError: the sizes do not add up to what is there.
    """
    count = int(np.frombuffer(body[:4], dtype="<u4")[0])
    if 4 + 4 * count > len(body):
        raise ValueError(f"{count} pictures in {len(body)} bytes")
    ends = np.cumsum(np.frombuffer(body[4 : 4 + 4 * count], dtype="<u4").astype(np.int64))
    ends += 4 + 4 * count
    if len(body) != (int(ends[-1]) if count else 4):
        raise ValueError(f"pictures of other sizes than the {len(body)} bytes there are")
    starts = [4 + 4 * count, *ends[:-1].tolist()]
    return [body[start:stop] for start, stop in zip(starts, ends.tolist(), strict=False)]
