"""One peer reads one dataset through a bucket, in an environment of its own; prints JSON.

Run by scripts/bench_data, with the interpreter of the environment that write_fixtures describes.
Each peer is set up as its own documentation says: shuffled, batches of 64 through its loader.

    python measure.py write FOLDER                      # the datasets, by each peer's own writer
    python measure.py mosaic s3://bench/mosaic CACHE --epochs 2 --workers 1
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SAMPLES, BYTES, BATCH = 65_536, 4096, 64


def write(folder: Path) -> None:
    """65,536 samples of 4 kB each, in every format; the same bytes in all of them."""
    import numpy as np

    rows = np.random.default_rng(0).integers(0, 2**16, (SAMPLES, BYTES // 2), dtype=np.uint16)
    (folder / "tokens").mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.split(rows, 16)):
        np.save(folder / "tokens" / f"{number:03d}.npy", part.reshape(-1))
    _write_mosaic(folder / "mosaic", rows)
    _write_litdata(folder / "litdata", rows)
    _write_webdataset(folder / "webdataset", rows)


def _write_mosaic(folder: Path, rows: Any) -> None:
    from stubs import stub

    stub()
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"x": "bytes"}, size_limit="16mb") as out:
        for row in rows:
            out.write({"x": row.tobytes()})


def _write_litdata(folder: Path, rows: Any) -> None:
    from litdata.streaming.cache import Cache

    folder.mkdir(parents=True)
    cache = Cache(str(folder), chunk_bytes="16MB")
    for number, row in enumerate(rows):
        cache[number] = row
    cache.done()
    cache.merge()


def _write_webdataset(folder: Path, rows: Any) -> None:
    import webdataset

    folder.mkdir(parents=True)
    with webdataset.ShardWriter(str(folder / "%03d.tar"), maxcount=4096, verbose=0) as out:
        for number, row in enumerate(rows):
            out.write({"__key__": f"{number:06d}", "x.bin": row.tobytes()})


def mosaic(remote: str, args: argparse.Namespace) -> Callable[[], Iterator[int]]:
    from stubs import stub

    stub()
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    limit = f"{args.limit}b" if args.limit else None
    dataset = StreamingDataset(
        remote=remote, local=args.cache, shuffle=True, batch_size=BATCH, cache_limit=limit
    )
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=args.workers)
    return lambda: (len(batch["x"]) for batch in loader)


def litdata(remote: str, args: argparse.Namespace) -> Callable[[], Iterator[int]]:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    # Its obstore client refuses plain http:// and has no setting for it.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    dataset = StreamingDataset(
        remote,
        cache_dir=args.cache,
        shuffle=True,
        max_cache_size=str(args.limit or "100GB"),
        storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
    )
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=args.workers)
    return lambda: (len(batch) for batch in loader)


def webdataset(remote: str, args: argparse.Namespace) -> Callable[[], Iterator[int]]:
    import webdataset

    urls = f"{os.environ['AWS_ENDPOINT_URL']}/{remote.removeprefix('s3://')}/{{000..015}}.tar"
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=16, cache_dir=args.cache, empty_check=False)
        .shuffle(1000)
        .to_tuple("x.bin")
    )
    loader = webdataset.WebLoader(dataset, batch_size=BATCH, num_workers=args.workers)
    return lambda: (len(batch[0]) for batch in loader)


PEERS = {"mosaic": mosaic, "litdata": litdata, "webdataset": webdataset}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=["write", *PEERS])
    parser.add_argument("place")
    parser.add_argument("cache", nargs="?")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0, help="bytes of the cache; 0: no limit")
    args = parser.parse_args()
    if args.peer == "write":
        write(Path(args.place))
        return
    Path(args.cache).mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    epoch = PEERS[args.peer](args.place, args)
    found = []
    for _ in range(args.epochs):
        samples, first = 0, None
        for count in epoch():
            first = first or time.perf_counter() - begun
            samples += count
        found.append({"samples": samples, "first": first, "seconds": time.perf_counter() - begun})
        begun = time.perf_counter()
        print(json.dumps(found[-1]), file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
