"""The account between processes: what is reserved, published, evicted and found again."""

import os
import threading
from pathlib import Path

import pytest
from support.extents import COST, OBJECT, OpenCache, content, files, fill, held, soonest_first

from keepstep.data.cache import Cache, ExtentName
from keepstep.data.cache.account import Account
from keepstep.data.cache.ledger import Ledger, Record

NAME = ExtentName(OBJECT, 9)


def account(cache: Cache) -> Account:
    return cache._tiers["disk"].account


def reserve(cache: Cache) -> str:
    with account(cache).guard():
        temporary, fd = account(cache).reserve(NAME, COST)
    os.close(fd)
    return temporary


def test_what_was_evicted_unfinished_is_not_published(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    slow, fast = open_cache(1), open_cache(1)
    temporary = reserve(slow)
    fast.know([OBJECT], soonest_first)
    assert fill(fast, [0]) == [True]
    with account(slow).guard():
        assert not account(slow).publish(temporary, NAME)
    assert [path.name for path in files(tmp_path)] == [f"{OBJECT}-0"]


def test_a_scan_does_not_bring_back_what_was_evicted_unfinished(open_cache: OpenCache) -> None:
    slow, fast = open_cache(1), open_cache(1)
    reserve(slow)
    fast.know([OBJECT], soonest_first)
    fill(fast, [0])
    with account(slow).guard():
        account(slow).scan()
        assert list(account(slow).residents.entries) == [ExtentName(OBJECT, 0)]


def test_a_reservation_counts_for_all_and_is_given_back(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    first, second = open_cache(2), open_cache(2)
    temporary = reserve(first)
    with account(second).guard():
        assert account(second).residents.total_bytes == COST
    (tmp_path / "disk" / f"user-{os.geteuid()}" / "v1" / "temporary" / temporary).unlink()
    with account(first).guard():
        account(first).give_up(NAME)
    with account(second).guard():
        assert account(second).residents.total_bytes == 0
    assert fill(second, [0, 1]) == [True, True]
    assert held(first, 2) == [0, 1]


def test_records_are_read_once_in_order_and_lost_ones_are_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "ledger", os.O_RDWR | os.O_CREAT)
    ledger = Ledger(fd)
    records = [Record(ExtentName(OBJECT, number), number * COST) for number in range(5)]
    assert ledger.append(records[:3]) == 3
    assert ledger.append(records[3:]) == 5
    assert ledger.since(1) == (5, records[1:])
    assert ledger.since(5) == (5, [])
    assert ledger.since(6) == (5, None)
    for _ in range(900):
        ledger.append(records)
    assert ledger.since(5) == (4505, None)
    assert ledger.since(4500) == (4505, records)
    ledger.close()
    ledger.close()


def test_a_guard_that_another_keeps_is_a_refusal_and_no_hang(
    open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger.guard.__wrapped__, "__defaults__", (0.02,))  # type: ignore[attr-defined]
    first, second = open_cache(2), open_cache(2)
    fill(first, [0])
    assert account(first).ledger.take(0)
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.extend(fill(second, [1])))
    thread.start()
    thread.join(10)
    assert done == [False]
    assert second.counters()["disk"].refused == 1
    assert second.get(OBJECT, 0) == content(OBJECT, 0)
    account(first).ledger.free(0)
    assert fill(second, [1]) == [True]
