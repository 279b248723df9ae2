"""A store that refuses, loses answers or dies in the middle: said, survived, nothing lost."""

import itertools
import os
import time
from datetime import timedelta

import pytest
import torch
from support.fault_proxy import fault_proxy

from keepstep.checkpoint import (
    CheckpointError,
    Checkpoints,
    DiskFullError,
    SoloExchange,
    committed,
    verify,
)
from keepstep.checkpoint.claims import Fence, claim
from keepstep.checkpoint.listing import collect_debris
from keepstep.checkpoint.stores import ObjectStore, read_bytes

REMOTE = ["botocore", "obstore"]
# Each transport dies at every third request, beginning at another; with KEEPSTEP_KILLS at every.
STRIDE = 1 if os.environ.get("KEEPSTEP_KILLS") else 3
# Two parts, so that a save takes every kind of request.
LARGE = {"w": torch.arange(6 * 2**20 // 4, dtype=torch.int32)}


@pytest.fixture(scope="module")
def shared_proxy(endpoint):
    with fault_proxy(endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy):
    shared_proxy.forget()
    yield shared_proxy
    shared_proxy.forget()


def solo(place, keep=1, **more):
    return Checkpoints(place, SoloExchange(), keep=keep, **more)


def below(place, name, config):
    """A place below another one, over its client: making one takes half a second."""
    return ObjectStore(place.wire, place.address(name), f"{place._prefix}{name}", config)


@pytest.mark.slow
@pytest.mark.parametrize("kind", REMOTE)
def test_death_after_every_request_leaves_the_old_or_the_new_step(
    kit, make_place, make_config, proxy, kind
):
    whole, flaky = make_place(kind), make_place(kind, endpoint=proxy.endpoint, retry_seconds=0.0)
    config, steps = make_config(kind, proxy.endpoint, retry_seconds=0.0), []
    said = set()
    for last in itertools.count(REMOTE.index(kind), STRIDE):
        direct, place = (below(one, f"run{last}", config) for one in (whole, flaky))
        mine = claim(direct, "mine")
        kit.save(solo(direct, fence=Fence(claim=mine)), {"w": torch.zeros(3)}, 1)
        proxy.forget()
        proxy.decide = lambda request, last=last: "cut" if request.number >= last else ""
        reported = 1
        try:
            reported = kit.save(solo(place, fence=Fence(claim=mine)), LARGE, 2).step
        except CheckpointError as error:
            said.add("s3://ckpt/" in str(error))
        is_done = len(proxy.seen) <= last
        proxy.forget()
        newest = committed(direct)[0]
        assert newest.step >= reported
        assert verify(direct, newest.folder) == []
        steps.append(newest.step)
        if is_done:
            break
        collect_debris(direct, older_than=timedelta(hours=1), now=time.time() + 7200)
        folders = {name.partition("/")[0] for name in direct.list()}
        assert folders == {"claims", *(one.folder for one in committed(direct))}
    assert said == {True}
    assert len(steps) > 10 / STRIDE
    assert steps == sorted(steps)
    assert {steps[0], steps[-1]} == {1, 2}


@pytest.mark.slow(but=["obstore-503", "botocore-lost", "obstore-cut"])
@pytest.mark.parametrize("fate", ["503", "500", "cut", "lost"])
@pytest.mark.parametrize("kind", REMOTE)
def test_what_passes_is_asked_again_and_no_object_is_made_twice(make_place, proxy, kind, fate):
    place = make_place(kind, endpoint=proxy.endpoint, retry_seconds=30.0)
    data = LARGE["w"].numpy().tobytes()
    proxy.decide = lambda request: fate if request.number % 3 == 1 else ""
    place.create("one/small", [b"abc"])
    place.create("one/large", [memoryview(data)])
    assert place.list().keys() == {"one/small", "one/large"}
    assert read_bytes(place, "one/large") == data
    assert read_bytes(place, "one/small") == b"abc"
    place.remove("one", first="small")
    assert place.list() == {}


@pytest.mark.parametrize("kind", REMOTE)
def test_a_lost_answer_to_a_first_creation_does_not_excuse_a_second(make_place, proxy, kind):
    place = make_place(kind, endpoint=proxy.endpoint)
    place.create("one/file", [b"theirs"])
    proxy.decide = lambda request: "503" if request.number == 1 else ""
    with pytest.raises(FileExistsError):
        place.create("one/file", [b"others"])
    assert read_bytes(place, "one/file") == b"theirs"


@pytest.mark.parametrize(
    ("fate", "error", "said"),
    [
        (
            "403",
            CheckpointError,
            r"was not saved at step 2: rank 0: PermissionError: .*denied \(40",
        ),
        ("507", DiskFullError, "checkpoint.path s3://ckpt/.* one checkpoint needs"),
    ],
)
@pytest.mark.parametrize("kind", REMOTE)
def test_rights_or_room_that_end_half_way_are_said_and_cost_one_save(
    kit, make_place, proxy, kind, fate, error, said
):
    place = make_place(kind, endpoint=proxy.endpoint, retry_seconds=1.0)
    kit.save(solo(place), kit.full_state(1), 1)
    count = len(proxy.seen)
    proxy.decide = lambda request: fate if request.number > count + 2 else ""
    with pytest.raises(error, match=said) as caught:
        kit.save(solo(place), LARGE, 2)
    assert "testsecret123" not in str(caught.value)
    proxy.decide = lambda request: ""
    assert [verify(place, found.folder) for found in committed(place)] == [[]]
    assert kit.save(solo(place), kit.full_state(3), 3).step == 3
    assert [found.step for found in committed(place)] == [3]


@pytest.mark.parametrize("kind", REMOTE)
def test_a_store_that_stays_away_ends_the_wait_in_time(make_place, proxy, kind):
    place = make_place(kind, endpoint=proxy.endpoint, retry_seconds=0.5)
    proxy.decide = lambda request: "503"
    with pytest.raises(ConnectionError, match=r"s3://ckpt/.*/run/: found 503"):
        place.list()
    with pytest.raises(ConnectionError, match=r"s3://ckpt/.*/run/one/file"):
        place.create("one/file", [bytes(6 * 2**20)])


@pytest.mark.parametrize("kind", REMOTE)
def test_a_bucket_that_is_not_there_or_a_wrong_key_is_said_without_secrets(
    make_place, monkeypatch, kind
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    place = make_place(kind)
    with pytest.raises(PermissionError, match="needed credentials that may read, write") as caught:
        place.create("one/file", [b"a"])
    assert "hush" not in f"{caught.value} {place!r} {vars(place)!r}"


@pytest.mark.parametrize("kind", REMOTE)
def test_at_most_so_many_parts_are_on_their_way(make_place, proxy, kind):
    place = make_place(kind, endpoint=proxy.endpoint, connections=2)
    taken, sent = [0], []
    proxy.decide = lambda request: sent.append(taken[0]) or ""
    part = bytes(5 * 2**20)

    def pieces():
        for _ in range(8):
            taken[0] += 1
            yield part

    place.create("one/file", pieces())
    puts = [seen for seen in proxy.seen if seen.method == "PUT"]
    assert len(puts) == 8
    # Those on their way, the one at hand and the one looked ahead at the beginning.
    before = [taken for taken, seen in zip(sent, proxy.seen, strict=True) if seen.method == "PUT"]
    assert all(count <= done + 4 for done, count in enumerate(before))
