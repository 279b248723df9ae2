"""A fetcher against a server that is slow, throttles, breaks off, lies, and goes away."""

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import pytest
import xxhash
from support.s3.faults import Faults
from support.s3_server import S3Server, s3_server
from support.seaweed import CREDENTIALS

from keepstep.data.errors import CorruptDataError
from keepstep.data.fetch import FetchConfig, FetchCounts, Fetcher
from keepstep.data.store import Store, StoreConfig, StoredObject, Transport, open_store

CONTENT = np.random.default_rng(3).bytes(1 << 22)
SIZE = 4096
URL = "s3://b/k"
RANGES = int(os.environ.get("KEEPSTEP_FAULTY_RANGES", "2000"))


class Place(NamedTuple):
    """The server with faults, and a store at it with an object that holds CONTENT."""

    server: S3Server
    store: Store
    obj: StoredObject


@pytest.fixture(scope="module")
def shared() -> Iterator[S3Server]:
    with s3_server() as server:
        server.put("b/k", CONTENT)
        yield server


@pytest.fixture
def transport() -> Transport:
    return Transport.obstore


@pytest.fixture
def place(
    shared: S3Server, monkeypatch: pytest.MonkeyPatch, transport: Transport
) -> Iterator[Place]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    config = StoreConfig(
        transport=transport, endpoint_url=shared.endpoint, region="us-east-1", stall_seconds=1.0
    )
    with contextlib.closing(open_store(URL, config)) as store:
        obj = store.stat(URL)
        shared.counts(reset=True)
        yield Place(shared, store, obj)
    shared.set(**{name: getattr(Faults(), name) for name in Faults.__slots__})


def submit(fetcher: Fetcher, obj: StoredObject, number: int) -> Future[bytes | memoryview]:
    """Asks for the number-th range, due now, with a check of its digest."""
    start = number * 997 % (len(CONTENT) - SIZE)
    wanted = xxhash.xxh3_64_intdigest(CONTENT[start : start + SIZE])
    return fetcher.submit(
        obj, start, start + SIZE, time.monotonic(), lambda x: xxhash.xxh3_64_intdigest(x) == wanted
    )


def is_right(number: int, content: bytes | memoryview) -> bool:
    start = number * 997 % (len(CONTENT) - SIZE)
    return content == CONTENT[start : start + SIZE]


def fetch(place: Place, count: int, config: FetchConfig) -> FetchCounts:
    """Fetches `count` ranges, all of which must arrive right; what it took."""
    with Fetcher(place.store, config) as fetcher:
        futures = [submit(fetcher, place.obj, number) for number in range(count)]
        for number, future in enumerate(futures):
            assert is_right(number, future.result(60 + count / 200))
        return fetcher.counts


@pytest.mark.parametrize("hedge_share", [0.05, 0.0])
def test_a_second_request_cuts_the_tail(place: Place, hedge_share: float) -> None:
    place.server.set(latency=0.03, tail_share=0.03, tail_seconds=0.8)
    counts = fetch(
        place, 400, FetchConfig(hedge_share=hedge_share, start_in_flight=16, most_in_flight=16)
    )
    tails = place.server.counts()["faults"]["tail"]
    assert tails >= 5
    if not hedge_share:
        assert (counts.hedges, counts.gets) == (0, 400)
        assert counts.delivery_seconds.p99 > 0.8
        return
    assert counts.gets == 400 + counts.hedges
    assert counts.hedges <= 4 + 0.05 * counts.gets
    assert counts.hedges_won >= 0.7 * tails - 3
    assert counts.delivery_seconds.p99 < 0.4, "half of what a late request takes"


def test_throttles_lower_the_limit_and_all_arrives(place: Place) -> None:
    place.server.set(latency=0.005, throttle_above=8)
    counts = fetch(place, 600, FetchConfig(start_in_flight=64, hedge_share=0.0))
    server = place.server.counts()
    assert counts.throttles == server["faults"]["throttle"] > 0
    assert counts.retries == {"503": counts.throttles}
    assert counts.limit < 64
    assert counts.throttles < 600, "once the limit is found, most requests are taken"
    assert counts.gets == server["requests"]["get"] == 600 + counts.throttles


@pytest.mark.parametrize("transport", [Transport.obstore, Transport.fsspec])
def test_a_server_that_goes_away_is_waited_for(place: Place) -> None:
    place.server.set(latency=0.01)
    with Fetcher(place.store) as fetcher:
        futures = [submit(fetcher, place.obj, number) for number in range(50)]
        assert is_right(0, futures[0].result(30))
        place.server.outage(1.5)
        futures += [submit(fetcher, place.obj, number) for number in range(50, 150)]
        told = None
        while told is None and not futures[-1].done():
            told = fetcher.outage
            time.sleep(0.005)
        assert told is not None, (futures[-1].exception(0), fetcher.counts)
        for number, future in enumerate(futures):
            assert is_right(number, future.result(60))
        assert fetcher.outage is None
        retries = fetcher.counts.retries
    assert retries["refused"] > 0
    assert sum(retries.values()) < 2000, "an outage is probed, not stormed"


def test_flipped_bits_are_never_handed_out(place: Place) -> None:
    place.server.set(flip=0.3)
    counts = fetch(place, 300, FetchConfig(check_attempts=12))
    flips = place.server.counts()["faults"]["flip"]
    assert flips > 60
    assert counts.retries["digest"] >= flips - counts.hedges - 1
    place.server.set(flip=1.0)
    with Fetcher(place.store) as fetcher, pytest.raises(CorruptDataError, match="wrong bytes in"):
        submit(fetcher, place.obj, 1).result(30)


@pytest.mark.parametrize(
    ("transport", "count"), [(Transport.obstore, RANGES), (Transport.fsspec, 150)]
)
def test_no_fault_hands_out_a_wrong_byte(place: Place, count: int) -> None:
    place.server.set(
        **dict.fromkeys(("reset", "end", "short", "flip", "error"), 0.08),
        throttle=0.02,
        throttle_burst=3,
    )
    config = FetchConfig(attempts=30, check_attempts=30, backoff_seconds=0.01)
    fetch(place, count, config)
    befell = place.server.counts()["faults"]
    faults = sum(befell.values()) - befell["none"]
    print(f"{faults} faults over {count} ranges: no wrong byte")
    assert faults > 0.6 * count


def test_waiting_ranges_are_hurried_and_cancelled_under_load(place: Place) -> None:
    place.server.set(latency=0.01, reset=0.05)
    uniform = random.Random(5)
    with Fetcher(place.store, FetchConfig(start_in_flight=8, most_in_flight=8)) as fetcher:
        futures = [submit(fetcher, place.obj, number) for number in range(400)]
        cancelled = {n for n in range(200, 400, 3) if futures[n].cancel()}
        for number in uniform.sample(range(400), 100):
            fetcher.hurry(futures[number], 0.0)
        for number, future in enumerate(futures):
            if number not in cancelled:
                assert is_right(number, future.result(60))
        assert fetcher.counts.delivered == 400 - len(cancelled)
    assert len(cancelled) > 30
    assert not [t for t in threading.enumerate() if "keepstep-fetch" in t.name]
