"""The bytes are the same whoever works, and whatever is killed on the way."""

import errno
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.forks import fork, wait_for

from keepstep.data import DataConfig, DataError, prepare, verify
from keepstep.data.manifest import read_manifest
from keepstep.data.prepare import PrepareConfig
from keepstep.data.prepare.job import load_job
from keepstep.data.prepare.stages import encode, survey

Contents = dict[str, bytes]
SETTINGS = {"deduplicate": "near", "part_bytes": 4096, "shard_bytes": 2048}
VOCABULARY = [
    "amber",
    "bright",
    "canal",
    "delta",
    "ember",
    "frost",
    "glade",
    "harbor",
    "inlet",
    "jetty",
]


def silent(line: str) -> None:
    """Takes a progress line and says nothing."""


def settings(**changes: object) -> PrepareConfig:
    return PrepareConfig(**{**SETTINGS, **changes})  # type: ignore[arg-type]


def config(source: Path) -> DataConfig:
    return DataConfig(name="mixed", path=str(source), vocabulary_size=300, eval_fraction=0.2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text files and one of JSON lines that is cut, with duplicates across parts: ten parts."""
    folder = tmp_path_factory.mktemp("source")
    pick = random.Random(7)
    texts = [" ".join(pick.choices(VOCABULARY, k=60)) for _ in range(60)]
    # A near-duplicate and an exact one far behind what they repeat.
    texts += [f"{texts[3]} more", texts[5]]
    for number, text in enumerate(texts[:20]):
        (folder / f"{number:02d}.txt").write_text(text)
    lines = [json.dumps({"text": text}) + "\n" for text in texts[20:]]
    (folder / "rest.jsonl").write_text("".join(lines))
    return folder


def contents(folder: Path) -> Contents:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def wanted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What one process makes of it. Forked, as the rest is: the tokenizer leaves threads behind."""
    out = tmp_path_factory.mktemp("wanted") / "out"
    assert run(source, out, workers=1) == 0
    assert verify(out) == []
    counts = read_manifest(out).counts["documents"]
    assert (counts["exact_duplicates"], counts["near_duplicates"], counts["kept"]) == (1, 1, 60)
    return contents(out)


def run(source: Path, out: Path, **changes: object) -> int:
    """The exit status of a process that prepares."""
    return wait_for(start(source, out, **changes))


def start(source: Path, out: Path, rank: int = 0, world_size: int = 1, **changes: object) -> int:
    def body() -> None:
        os.setpgid(0, 0)
        prepare(
            config(source),
            out=out,
            report=silent,
            settings=settings(**changes),
            rank=rank,
            world_size=world_size,
            lock_seconds=30,
        )

    return fork(body)


def processes_below(pid: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(
    source: Path, wanted: Contents, tmp_path: Path, workers: int
) -> None:
    assert run(source, tmp_path / "out", workers=workers) == 0
    assert contents(tmp_path / "out") == wanted
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["out"]


@pytest.mark.parametrize("workers", [1, 2])
def test_ranks_that_share_a_disk_give_the_same_bytes(
    source: Path, wanted: Contents, tmp_path: Path, workers: int
) -> None:
    ranks = [start(source, tmp_path / "out", rank, 2, workers=workers) for rank in (0, 1)]
    assert [wait_for(pid) for pid in ranks] == [0, 0]
    assert contents(tmp_path / "out") == wanted


@pytest.mark.slow
def test_workers_started_anew_give_the_same_bytes(
    source: Path, wanted: Contents, tmp_path: Path
) -> None:
    def body() -> None:
        from keepstep.data.prepare import pool

        pool._has_one_thread = lambda: False
        prepare(config(source), out=tmp_path / "out", report=silent, settings=settings(workers=2))

    assert wait_for(fork(body), 60) == 0
    assert contents(tmp_path / "out") == wanted


def test_a_process_of_several_threads_forks_no_worker() -> None:
    import threading

    from keepstep.data.prepare.pool import _has_one_thread

    def body() -> None:
        assert _has_one_thread()
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        found = _has_one_thread()
        stop.set()
        thread.join()
        assert not found

    assert wait_for(fork(body)) == 0


def test_after_kills_of_parent_and_workers_at_any_moment_the_same_command_goes_on(
    source: Path, wanted: Contents, tmp_path: Path
) -> None:
    pick = random.Random(11)
    for attempt in range(4):
        out = tmp_path / f"out-{attempt}"
        for _ in range(4):
            pid = start(source, out, workers=2)
            time.sleep(pick.uniform(0.0, 0.4))
            try:
                victims = [pid, *processes_below(pid)]
                os.kill(pick.choice(victims), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                pass
            wait_for(pid)
        assert run(source, out, workers=2) == 0
        assert contents(out) == wanted
        assert not list(tmp_path.glob(".*.work"))


def test_workers_are_gone_when_their_parent_is_killed(source: Path, tmp_path: Path) -> None:
    def slow(self: object, line: str = "") -> None:
        time.sleep(60)

    def body() -> None:
        from keepstep.data.prepare.worker import Runner

        Runner.run = slow  # type: ignore[assignment, method-assign]
        prepare(config(source), out=tmp_path / "out", report=silent, settings=settings(workers=2))

    pid = fork(body)
    deadline = time.monotonic() + 10
    while len(workers := processes_below(pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(workers) == 2
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    wait_for(pid)
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_running, workers))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_worker_is_said_with_what_to_do(source: Path, tmp_path: Path) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def body() -> None:
        from keepstep.data.prepare import worker

        worker.survey = die  # type: ignore[assignment]
        said = r"gone at part \d of survey, needed it to finish .* run the same command again"
        with pytest.raises(ChildProcessError, match=said):
            prepare(
                config(source), out=tmp_path / "out", report=silent, settings=settings(workers=2)
            )

    assert wait_for(fork(body)) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_done_is_not_done_again(
    source: Path, wanted: Contents, tmp_path: Path, workers: int
) -> None:
    """The first run fails at the third part of a stage; the second makes the others alone."""
    log = tmp_path / "log"

    def counting(stage: str, body: Callable[..., None], fails: bool) -> Callable[..., None]:
        def call(job: object, number: int, *rest: object, **options: object) -> None:
            if fails and number == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            body(job, number, *rest, **options)
            with log.open("a") as stream:
                stream.write(f"{stage} {number}\n")

        return call

    def attempt(failing: str) -> None:
        from keepstep.data.prepare import worker

        worker.survey = counting("survey", survey.survey, failing == "survey")
        worker.encode = counting("encode", encode.encode, failing == "encode")
        prepare(
            config(source), out=tmp_path / "out", report=silent, settings=settings(workers=workers)
        )

    def refused(failing: str) -> None:
        said = r"the folder to write to: found .*out not writable \(No space left on device\)"
        with pytest.raises(DataError, match=said):
            attempt(failing)

    for failing in ("survey", "encode"):
        assert wait_for(fork(lambda failing=failing: refused(failing))) == 0  # type: ignore[misc]
    (work,) = tmp_path.glob(".*.work")
    parts = len(load_job(work).parts()) if workers > 1 else None
    assert wait_for(fork(lambda: attempt("none"))) == 0
    lines = log.read_text().splitlines()
    assert contents(tmp_path / "out") == wanted
    # A worker that was at work when the other failed is ended: what it was at may be done twice.
    assert len(lines) - len(set(lines)) <= workers - 1
    assert parts is None or len({line for line in lines if "survey" in line}) == parts
