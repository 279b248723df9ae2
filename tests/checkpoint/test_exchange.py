"""Ranks fail together, each told what each ran into."""

import errno

import pytest
from support.world import run_world

from keepstep.checkpoint import SoloExchange
from keepstep.checkpoint.exchange import (
    Kind,
    RanksFailedError,
    gather_distinct,
    gather_results,
    share,
)


def test_what_each_rank_made_is_answered_in_order(kit):
    def body(rank):
        exchange = kit.GlooExchange()
        own = bytes([rank]) * rank
        return gather_results(exchange, lambda: own), share(exchange, lambda: b"%d" % rank)

    assert run_world(3, body) == [([b"", b"\1", b"\2\2"], b"0")] * 3


def test_one_ranks_failure_is_raised_on_all_with_its_reason(kit):
    def body(rank):
        def work():
            if rank == 1:
                raise OSError(errno.EDQUOT, "quota")
            return b""

        with pytest.raises(RanksFailedError, match=r"^rank 1: OSError: .*quota$") as caught:
            gather_results(kit.GlooExchange(), work)
        return caught.value.has(Kind.full), type(caught.value.__cause__)

    assert run_world(2, body) == [(True, type(None)), (True, OSError)]


def test_equal_answers_travel_once_and_reach_everybody(kit):
    def body(rank):
        exchange, sent = kit.GlooExchange(), []
        gather = exchange.gather_bytes
        exchange.gather_bytes = lambda payload: sent.append(len(payload)) or gather(payload)
        answers = gather_distinct(exchange, lambda: b"ab"[rank % 2 :][:1] * 1000)
        return sent[-1], [answer[:1] for answer in answers], {len(answer) for answer in answers}

    found = run_world(4, body)
    assert [sent for sent, _, _ in found] == [1000, 1000, 0, 0]
    assert [rest for _, *rest in found] == [[[b"a", b"b", b"a", b"b"], {1000}]] * 4


def test_distinct_answers_fail_together_too(kit):
    def body(rank):
        def work():
            raise KeyError(rank)

        with pytest.raises(RanksFailedError, match="rank 0: KeyError: 0; rank 1: KeyError: 1"):
            gather_distinct(kit.GlooExchange(), work)

    run_world(2, body)


def test_one_rank_alone_agrees_with_itself():
    solo = SoloExchange()
    assert solo.gather_bytes(b"x") == [b"x"]
    assert [solo.all_agree(vote) for vote in (True, False)] == [True, False]
