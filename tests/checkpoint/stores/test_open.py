"""A URL says which store serves a place; secrets in it are refused unseen."""

import os
import subprocess
import sys

import pytest

from keepstep.checkpoint.config import PlaceConfig, Transport
from keepstep.checkpoint.stores import LocalStore, is_exclusive, open_place
from keepstep.checkpoint.stores.filesystem import FsspecWire
from keepstep.checkpoint.stores.obstore import ObstoreWire
from keepstep.checkpoint.stores.s3 import S3Wire


@pytest.mark.parametrize(
    ("url", "transport", "wire"),
    [
        ("s3://bucket/run", "fsspec", S3Wire),
        ("s3://bucket", "obstore", ObstoreWire),
        ("memory://run", "auto", FsspecWire),
    ],
)
def test_the_scheme_and_the_setting_choose_the_library(url, transport, wire):
    place = open_place(url + "/", PlaceConfig(transport=Transport(transport)))
    assert isinstance(place.wire, wire)
    assert place.address() == url


def test_paths_and_file_urls_are_folders(tmp_path):
    for url in (str(tmp_path), f"file://{tmp_path}"):
        place = open_place(url)
        assert isinstance(place, LocalStore)
        assert place.address() == str(tmp_path)


@pytest.mark.parametrize(
    "url", ["s3://key:hush@bucket/run", "sftp://me:hush@host/run", "gs://b/r?hush"]
)
def test_a_url_with_a_secret_is_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match="needed a plain one") as caught:
        open_place(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "transport", "said"),
    [
        ("s3://", "auto", "without a bucket"),
        ("nosuch://x/y", "auto", "nosuch://, for which fsspec has no file system"),
        ("memory://x", "obstore", "transport=obstore: found memory://"),
    ],
)
def test_a_url_that_nothing_serves_is_refused(url, transport, said):
    with pytest.raises(ValueError, match=said):
        open_place(url, PlaceConfig(transport=Transport(transport)))


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(open_place("s3://bucket/run").wire, S3Wire)
    with pytest.raises(ValueError, match=r"found obstore but no such package.*keepstep\[s3\]"):
        open_place("s3://bucket/run", PlaceConfig(transport=Transport.obstore))


def test_a_fork_of_a_process_that_used_obstore_takes_the_other_library(make_place, endpoint):
    make_place("obstore").create("one/a", [b"x"])
    pid = os.fork()
    if not pid:
        place = open_place("s3://ckpt/x", PlaceConfig(endpoint_url=endpoint))
        is_able = isinstance(place.wire, ObstoreWire) or not is_exclusive(place)
        try:
            make_place("obstore").list()
        except OSError as error:
            is_able |= "checkpoint.store.transport=fsspec" not in str(error)
        os._exit(is_able)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.slow
def test_a_fork_of_a_process_in_which_others_used_obstore_takes_the_other_library():
    program = """
import os, sys, time
from keepstep.checkpoint.stores.obstore import is_able
assert is_able()
import obstore
obstore.put(obstore.store.MemoryStore(), "a", b"x")
deadline = time.monotonic() + 20
while not is_able() and time.monotonic() < deadline:
    time.sleep(0.01)  # its threads name themselves once they run
assert is_able(), "the runtime runs here"
pid = os.fork()
if not pid:
    os._exit(is_able())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
