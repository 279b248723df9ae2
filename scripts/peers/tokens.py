"""Fixtures by Megatron's IndexedDatasetBuilder."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from samples import expect, fresh


def write() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.core.datasets import indexed_dataset

    folder = fresh("megatron")

    def pair(path: Path, documents: list[list[list[int]]], dtype: Any, **more: Any) -> None:
        import torch

        path.parent.mkdir(exist_ok=True)
        out = indexed_dataset.IndexedDatasetBuilder(f"{path}.bin", dtype=dtype, **more)
        for sequences in documents:
            for tokens in sequences:
                out.add_item(torch.tensor(tokens, dtype=torch.int64))
            out.end_document()
        out.finalize(f"{path}.idx")

    def documents(start: int, count: int) -> list[list[list[int]]]:
        return [
            [list(range(start + d, start + d + 3 * (s + d) % 11)) for s in range(1 + d % 3)]
            for d in range(count)
        ]

    sets = {
        "one": ([documents(10, 9)], np.uint16, {}),
        "many": ([documents(70000, 5), documents(80000, 7), documents(90000, 1)], np.int32, {}),
        "modes": ([documents(1, 4)], np.int32, {"multimodal": True}),
    }
    for name, (parts, dtype, more) in sets.items():
        tokens: list[int] = []
        starts: list[int] = []
        for number, part in enumerate(parts):
            pair(folder / name / f"part{number}_text_document", part, dtype, **more)
            for sequences in part:
                flat = [token for sequence in sequences for token in sequence]
                starts += [len(tokens)] if flat else []
                tokens += flat
        expect(folder / name, [], tokens=tokens, documents=starts)
