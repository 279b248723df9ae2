"""What the writers share: where fixtures lie, what is expected of them, and small pictures."""

import io
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent.parent
FIXTURES = ROOT / "tests" / "data" / "fixtures"
sys.path.insert(0, str(ROOT / "tests"))

from support.plain import plain  # noqa: E402


def expect(folder: Path, samples: Iterable[Any], **more: Any) -> None:
    """Writes what a reader of `folder` must give, beside it."""
    content = {"samples": [plain(sample) for sample in samples], **more}
    folder.with_name(f"{folder.name}.expected.json").write_text(json.dumps(content, indent=0))


def fresh(peer: str) -> Path:
    folder = FIXTURES / peer
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def picture(mode: str, number: int, size: tuple[int, int] = (5, 3)) -> Any:
    from PIL import Image

    depth = len(Image.new(mode, (1, 1)).tobytes())
    width, height = size
    count = ((width + 7) // 8 if mode == "1" else width * depth) * height
    pixels = bytes((number * 7 + i * 13) % 256 for i in range(count))
    return Image.frombytes(mode, size, pixels)


def encoded(kind: str, number: int) -> bytes:
    stream = io.BytesIO()
    picture("RGB", number).save(stream, format=kind)
    return stream.getvalue()


def image_array(image: Any) -> Any:
    """The pixels as Pillow's own bridge to NumPy gives them."""
    # Of one bit a pixel that bridge makes booleans of the byte 255.
    return np.asarray(image.convert("L")) > 0 if image.mode == "1" else np.asarray(image)


def saved(kind: str, image: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind)
    return stream.getvalue()


def reencoded(value: Any) -> Any:
    return (
        [saved("JPEG", one) for one in value] if isinstance(value, list) else saved("JPEG", value)
    )
