"""What 100,000 boxes cost beside their bytes: planned, written as a manifest, read again."""

import json
import time
from pathlib import Path

import torch

from keepstep.checkpoint import LocalStore, Manifest, read_manifest
from keepstep.checkpoint.listing import folder_name
from keepstep.checkpoint.manifest import MANIFEST, FileEntry, encode
from keepstep.checkpoint.shardfile import chunk_entry, file_name
from keepstep.checkpoint.slots import Image

COUNT = 100_000
_DIGEST = "0" * 32


def metadata_seconds(folder: Path) -> dict[str, float]:
    """One rank's share of the work and rank 0's, in seconds by what is done."""
    state = {f"model.layers.{place}.weight": torch.empty(4) for place in range(COUNT)}
    begun = time.perf_counter()
    image = Image.of(state, state, rank=0, holders=[0], label={})
    starts = image.starts()
    planned = time.perf_counter()
    name, header = file_name(0), image.header()
    entries = [
        chunk_entry(chunk, name, start, _DIGEST)
        for chunk, start in zip(image.chunks, starts, strict=False)
    ]
    file = FileEntry(name=name, bytes=starts[-1], header_bytes=len(header), header_digest=_DIGEST)
    manifest = Manifest(
        step=1,
        attempt="0" * 8,
        created=0.0,
        topology={},
        progress={},
        lineage={},
        files=(file,),
        chunks=tuple(entries),
    )
    place, checkpoint = LocalStore(folder), folder_name(1, manifest.attempt)
    place.create(f"{checkpoint}/{MANIFEST}", [encode(manifest)])
    written = time.perf_counter()
    found = read_manifest(place, checkpoint)
    read = time.perf_counter()
    assert len(found.chunks) == COUNT
    return {"planned": planned - begun, "written": written - planned, "read": read - written}


if __name__ == "__main__":
    import sys

    print(json.dumps(metadata_seconds(Path(sys.argv[1]))))
