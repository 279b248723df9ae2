"""One scenario for every store: local files, fsspec's memory, and a real S3 server by s3fs and by
obstore."""

import contextlib
import dataclasses
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pytest

from keepstep.data.errors import ChangedError, DataError, DeniedError, MissingError
from keepstep.data.store import Store, StoreConfig, StoredObject, Transport, open_store

CONTENT = bytes(range(256)) * 1000


class Place(NamedTuple):
    """A store, an empty folder in it, and a way to write there."""

    store: Store
    url: str
    put: Callable[[str, bytes], None]


@pytest.fixture(params=["local", "memory", "s3fs", "obstore"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "local":

        def put(name: str, content: bytes) -> None:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        made = Place(open_store(str(tmp_path)), str(tmp_path), put)
    elif request.param == "memory":
        url = f"memory:///{uuid.uuid4().hex}"
        memory = fsspec.filesystem("memory")
        made = Place(open_store(url), url, lambda name, x: memory.pipe_file(f"{url}/{name}", x))
    else:
        endpoint = request.getfixturevalue("real_endpoint")
        transport = Transport.fsspec if request.param == "s3fs" else Transport.obstore
        config = StoreConfig(transport=transport, endpoint_url=endpoint, region="us-east-1")
        folder = uuid.uuid4().hex
        write = request.getfixturevalue("real_put")
        made = Place(
            open_store(f"s3://train/{folder}", config),
            f"s3://train/{folder}",
            lambda name, content: write("train", f"{folder}/{name}", content),
        )
    yield made
    made.store.close()
    made.store.close()


def names(place: Place, url: str) -> list[str]:
    return [obj.url.removeprefix(f"{place.url}/") for obj in place.store.list(url)]


def test_ranges_are_exact(place: Place) -> None:
    place.put("a", CONTENT)
    [obj] = place.store.list(f"{place.url}/a")
    for start, stop in ((0, 1), (255, 300), (0, len(CONTENT)), (len(CONTENT) - 3, len(CONTENT))):
        assert bytes(place.store.read(obj, start, stop)) == CONTENT[start:stop]
    assert bytes(place.store.read(obj, 7, 7)) == b""
    with pytest.raises(ValueError, match=rf"found the range \[5, {len(CONTENT) + 1}\), needed one"):
        place.store.read(obj, 5, len(CONTENT) + 1)


def test_a_listing_is_all_below_a_url_in_order_and_readable(place: Place) -> None:
    for name in ("p/b/2", "p/b-1", "p/b/1", "pq/3", "p/.hidden", "p/.git/x", "p/sp ace+=%41"):
        place.put(name, name.encode())
    found = place.store.list(f"{place.url}/p")
    assert [obj.url.removeprefix(f"{place.url}/") for obj in found] == [
        *("p/b-1", "p/b/1", "p/b/2", "p/sp ace+=%41")
    ]
    for obj in found:
        content = bytes(place.store.read(obj, 0, obj.size))
        assert content == obj.url.removeprefix(f"{place.url}/").encode()
        assert dataclasses.astuple(place.store.stat(obj.url))[:3] == (obj.url, obj.size, obj.tag)
        assert obj.tag
    assert names(place, f"{place.url}/p/") == names(place, f"{place.url}/p")
    assert names(place, f"{place.url}/p/b/1") == ["p/b/1"]


def test_globs_match_alike(place: Place) -> None:
    for name in ("x/1.npy", "x/2.npy", "x/10.npy", "x/1.txt", "y/1.npy", "x/d/3.npy", "x/.4.npy"):
        place.put(name, b"1")
    assert names(place, f"{place.url}/x/*.npy") == ["x/1.npy", "x/10.npy", "x/2.npy"]
    assert names(place, f"{place.url}/?/1.npy") == ["x/1.npy", "y/1.npy"]
    assert names(place, f"{place.url}/x/[!1]*.npy") == ["x/2.npy"]
    assert names(place, f"{place.url}/**/3.npy") == ["x/d/3.npy"]
    assert names(place, f"{place.url}/*.none") == []


def test_an_empty_object_is_listed_but_a_folder_is_not(place: Place) -> None:
    place.put("f/empty", b"")
    if place.url.startswith("s3"):
        place.put("f/sub/", b"")
    assert names(place, f"{place.url}/f") == ["f/empty"]
    [obj] = place.store.list(f"{place.url}/f")
    assert (obj.size, bytes(place.store.read(obj, 0, 0))) == (0, b"")


def test_what_is_not_there_is_missing(place: Place) -> None:
    place.put("a", CONTENT)
    obj = place.store.stat(f"{place.url}/a")
    gone = dataclasses.replace(obj, url=f"{place.url}/none")
    attempts: list[Callable[[], Any]] = [
        lambda: place.store.list(f"{place.url}/none"),
        lambda: place.store.stat(gone.url),
        lambda: place.store.read(gone, 0, 5),
    ]
    for attempt in attempts:
        with pytest.raises(MissingError, match=r"none: found no (such|object)") as e:
            attempt()
        assert e.value.cause == "404"


def test_a_replaced_object_is_never_read_as_the_old_one(place: Place) -> None:
    place.put("a", CONTENT)
    old = place.store.stat(f"{place.url}/a")
    place.put("a", bytes(reversed(CONTENT)))
    with pytest.raises(ChangedError, match=r"needed .*as when the data was locked") as e:
        place.store.read(old, 0, 5)
    assert old.tag in e.value.needed
    place.put("a", CONTENT[:100])
    with pytest.raises(ChangedError):
        place.store.read(old, 50_000, 50_005)
    now = place.store.stat(f"{place.url}/a")
    assert bytes(place.store.read(now, 0, 5)) == CONTENT[:5]


def test_an_object_whose_tag_is_unknown_is_held_to_its_size(place: Place) -> None:
    place.put("a", CONTENT)
    known = place.store.stat(f"{place.url}/a")
    assert bytes(place.store.read(dataclasses.replace(known, tag=""), 2, 4)) == CONTENT[2:4]
    with pytest.raises(ChangedError, match=f"found {len(CONTENT)} bytes|found .*{len(CONTENT)}"):
        place.store.read(StoredObject(known.url, len(CONTENT) + 5), 2, 4)


def test_many_threads_may_read(place: Place) -> None:
    place.put("a", CONTENT)
    obj = place.store.stat(f"{place.url}/a")
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda start: bytes(place.store.read(obj, start, start + 999)), range(99))
        assert list(found) == [CONTENT[start : start + 999] for start in range(99)]


def test_nothing_runs_on_after_a_close(place: Place) -> None:
    before = threading.active_count()
    place.put("a", CONTENT)
    obj = place.store.stat(f"{place.url}/a")
    place.store.close()
    assert threading.active_count() == before
    assert bytes(place.store.read(obj, 0, 5)) == CONTENT[:5]


def test_a_fork_reads_by_a_client_of_its_own_or_is_refused(place: Place) -> None:
    place.put("a", CONTENT)
    obj = place.store.stat(f"{place.url}/a")
    place.store.read(obj, 0, 9)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if place.store.read(obj, 9, 20) == CONTENT[9:20] else 2
        except DataError as error:
            code = 3 if "is a fork, needed a process that was not" in str(error) else 4
        finally:
            os._exit(code)
    for start in range(20):
        assert bytes(place.store.read(obj, start, start + 9)) == CONTENT[start : start + 9]
    expected = 3 if type(place.store).__name__ == "ObstoreStore" else 0
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == expected


@pytest.mark.parametrize("transport", [Transport.fsspec, Transport.obstore])
def test_wrong_credentials_are_denied(
    real_endpoint: str, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = StoreConfig(transport=transport, endpoint_url=real_endpoint, region="us-east-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with (
        contextlib.closing(open_store("s3://train/a", config)) as store,
        pytest.raises(DeniedError, match="needed credentials that may read it"),
    ):
        store.list("s3://train/a")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with (
        contextlib.closing(open_store("s3://train/a", config)) as store,
        pytest.raises(DeniedError, match="needed credentials that may read it"),
    ):
        store.stat("s3://train/a")
