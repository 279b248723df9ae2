"""Samples of a folder of prepared tokens, as a run reads them from a local disk."""

from pathlib import Path

from keepstep.data.access import LocalAccess
from keepstep.data.packing import Chunks
from keepstep.data.sources.open import open_tokens
from keepstep.data.sources.token_files.npy import survey_prepared
from keepstep.data.store import LocalStore


def open_shards(folder: Path, *, split: str = "train", sequence_length: int) -> Chunks:
    """The samples of one split."""
    dataset = survey_prepared(LocalStore(), str(folder), split=split)
    return Chunks(open_tokens(dataset, LocalAccess(dataset.objects)), sequence_length)
