"""The test S3 server does what it is told: otherwise tests against it would show nothing."""

import contextlib
import http.client
import re
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.s3.faults import Faults
from support.s3_server import S3Server, s3_server

BODY = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def shared() -> Iterator[S3Server]:
    with s3_server() as server:
        server.put("b/k", BODY)
        yield server


@pytest.fixture
def server(shared: S3Server) -> Iterator[S3Server]:
    shared.counts(reset=True)
    yield shared
    shared.set(**{name: getattr(Faults(), name) for name in Faults.__slots__})


@contextlib.contextmanager
def get(
    server: S3Server, target: str = "/b/k", **headers: str
) -> Iterator[http.client.HTTPResponse]:
    address = server.endpoint.removeprefix("http://")
    words = {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(http.client.HTTPConnection(address, timeout=10)) as connection:
        connection.request("GET", target, headers=words)
        yield connection.getresponse()


def test_ranges_and_tags_are_s3s(server: S3Server) -> None:
    with get(server, Range="bytes=5-9") as response:
        assert (response.status, response.read()) == (206, BODY[5:10])
        assert response.headers["Content-Range"] == f"bytes 5-9/{len(BODY)}"
        tag = response.headers["ETag"]
    with get(server, Range="bytes=0-0", If_Match=tag) as response:
        assert response.read() == BODY[:1]
    with get(server, Range="bytes=0-0", If_Match='"other"') as response:
        assert (response.status, b"PreconditionFailed" in response.read()) == (412, True)
    with get(server, If_None_Match=tag) as response:
        assert (response.status, response.read()) == (304, b"")
    with get(server, "/b/none") as response:
        assert (response.status, b"NoSuchKey" in response.read()) == (404, True)
    with get(server, Range=f"bytes={len(BODY)}-") as response:
        assert response.status == 416
        response.read()


def test_listing_goes_on_where_a_page_ended(server: S3Server) -> None:
    names = [f"p/{number:02d}/x" for number in range(7)] + ["p/top", "q"]
    for name in names:
        server.put(f"list/{name}", b"1")
    found, token, pages = [], "", 0
    while pages < 9:
        query = {"list-type": "2", "max-keys": "3", "prefix": "p/"}
        query |= {"continuation-token": token} if token else {}
        with get(server, f"/list?{urllib.parse.urlencode(query)}") as response:
            text = response.read().decode()
        pages += 1
        found += re.findall("<Key>(.*?)</Key>", text)
        token = "".join(re.findall("<NextContinuationToken>(.*?)</Next", text))
        if not token:
            break
    assert (found, pages) == (names[:-1], 3)
    with get(server, "/list?list-type=2&prefix=p/&delimiter=/") as response:
        text = response.read().decode()
    assert re.findall("<Key>(.*?)</Key>", text) == ["p/top"]
    assert len(re.findall("<CommonPrefixes>", text)) == 7


def test_every_fault_happens_and_is_counted(server: S3Server) -> None:
    for kind, status in (("throttle", 503), ("error", 500), ("deny", 403)):
        server.set(**{kind: 1.0})
        with get(server) as response:
            assert response.status == status
            response.read()
        server.set(**{kind: 0.0})
    server.set(flip=1.0)
    with get(server) as response:
        spoilt = response.read()
    assert sum((a ^ b).bit_count() for a, b in zip(spoilt, BODY, strict=True)) == 1
    server.set(flip=0.0, short=1.0)
    with get(server) as response:
        assert len(response.read()) < len(BODY)
    for kind, error in (("end", http.client.IncompleteRead), ("reset", ConnectionResetError)):
        server.set(**{"short": 0.0, "end": 0.0, kind: 1.0})
        with pytest.raises(error), get(server) as response:
            response.read()
    counts = server.counts()
    kinds = ("throttle", "error", "deny", "flip", "short", "end", "reset")
    assert counts["faults"] == dict.fromkeys(kinds, 1)
    assert counts["requests"] == {"get": 7}
    assert counts["bytes"]["b/k"] < 5 * len(BODY)


def test_latency_and_bandwidth_are_at_least_what_was_set(server: S3Server) -> None:
    server.set(latency=0.02, bandwidth=1e7)
    began = time.monotonic()
    with get(server) as response:
        assert response.read() == BODY
    assert time.monotonic() - began >= 0.02 + 0.9 * len(BODY) / 1e7


def test_an_outage_refuses_and_ends(server: S3Server) -> None:
    server.outage(0.2)
    with pytest.raises(ConnectionRefusedError), get(server):
        pass
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with get(server, Range="bytes=0-3") as response:
                assert response.read() == BODY[:4]
                break
        except OSError:
            time.sleep(0.01)
    else:
        pytest.fail("the server did not come back")


def test_files_of_a_folder_are_objects(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "k").write_bytes(BODY[:1000])
    with s3_server(folder=tmp_path) as server, get(server, Range="bytes=990-") as response:
        assert response.read() == BODY[990:1000]
