"""Whole saves and claims on real servers: one that keeps its promises, and one that does not."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from support.s3.faults import Faults
from support.s3_server import s3_server

from keepstep.checkpoint import Checkpoints, SoloExchange, committed, verify
from keepstep.checkpoint.claims import Fence, claim
from keepstep.checkpoint.errors import FencedError
from keepstep.checkpoint.stores import is_exclusive

REMOTE = ["botocore", "obstore"]


def fenced(place, mine):
    return Checkpoints(place, SoloExchange(), keep=2, fence=Fence(claim=mine))


@pytest.mark.parametrize("kind", REMOTE)
def test_saves_are_committed_kept_and_loaded_again_from_a_bucket(kit, make_place, kind):
    place = make_place(kind)
    checkpoints = fenced(place, claim(place, "mine"))
    for step in (1, 2, 3):
        saved = kit.save(checkpoints, kit.full_state(step), step)
    assert saved.path.startswith("s3://ckpt/")
    assert [found.step for found in committed(place)] == [3, 2]
    assert [verify(place, found.folder) for found in committed(place)] == [[], []]
    other = make_place("botocore" if kind == "obstore" else "obstore")
    state = kit.zeroed(kit.full_state(0))
    assert Checkpoints(other, SoloExchange(), keep=1).restore(state).step == 3
    assert kit.is_equal(state, kit.full_state(3))


@pytest.mark.parametrize("kind", REMOTE)
def test_jobs_that_start_at_once_take_different_numbers(make_place, kind):
    places = [make_place(kind) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        taken = [one.number for one in pool.map(lambda place: claim(place, "mine"), places)]
    assert sorted(taken) == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", REMOTE)
def test_a_server_that_ignores_conditions_is_found_out_and_still_fences(
    kit, make_place, caplog, kind
):
    with s3_server(Faults(ignore_conditions=True)) as server:
        server.put("ckpt/notes", b"mine")
        place = make_place(kind, endpoint=server.endpoint)
        assert not is_exclusive(place)
        old, new = claim(place, "mine"), claim(place, "mine")
        assert f"{place.address()} creates what exists already" in caplog.text
        kit.save(fenced(place, new), kit.full_state(1), 1)
        with pytest.raises(FencedError, match="found claim 2 of process"):
            kit.save(fenced(place, old), kit.full_state(2), 2)
        assert [found.step for found in committed(place)] == [1]
        assert verify(place, committed(place)[0].folder) == []
