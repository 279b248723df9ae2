"""What 100,000 boxes cost beside their bytes, those of 2,000 tensors that 50 ranks hold: what each
rank plans of its own, what rank 0 writes as a manifest, and what is read and proven of it again."""

import time
from pathlib import Path

import torch

from keepstep.checkpoint import LocalStore, Manifest, read_manifest
from keepstep.checkpoint.listing import folder_name
from keepstep.checkpoint.manifest import MANIFEST, FileEntry, encode
from keepstep.checkpoint.shardfile import chunk_entry, file_name
from keepstep.checkpoint.slots import Image

TENSORS, RANKS = 2000, 50
COUNT = TENSORS * RANKS
_DIGEST = "0" * 32


def metadata_seconds(folder: Path) -> dict[str, float]:
    """By what is done."""
    state = {f"model.layers.{place}.weight": torch.empty(1, 4) for place in range(TENSORS)}
    begun = time.perf_counter()
    image = Image.of(state, state, rank=0, holders=[0], label={})
    header, starts = image.header, image.starts
    planned = time.perf_counter() - begun
    entries = [
        chunk_entry(chunk, file_name(rank), start, _DIGEST)._replace(
            global_shape=(RANKS, 4), offsets=(rank, 0)
        )
        for rank in range(RANKS)
        for chunk, start in zip(image.chunks, starts, strict=False)
    ]
    sizes = {"bytes": starts[-1], "header_bytes": len(header), "header_digest": _DIGEST}
    manifest = Manifest(
        step=1,
        attempt="0" * 8,
        created=0.0,
        topology={},
        progress={},
        lineage={},
        files=tuple(FileEntry(name=file_name(rank), **sizes) for rank in range(RANKS)),
        chunks=tuple(entries),
    )
    place, checkpoint = LocalStore(folder), folder_name(1, manifest.attempt)
    begun = time.perf_counter()
    place.create(f"{checkpoint}/{MANIFEST}", [encode(manifest)])
    written = time.perf_counter()
    found = read_manifest(place, checkpoint)
    read = time.perf_counter()
    assert len(found.chunks) == COUNT
    return {"planned": planned, "written": written - begun, "read": read - written}
