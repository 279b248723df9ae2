"""What each store says of each failure, by s3fs and by obstore, against the server with faults."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import fsspec
import pytest
from support.s3_server import S3Server
from support.seaweed import rclone

from keepstep.data.errors import (
    ChangedError,
    DataError,
    DeniedError,
    MissingError,
    StoreError,
    ThrottledError,
    TransientError,
)
from keepstep.data.store import (
    FsspecStore,
    LocalStore,
    ObstoreStore,
    S3Store,
    Store,
    StoreConfig,
    StoredObject,
    Transport,
    open_store,
)

CONTENT = bytes(range(256)) * 2000
URL = "s3://b/k"


class Open(Protocol):
    """Opens a store at the server with faults, which holds CONTENT; it is closed after the test."""

    def __call__(self, **changes: Any) -> Store: ...


@pytest.fixture
def open_one(faulty: S3Server, transport: Transport) -> Iterator[Open]:
    faulty.put("b/k", CONTENT)
    words = {"transport": transport, "endpoint_url": faulty.endpoint, "region": "us-east-1"}
    with contextlib.ExitStack() as stack:

        def make(**changes: Any) -> Store:
            config = StoreConfig(**{**words, **changes})
            return stack.enter_context(contextlib.closing(open_store(URL, config)))

        yield make


@pytest.fixture(params=[Transport.fsspec, Transport.obstore])
def transport(request: pytest.FixtureRequest) -> Transport:
    found: Transport = request.param
    return found


@pytest.mark.parametrize(
    ("fault", "kind", "cause"),
    [
        ({"throttle": 1.0}, ThrottledError, "503"),
        ({"error": 1.0}, TransientError, "5xx"),
        ({"deny": 1.0}, DeniedError, "403"),
        ({"reset": 1.0}, TransientError, "reset"),
        ({"end": 1.0}, TransientError, "short"),
        ({"short": 1.0}, TransientError, "short"),
        ({"slow": 1.0}, TransientError, "timeout"),
        ({"latency": 60.0}, TransientError, "timeout"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_failure_has_its_error_and_is_asked_for_once(
    faulty: S3Server,
    open_one: Open,
    fault: dict[str, float],
    kind: type[TransientError],
    cause: str,
) -> None:
    words = {}
    if cause == "timeout":
        words = dict.fromkeys(("connect_seconds", "first_byte_seconds", "stall_seconds"), 0.5)
    one = open_one(**words, slowest_bytes_per_second=1e7)
    obj = one.stat(URL)
    faulty.set(**fault)
    with pytest.raises(kind, match=r"found .*, needed ") as raised:
        one.read(obj, 5, len(CONTENT))
    assert (raised.value.cause, type(raised.value)) == (cause, kind)
    assert faulty.counts()["requests"]["get"] == 1
    faulty.set(**dict.fromkeys(fault, 0.0))
    assert bytes(one.read(obj, 5, len(CONTENT))) == CONTENT[5:]


def test_an_outage_is_refused_and_passes(faulty: S3Server, open_one: Open) -> None:
    one = open_one()
    obj = one.stat(URL)
    faulty.outage(0.3)
    with pytest.raises(TransientError) as raised:
        one.read(obj, 0, 9)
    assert raised.value.cause in ("refused", "reset")  # an idle connection is reset first
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert bytes(one.read(obj, 0, 9)) == CONTENT[:9]
            break
        except TransientError:
            time.sleep(0.02)
    else:
        pytest.fail("the store did not come back")


def test_a_change_says_both_tags(faulty: S3Server, open_one: Open) -> None:
    one = open_one()
    old = one.stat(URL)
    faulty.put("b/k", CONTENT[::-1])
    with pytest.raises(ChangedError) as raised:
        one.read(old, 0, 9)
    assert one.stat(URL).tag in raised.value.found
    assert old.tag in raised.value.needed
    faulty.put("b/k", CONTENT[:9])
    with pytest.raises(ChangedError, match="of 9 bytes"):
        one.read(dataclasses.replace(old, tag=""), 100, 200)
    faulty.delete("b/k")
    with pytest.raises(MissingError, match="correct the URL"):
        one.read(old, 0, 9)


def test_another_tag_in_an_answer_is_found_though_the_condition_held(
    faulty: S3Server, open_one: Open
) -> None:
    one = open_one()
    obj = one.stat(URL)
    faulty.set(retag=1.0)
    with pytest.raises(ChangedError, match="found 0123456789abcdef"):
        one.read(obj, 0, 9)


def test_a_store_that_ignores_conditions_is_found_out(tmp_path: Path) -> None:
    """rclone sends bytes whatever If-Match says, so only its answer's own tag and size tell.

    It marks ranges with the status of whole objects beside, which obstore does not take.
    """
    (tmp_path / "files" / "b").mkdir(parents=True)
    file = tmp_path / "files" / "b" / "k"
    file.write_bytes(CONTENT)
    with rclone(tmp_path / "files") as endpoint, contextlib.ExitStack() as stack:
        words = {"endpoint_url": endpoint, "region": "us-east-1"}
        one = stack.enter_context(
            contextlib.closing(open_store(URL, StoreConfig(transport=Transport.fsspec, **words)))
        )
        old = one.stat(URL)
        assert bytes(one.read(old, 3, 900)) == CONTENT[3:900]
        stale = dataclasses.replace(old, tag="0123456789abcdef0123456789abcdef")
        with pytest.raises(ChangedError, match=f"found {old.tag}, needed 0123456789"):
            one.read(stale, 3, 900)
        other = open_store(URL, StoreConfig(transport=Transport.obstore, **words))
        assert other.stat(URL) == old
        with pytest.raises(StoreError, match=r"not marked as a range.*store\.transport=fsspec"):
            other.read(old, 3, 900)
        file.write_bytes(CONTENT[:1000])
        with pytest.raises(ChangedError):
            one.read(old, 3, 900)


def test_listing_goes_over_all_pages(faulty: S3Server, open_one: Open) -> None:
    names = sorted(f"many/{number}" for number in range(1203))
    for name in names:
        faulty.put(f"long/{name}", b"1")
    one = open_one()
    assert [obj.url for obj in one.list("s3://long/many")] == [f"s3://long/{x}" for x in names]
    assert faulty.counts()["requests"]["list"] == 2


def test_each_scheme_has_its_store(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path)), LocalStore)
    assert isinstance(open_store(f"file://{tmp_path}"), LocalStore)
    assert isinstance(open_store("memory://x"), FsspecStore)
    assert isinstance(open_store("s3://b/k", StoreConfig(transport=Transport.fsspec)), S3Store)
    assert isinstance(open_store("s3://b/k", StoreConfig()), ObstoreStore)
    with pytest.raises(DataError, match=r"found obstore for memory://x, needed one of s3, s3a"):
        open_store("memory://x", StoreConfig(transport=Transport.obstore))
    with pytest.raises(DataError, match="found no filesystem for nosuch://"):
        open_store("nosuch://x").list("nosuch://x")
    with pytest.raises(DataError, match="found no bucket, needed s3://BUCKET/KEY"):
        open_store("s3://").list("s3://")


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"store\.stall_seconds: found 0, needed a number above"):
        StoreConfig(stall_seconds=0)
    with pytest.raises(ValueError, match=r"store\.endpoint_url: found 'x', needed a URL"):
        StoreConfig(endpoint_url="x")


def test_an_error_of_any_filesystem_has_its_place_in_the_tree() -> None:
    """Errors that fsspec's filesystems raise, from one that raises them."""

    class Broken(fsspec.AbstractFileSystem):  # type: ignore[misc]
        error: Exception = OSError()

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            raise self.error

    filesystem = Broken()
    one = FsspecStore(lambda: filesystem)
    for error, kind, cause in (
        (FileNotFoundError("x"), MissingError, "404"),
        (PermissionError("x"), DeniedError, "403"),
        (TimeoutError("x"), TransientError, "timeout"),
        (ConnectionRefusedError("x"), TransientError, "refused"),
        (ConnectionResetError("x"), TransientError, "reset"),
        (OSError("x"), TransientError, "other"),
    ):
        filesystem.error = error
        with pytest.raises(kind) as raised:
            one.stat("broken://x")
        assert raised.value.cause == cause
    with pytest.raises(TransientError):
        one.read(StoredObject("broken://x", 5), 0, 5)
