"""Fixtures by litdata: every layout of chunks, and tokens."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from samples import expect, fresh, image_array, picture


def cache(folder: Path, items: Iterable[Any], **options: Any) -> None:
    from litdata.streaming.cache import Cache

    out = Cache(str(folder), **options)
    for number, item in enumerate(items):
        out[number] = item
    out.done()
    out.merge()


def write() -> None:
    import torch
    from litdata.streaming.item_loader import TokensLoader

    folder = fresh("litdata")

    def mixed(n: int) -> dict[str, Any]:
        return {
            "id": n,
            "score": n / 3,
            "name": f"item {n} \u00e9",
            "flag": n % 2 == 0,
            "blob": bytes(range(n)),
            "flat": torch.arange(n, dtype=torch.int32),
            "deep": torch.full((2, n % 3), n, dtype=torch.float64),
            "half": torch.arange(6).reshape(2, 3).to(torch.float16),
            "array": np.arange(n + 1, dtype=np.uint16),
            "table": np.arange(6, dtype=np.float32).reshape(3, 2) * n,
            "tree": {"pair": (n, f"p{n}"), "row": [1.5, n]},
            "nested": [{"role": "a", "turn": n, "ok": None}, {"role": "b", "turn": 1, "ok": True}],
            "words": ["a", "b" * n],
            "image": picture("RGB", n),
        }

    def seen(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return item.numpy()
        if isinstance(item, dict):
            return {key: seen(value) for key, value in item.items()}
        if isinstance(item, list | tuple):
            return [seen(value) for value in item]
        return image_array(item) if hasattr(item, "tobytes") and hasattr(item, "mode") else item

    items = [mixed(n) for n in range(12)]
    for name, options in {
        "plain": {},
        "zstd": {"compression": "zstd", "compression_level": "chunk"},
        "samples": {"compression": "zstd", "compression_level": "sample"},
        "frames": {"compression": "zstd:3", "compression_batch_size": 3},
    }.items():
        cache(folder / name, items, chunk_bytes=3000, **options)
        expect(folder / name, map(seen, items))
    rows = [{"text": "word " * n, "label": n, "tags": ["x"] * (n % 3)} for n in range(30)]
    for name, options in {"rows": {}, "rows_zstd": {"compression": "zstd"}}.items():
        cache(folder / name, rows, chunk_size=11, **options)
        expect(folder / name, rows)
    pairs = [(torch.arange(4) + n, n) for n in range(7)]
    cache(folder / "pairs", pairs, chunk_size=3)
    expect(folder / "pairs", [{"0": seen(a), "1": b} for a, b in pairs])
    tokens = [
        torch.arange(n * 100, n * 100 + 16 * (1 + n % 3), dtype=torch.int32) for n in range(6)
    ]
    loader = {"item_loader": TokensLoader(block_size=16), "chunk_size": 80}
    cache(folder / "tokens", tokens, **loader)
    expect(folder / "tokens", [], tokens=torch.cat(tokens).tolist())
    cache(
        folder / "tokens_zstd",
        [t.numpy().astype(np.uint16) for t in tokens],
        **loader,
        compression="zstd",
        compression_level="chunk",
    )
    expect(folder / "tokens_zstd", [], tokens=torch.cat(tokens).tolist())
    cache(folder / "pickled", [{"a": {1, n}} for n in range(3)], chunk_size=2)
