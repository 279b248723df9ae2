"""What is read through the cache is what the store holds, fetched once a node, whatever happens."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import zstandard
from support.s3.faults import Faults
from support.s3_server import S3Server, s3_server

from keepstep.data.access import CachedAccess, Cut, LocalAccess, Ranges, total_counts
from keepstep.data.cache import Cache, CacheConfig
from keepstep.data.dataset import Dataset
from keepstep.data.errors import ChangedError, CorruptDataError
from keepstep.data.fetch import FetchConfig, Fetcher
from keepstep.data.lock import with_digests
from keepstep.data.store import Store, StoreConfig, StoredObject, Transport, open_store

SIZE = 65_536
BODIES = [np.random.default_rng(n).bytes(300_000 + n) for n in range(4)]
Make = Callable[..., CachedAccess]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "x")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with s3_server(Faults()) as server:
            yield server


@pytest.fixture
def stored(server: S3Server) -> list[StoredObject]:
    server.set(**{name: 0.0 for name in ("short", "reset", "flip", "error", "latency")})
    for number, body in enumerate(BODIES):
        server.put(f"data/{number}.bin", body)
    server.put("data/4.bin.zst", zstandard.compress(BODIES[0]))
    server.counts(reset=True)
    found = store_of(server).list("s3://data")
    packed = found[4]
    return [*found[:4], StoredObject(packed.url, packed.size, packed.tag, "zstd", len(BODIES[0]))]


def store_of(server: S3Server, transport: Transport = Transport.auto) -> Store:
    config = StoreConfig(endpoint_url=server.endpoint, transport=transport)
    return open_store("s3://data", config)


@pytest.fixture
def make(server: S3Server, stored: list[StoredObject], tmp_path: Path) -> Iterator[Make]:
    """Opens an access to the five objects; all of a test share one cache folder."""
    with ExitStack() as stack:

        def one(
            *,
            digests: bool = False,
            disk_bytes: int = 2**30,
            held: int = 2**30,
            transport: Transport = Transport.auto,
        ) -> CachedAccess:
            counts = np.array([10] * 5, dtype=np.int64)
            dataset = Dataset(format="raw", url="s3://data", objects=stored, counts=counts)
            store = store_of(server, transport)
            if digests:
                dataset = with_digests(dataset, store)
                assert dataset.extent_bytes == SIZE
                server.counts(reset=True)
            cache = Cache.open(
                CacheConfig(folder=str(tmp_path / "cache"), disk_bytes=disk_bytes, free_bytes=0)
            )
            fetcher = stack.enter_context(
                Fetcher(store, FetchConfig(start_in_flight=4, hedge_share=0.0, check_attempts=20))
            )
            access = CachedAccess(
                dataset, fetcher=fetcher, cache=cache, cut=Cut(SIZE), held_bytes=held
            )
            stack.callback(access.close)
            return access

        yield one


def some_ranges(count: int, seed: int = 0) -> list[tuple[int, int, int]]:
    chooser = np.random.default_rng(seed)
    found = []
    for place in chooser.integers(0, 5, count).tolist():
        size = len((*BODIES, BODIES[0])[place])
        start = int(chooser.integers(0, size - 1))
        found.append((place, start, int(min(size, start + chooser.integers(1, 150_000)))))
    return found


def check(access: CachedAccess, count: int = 60, seed: int = 0) -> None:
    wanted = some_ranges(count, seed)
    for (place, start, stop), found in zip(wanted, access.read(Ranges.of(wanted)), strict=True):
        assert found == (*BODIES, BODIES[0])[place][start:stop]


def test_any_ranges_are_what_the_store_holds_and_each_extent_is_fetched_once(
    make: Make, server: S3Server
) -> None:
    access = make()
    check(access)
    check(access, seed=1)
    sizes = [len(body) for body in BODIES]
    assert server.counts()["requests"]["get"] == sum(-(-size // SIZE) for size in sizes) + 1
    check(make(), seed=2)  # another process's cache, as it were: nothing is asked for again
    assert server.counts()["requests"]["get"] == sum(-(-size // SIZE) for size in sizes) + 1


def test_rows_are_filled_also_across_extents(make: Make) -> None:
    wanted = [(n % 4, 1000 * n, 1000 * n + 777) for n in range(200)]
    access = make()
    for _ in range(2):  # fetched, then open
        rows = access.gather(Ranges.of(wanted), 800)
        for row, (place, start, stop) in zip(rows, wanted, strict=True):
            assert row.tobytes() == BODIES[place][start:stop] + bytes(23)


def test_what_is_wanted_is_here_before_it_is_read(make: Make, server: S3Server) -> None:
    access, wanted = make(), Ranges.of(some_ranges(30))
    access.want(wanted, np.linspace(time.monotonic(), time.monotonic() + 1, 30))
    deadline = time.monotonic() + 10
    while access._coming and time.monotonic() < deadline:
        time.sleep(0.01)
    asked = server.counts()["requests"]["get"]
    access.read(wanted)
    assert server.counts()["requests"]["get"] == asked
    assert access.waited == {"network": 0.0, "lock": 0.0}


def test_without_room_in_the_cache_extents_are_held_and_fetched_again_when_dropped(
    make: Make, server: S3Server
) -> None:
    check(make(disk_bytes=0), count=200)
    asked = server.counts(reset=True)["requests"]["get"]
    assert asked <= 21
    check(make(disk_bytes=SIZE * 3, held=SIZE * 3), count=50)


def test_flipped_bits_short_bodies_and_resets_deliver_nothing_wrong(
    make: Make, server: S3Server
) -> None:
    access = make(digests=True)
    server.set(flip=0.3, short=0.1, reset=0.1, error=0.1)
    check(access, count=100)
    server.set(flip=0.0, short=0.0, reset=0.0, error=0.0)
    assert sum(n for kind, n in server.counts()["faults"].items() if kind != "none") > 5


def test_bytes_that_stay_wrong_are_refused_by_name(make: Make, server: S3Server) -> None:
    access = make(digests=True)
    server.set(flip=1.0)
    with pytest.raises(CorruptDataError, match=r"s3://data/1\.bin"):
        access.read(Ranges.of([(1, 0, 100)]))
    server.set(flip=0.0)
    check(access)


def test_a_replaced_object_is_refused_not_mixed(make: Make, server: S3Server) -> None:
    access = make()
    access.read(Ranges.of([(0, 0, 10)]))
    server.put("data/0.bin", BODIES[0][::-1])
    with pytest.raises(ChangedError, match=r"s3://data/0\.bin"):
        access.read(Ranges.of([(0, 250_000, 250_010)]))


def test_an_extent_is_next_wanted_when_any_unit_of_it_is(make: Make) -> None:
    access = make()
    asked: list[np.ndarray] = []

    def next_use(units: np.ndarray) -> np.ndarray:
        asked.append(units)
        return np.where(units == 0, 5, 2**62)

    access.follow(next_use)
    names = [access._name(extent) for extent in range(len(access.map))]
    uses = access.cache._foresight.uses(names)
    assert uses[0] == 5
    assert np.isinf(uses[1:]).all()
    assert asked[0].min() == 0
    assert asked[0].max() == 49


def test_processes_that_read_at_once_fetch_each_extent_once(make: Make, server: S3Server) -> None:
    server.set(latency=0.05)
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                # obstore refuses the fork of a process that has used it; s3fs begins anew.
                access = make(transport=Transport.fsspec)
                check(access, count=80)
                access.close()  # what came in is put meanwhile
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    server.set(latency=0.0)
    # 21 extents; three processes by themselves would ask for 63. A slow answer may be asked again.
    assert server.counts()["requests"]["get"] <= 24


def test_counts_say_what_was_asked_for_and_what_each_tier_gave(
    make: Make, server: S3Server
) -> None:
    server.set(error=0.3)
    access = make()
    check(access)
    server.set(error=0.0)
    access.close()  # what came in is put meanwhile
    counts = access.counts
    said = server.counts()
    assert counts["gets"] == said["requests"]["get"]
    assert counts["retries"] == sum(n for kind, n in said["faults"].items() if kind == "error") > 0
    assert counts["retries"] == sum(n for name, n in counts.items() if "retries_" in name)
    wanted = sum(stop - start for _, start, stop in some_ranges(60))
    assert (counts["read_bytes"], counts["get_bytes"]) == (wanted, counts["fetched_bytes"])
    assert counts["disk_puts"] == counts["delivered"]
    assert counts["disk_corrupt"] == counts["disk_evictions"] == counts["uncached"] == 0
    assert 0 < counts["request_p50_seconds"] <= counts["request_p99_seconds"]


def test_what_accesses_share_is_counted_once_in_their_total(make: Make) -> None:
    first, second = make(), make()
    second.fetcher, second.cache = first.fetcher, first.cache
    check(first)
    check(second, seed=1)
    total = total_counts([first, second, LocalAccess([])])
    assert total["gets"] == first.counts["gets"] == second.counts["gets"]
    assert total["read_bytes"] == first.counts["read_bytes"] + second.counts["read_bytes"]
    assert total["amplification"] == total["fetched_bytes"] / total["read_bytes"]
    assert total_counts([LocalAccess([])]) == {}
