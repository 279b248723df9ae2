"""What is fetched, epoch by epoch, is what a cache that foresees everything would fetch."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.s3.faults import Faults
from support.s3_server import S3Server, s3_server
from support.traffic import fewest, touched

from keepstep.data import Loader, Order, OrderRecipe
from keepstep.data.access import CachedAccess, Cut, ExtentMap
from keepstep.data.cache import Cache, CacheConfig
from keepstep.data.dataset import Dataset
from keepstep.data.fetch import FetchConfig, Fetcher
from keepstep.data.lock import lock
from keepstep.data.packing import Chunks
from keepstep.data.sources.open import open_tokens
from keepstep.data.store import Store, StoreConfig, StoredObject, open_store

LENGTH, BLOCK, BATCH = 512, 64, 32
COUNT = 16_384  # 16 MiB of samples, in 256 blocks of 64 KiB
RECIPE = OrderRecipe(num_samples=COUNT, block=BLOCK, lanes=16, window=1, seed=3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "data").mkdir()
    tokens = np.random.default_rng(0).integers(0, 2**16, COUNT * LENGTH + 1, dtype=np.uint16)
    np.save(folder / "data" / "tokens.npy", tokens)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "x")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with s3_server(Faults(), folder=folder) as server:
            yield server


def access_of(store: Store, dataset: Dataset, fetcher: Fetcher, folder: Path) -> CachedAccess:
    """An access with a cache of 52 % of the data."""
    size = dataset.objects[0].size * 52 // 100
    cache = Cache.open(CacheConfig(folder=str(folder), disk_bytes=size, free_bytes=0))
    cut = Cut.of(dataset, sequence_length=LENGTH)
    held, ahead = 2**20, size // 8
    return CachedAccess(
        dataset, fetcher=fetcher, cache=cache, cut=cut, held_bytes=held, ahead_bytes=ahead
    )


@pytest.mark.slow
def test_with_half_of_the_data_cached_each_epoch_fetches_what_belady_would(
    server: S3Server, tmp_path: Path
) -> None:
    store = open_store("s3://data", StoreConfig(endpoint_url=server.endpoint))
    dataset, order, epochs = lock("s3://data", store), Order(RECIPE), 3
    steps = COUNT // BATCH
    with Fetcher(store, FetchConfig(hedge_share=0.0)) as fetcher:
        access = access_of(store, dataset, fetcher, tmp_path / "cache")
        source = Chunks(open_tokens(dataset, access), LENGTH)
        fetched = []
        loader = Loader(
            source, order, batch_samples=BATCH, microbatch_samples=BATCH, stop=epochs * COUNT
        )
        with loader.open(0):
            for _ in range(epochs):
                for _ in range(steps):
                    next(loader)
                fetched.append(access.counts["delivered"])
        access.close()
    starts = 128 + np.arange(COUNT) * 2 * LENGTH
    ideal = fewest(
        touched(order, access.map, starts, 2 * LENGTH + 2, BATCH, epochs),
        dataset.objects[0].size * 52 // 100 // (access.map.cut.size + 4096),
    )
    least = np.cumsum([sum(ideal[n * steps : (n + 1) * steps]) for n in range(epochs)])
    assert least[0] == len(access.map) - 1 == 256  # nothing begins in the last two bytes
    # Ahead of its reading an epoch has begun the next one: an eighth of the cache, at most.
    assert least[0] <= fetched[0] <= 1.05 * least[0]
    assert fetched[-1] <= 1.05 * least[-1]


@pytest.mark.slow
def test_records_of_any_size_share_few_extents() -> None:
    count, size = 32_768, 4100
    dataset = Dataset(
        format="mds",
        url="s3://b",
        objects=[StoredObject("s3://b/0", 300_000 + count * size, "t")],
        counts=np.array([count], dtype=np.int64),
    )
    extents = ExtentMap(dataset, Cut.of(dataset))
    assert extents.cut == Cut(2**16)
    order = Order(OrderRecipe(num_samples=count, block=64, lanes=64, window=1, seed=0))
    starts = 300_000 + np.arange(count) * size
    steps = touched(order, extents, starts, size, 64, epochs=3)
    fetched = fewest(steps, len(extents) * 52 // 100)
    share = [sum(part) / len(extents) for part in np.array_split(fetched, 3)]
    assert share[0] <= 1.01
    assert max(share[1:]) <= 0.52
