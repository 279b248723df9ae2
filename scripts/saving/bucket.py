"""What is measured on an S3 server: a save and a restore, beside the same bytes through the same
client and nothing else, and torch's own writer through fsspec."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import obstore
import torch.distributed.checkpoint as dcp
from obstore.store import S3Store
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

from keepstep.checkpoint import Checkpoints, Keep, PlaceConfig, commit, open_place, tidy
from keepstep.checkpoint.config import Transport

from .rank import Rank

NAME = "bench"


class Bucket:
    """Of `endpoint`, with the credentials of the environment."""

    def __init__(self, rank: Rank, endpoint: str) -> None:
        self.rank, self.state, self.endpoint = rank, rank.state, endpoint
        self.config = PlaceConfig(endpoint_url=endpoint, transport=Transport.obstore)
        self.place = open_place(f"s3://{NAME}/keepstep", self.config)
        self.client = S3Store(
            NAME,
            endpoint=endpoint,
            region="us-east-1",
            client_options={"allow_http": True, "timeout": timedelta(seconds=300)},
        )
        self.turns = itertools.count()

    @property
    def cases(self) -> list[Callable[[], None]]:
        return [self.raw, self.keepstep, self.dcp]

    def raw(self) -> None:
        """A multipart upload, and ranges in as many threads, of the sizes that a save uses."""
        name, data = f"raw-{self.rank.rank}", self.rank.image()
        size, threads = self.config.part_bytes, self.config.connections
        with self.rank.timed("bucket raw upload"):
            obstore.put(
                *(self.client, name, data),
                use_multipart=True,
                chunk_size=size,
                max_concurrency=threads,
            )
        buffer = memoryview(bytearray(len(data)))

        def fetch(start: int) -> None:
            part = buffer[start : start + size]
            found = obstore.get_range(self.client, name, start=start, length=len(part))
            part[:] = memoryview(found)

        with self.rank.timed("bucket raw download"), ThreadPoolExecutor(threads) as pool:
            list(pool.map(fetch, range(0, len(data), size)))

    def keepstep(self) -> None:
        held = self.rank.held(next(self.turns))
        with self.rank.timed("bucket keepstep save"):
            commit(self.place, self.rank.exchange, held, held.cargo)
        checkpoints = Checkpoints(self.place, self.rank.exchange, keep=1)
        with self.rank.timed("bucket keepstep restore"):
            assert checkpoints.restore(self.state, in_place=True) is not None
        if self.rank.rank == 0:
            tidy(self.place, Keep(last=1))

    def dcp(self) -> None:
        url, options = f"s3://{NAME}/dcp", {"endpoint_url": self.endpoint}
        with self.rank.timed("bucket dcp.save"):
            dcp.save(self.state, storage_writer=FsspecWriter(url, **options))
        with self.rank.timed("bucket dcp.load"):
            dcp.load(self.state, storage_reader=FsspecReader(url, **options))
