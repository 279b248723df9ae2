"""The books of a run's time balance: over steps, failures, generations and jobs."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.gate import Gate
from support.job import Ran, overrides, start_job, tiny

from keepstep.trainer.recovery.books import LEDGER, Account, Books, process_begin
from keepstep.trainer.recovery.heartbeat import Page

SLOW = tiny(sleep_seconds=0.02)


def open_books(folder: Path | None, *, begun: float) -> Books:
    books = Books(Page.create())
    books.open(folder, begun=begun)
    return books


def spent(books: Books) -> dict[str, float]:
    return {name: round(seconds, 6) for name, seconds in books.seconds.items() if seconds}


def test_each_second_is_booked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    books = open_books(None, begun=100.0)
    books.book(Account.init, now=103.0)
    books.book(Account.eval, now=104.5)
    books.book(Account.eval, now=104.0)  # a clock never goes back
    books.book(Account.save, now=110.0)
    assert spent(books) == {"init": 3.0, "eval": 1.5, "save": 5.5}
    assert books.wall_seconds == pytest.approx(10.0)


def test_a_step_is_cut_into_what_it_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    books = open_books(None, begun=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: 101.0)
    books.book_step(1, data=0.25, snapshot=0.125)
    assert spent(books) == {"data": 0.25, "step": 0.625, "snapshot": 0.125}
    monkeypatch.setattr(time, "monotonic", lambda: 102.0)
    books.book_step(1, data=0.25, snapshot=0.0)  # done before
    assert spent(books)["redo"] == 1.0
    monkeypatch.setattr(time, "monotonic", lambda: 104.0)
    books.book_step(2, data=9.0, snapshot=9.0, compiles=True)
    assert spent(books)["compile"] == 2.0
    assert (books.steps, books.wall_seconds) == (2, pytest.approx(4.0))


def test_waits_never_take_more_than_the_step_had(monkeypatch: pytest.MonkeyPatch) -> None:
    books = open_books(None, begun=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: 101.0)
    books.book_step(1, data=0.9, snapshot=0.9)
    assert spent(books) == {"data": 0.9, "snapshot": 0.1}


def test_the_next_job_goes_on_and_the_time_between_is_a_wait(tmp_path: Path) -> None:
    now = time.monotonic()
    first = open_books(tmp_path, begun=now - 60.0)
    first.book(Account.init, now=now - 50.0)
    first.keep()
    second = open_books(tmp_path, begun=now - 20.0)
    assert spent(second)["init"] == 10.0
    assert second.seconds["wait"] == pytest.approx(30.0, abs=0.5)
    second.book(Account.step)
    assert second.wall_seconds == pytest.approx(60.0, abs=0.5)


def test_a_ledger_that_cannot_be_read_or_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text("{ torn")
    books = open_books(tmp_path, begun=time.monotonic())
    assert books.wall_seconds == 0
    books = open_books(tmp_path / "missing", begun=time.monotonic())
    books.keep()


def test_a_process_knows_when_it_began() -> None:
    assert 0 < time.monotonic() - process_begin() < 24 * 3600


def ledger(ran: Ran) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ran.folder / LEDGER).read_text())
    return found


@pytest.mark.slow
def test_the_books_of_a_run_with_failures_and_two_jobs_balance(tmp_path: Path) -> None:
    ran, begun = Ran(tmp_path / "run"), time.time()
    words = overrides(ran.folder, "chaos.plan=[{do:kill,rank:1,step:4}]", steps=30)
    gate = Gate(ran, steps=20)
    with start_job(2, words, folder=tmp_path, recipe=gate.recipe(SLOW)) as job:
        job.until(lambda: len(ran.losses) > 8, 60.0, "some steps")
        os.kill(job.guardians[0], signal.SIGTERM)
        job.until(lambda: ran.events("stop"), 60.0, "note of the signal")
        gate.open()
        assert job.wait() == [75, 75], job.errors(0)
    time.sleep(1.0)
    with start_job(2, words, folder=tmp_path, recipe=SLOW) as job:
        assert job.wait() == [0, 0], job.errors(0)
    wall = time.time() - begun
    found = ledger(ran)
    booked = sum(found["seconds"].values())
    assert booked == pytest.approx(found["until"] - found["since"], abs=0.3)
    assert 0.6 * wall < booked < wall + 0.1  # the test's own start of a job is not the job's
    assert found["steps"] == 30
    (stopped,), (*_, started) = ran.events("preemption"), ran.events("start")
    # With the parting of the one and the start of the other.
    assert 0.9 < found["seconds"]["wait"] < started["time"] - stopped["time"]
    assert all(found["seconds"][name] > 0 for name in ("init", "step", "restore", "redo", "save"))
    assert ran.summary["seconds"].keys() == found["seconds"].keys()
    assert 0 < ran.summary["goodput"] <= 1
