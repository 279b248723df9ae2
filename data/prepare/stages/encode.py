"""Third stage, by part: the kept texts as token ids, split by split, and where each ends."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..job import Job
from ..shards import token_dtype
from ..tokenizer import Tokenizer
from .decide import kept_texts

SPLITS = ("train", "eval")


def encode(job: Job, number: int, tokenizer: Tokenizer, *, is_alone: bool) -> None:
    """Writes a part's tokens and document lengths of each split, and the train split's counts of
    each token.

    Args:
        is_alone: no other process of the machine works: the tokenizer may use all cores.

    Raises:
        DataError: the part is not what it was when it was surveyed.
    """
    is_lone = bool(job.results.facts("decide", 0)["is_lone"])
    size = tokenizer.vocabulary_size
    dtype = np.dtype(token_dtype(size))
    held: list[bool] = []
    found: dict[str, list[npt.NDArray[Any]]] = {split: [] for split in SPLITS}
    texts = _texts(kept_texts(job, number, is_lone=is_lone), held)
    for place, ids in enumerate(tokenizer.encode_documents(texts, is_alone=is_alone)):
        found["eval" if held[place] else "train"].append(ids.astype(dtype))
    arrays: dict[str, npt.NDArray[Any]] = {}
    for split, parts in found.items():
        arrays[f"{split}_tokens"] = np.concatenate([np.empty(0, dtype), *parts])
        arrays[f"{split}_lengths"] = np.array([len(part) for part in parts], dtype=np.int64)
    counts = np.bincount(arrays["train_tokens"], minlength=size)
    facts = {split: [len(arrays[f"{split}_tokens"]), len(found[split])] for split in SPLITS}
    job.results.put("encode", number, facts, counts=counts, **arrays)


def _texts(texts: Iterator[tuple[str, bool]], held: list[bool]) -> Iterator[str]:
    for text, is_held in texts:
        held.append(is_held)
        yield text
