"""What disks, clocks and other users do: entries that rot, folders without room or permission."""

import errno
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.extents import (
    COST,
    EXTENT,
    OBJECT,
    OTHER,
    Configure,
    OpenCache,
    content,
    entry_file,
    files,
    fill,
    held,
    soonest_first,
    used_bytes,
)
from support.forks import fork, wait_for

from keepstep.data import DataError
from keepstep.data.cache import Cache, tier

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: other users, mounts")


@pytest.mark.parametrize(
    "damage", ["first byte", "last byte", "trailer", "shorter", "empty", "longer", "another's"]
)
def test_a_damaged_entry_is_missed_deleted_and_put_again(
    open_cache: OpenCache, tmp_path: Path, damage: str
) -> None:
    fill(open_cache(), [0, 1])
    path = entry_file(tmp_path, 0)
    whole = bytearray(path.read_bytes())
    place = {"first byte": 0, "last byte": EXTENT - 1, "trailer": EXTENT + 20}.get(damage)
    if place is not None:
        whole[place] ^= 1
    broken = {"shorter": whole[:-100], "empty": b"", "longer": whole + b"x"}.get(damage, whole)
    path.write_bytes(entry_file(tmp_path, 1).read_bytes() if damage == "another's" else broken)
    cache = open_cache()
    assert held(cache, 2) == [1]
    assert cache.counters()["disk"].corrupt == 1
    assert not path.exists()
    assert cache.lease(OBJECT, 0) is not None
    assert fill(cache, [0]) == [True]
    assert held(open_cache(), 2) == [0, 1]


def test_a_wrong_digest_given_to_put_is_found_by_the_next_reader(open_cache: OpenCache) -> None:
    open_cache().put(OBJECT, 0, content(OBJECT, 0), "0" * 32)
    cache = open_cache()
    assert cache.get(OBJECT, 0) is None
    assert cache.counters()["disk"].corrupt == 1


def test_a_folder_with_other_things_is_refused_and_left_alone(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    precious = tmp_path / "disk" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("words")
    with pytest.raises(DataError, match=r"found 1 entries such as 'thesis.tex' and no keepstep-c"):
        open_cache()
    assert [path.name for path in precious.parent.iterdir()] == ["thesis.tex"]


def let_others_reach(tmp_path: Path) -> None:
    """pytest keeps its folders, three where several processes run the tests, to their owner."""
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        if folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)


def test_a_folder_that_is_a_file_or_anothers_link_is_refused(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    open_cache()
    mine = tmp_path / "disk" / f"user-{os.geteuid()}"
    mine.rename(tmp_path / "elsewhere")
    mine.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"found a link, needed a folder; remove it"):
        open_cache()
    mine.unlink()
    mine.mkdir()
    mine.chmod(0o777)
    with pytest.raises(DataError, match=r"found mode 777, needed 700"):
        open_cache()


def test_files_of_other_names_are_neither_counted_nor_deleted(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    fill(open_cache(2), [0])
    shelf = entry_file(tmp_path, 0).parent
    strangers = [shelf / "notes", shelf / f"{OBJECT}-x", shelf.parent / "zz", shelf / f"{OTHER}-0"]
    for path in strangers:
        path.write_bytes(bytes(9 * COST))
        os.utime(path, (0, 0))
    target = tmp_path / "target"
    target.write_bytes(b"keep")
    link = shelf / f"{OBJECT}-77"
    link.symlink_to(target)
    cache = open_cache(2, idle_seconds=0)
    assert fill(cache, range(1, 8)).count(True) == 7
    assert all(path.exists() for path in (*strangers, target, link))


def test_no_link_leads_out_of_the_folder(open_cache: OpenCache, tmp_path: Path) -> None:
    fill(open_cache(), [0])
    shelf = entry_file(tmp_path, 0).parent
    shelf.rename(tmp_path / "outside")
    shelf.symlink_to(tmp_path / "outside")
    cache = open_cache()
    assert cache.get(OBJECT, 0) is None
    assert cache.lease(OBJECT, 0) is not None
    assert fill(cache, [0]) == [False]
    assert cache.counters()["disk"].refused == 1
    assert len(list((tmp_path / "outside").iterdir())) == 1


def test_a_clock_that_was_set_back_harms_nothing(open_cache: OpenCache, tmp_path: Path) -> None:
    fill(open_cache(2), [0, 1], OTHER)
    for number in (0, 1):
        os.utime(entry_file(tmp_path, number, OTHER), times=(0, time.time() + 10**6))
    cache = open_cache(2)
    assert fill(cache, [0]) == [False]
    stamps = [entry_file(tmp_path, number, OTHER).stat().st_mtime for number in (0, 1)]
    assert max(stamps) < time.time() + 60  # or they would stay for ever
    assert held(cache, 2, OTHER) == [0, 1]
    for number in (0, 1):
        os.utime(entry_file(tmp_path, number, OTHER), times=(0, 0))
    assert fill(open_cache(2), [0]) == [True]


@as_root
def test_a_folder_that_may_only_be_read_gives_hits_and_refuses_the_rest(
    configure: Configure, open_cache: OpenCache, tmp_path: Path
) -> None:
    fill(open_cache(4, group=True), [0, 1])
    damaged = entry_file(tmp_path, 1)
    damaged.write_bytes(bytes(damaged.stat().st_size))
    for path in (tmp_path / "disk").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o444)
    let_others_reach(tmp_path)

    def read() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        cache = Cache.open(configure(4, group=True))
        assert held(cache, 3) == [0]
        assert fill(cache, [1, 2]) == [False, False]
        lease = cache.lease(OBJECT, 1)
        assert lease is not None
        counters = cache.counters()["disk"]
        assert (counters.hits, counters.corrupt, counters.refused) == (1, 1, 2)
        cache.close()

    assert wait_for(fork(read)) == 0


def test_a_folder_that_cannot_be_made_is_gone_without(
    open_cache: OpenCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        cache = open_cache(folder=str(tmp_path / "file" / "cache"))
    assert fill(cache, [0]) == [False]
    assert cache.uncached == 1
    assert "which could not be made (Not a directory); make it, or set" in caplog.text


def test_a_failing_disk_is_warned_of_once_and_leaves_nothing(
    open_cache: OpenCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = open_cache()

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr("keepstep.data.cache.tier.write_entry", fail)
        assert fill(cache, range(3)) == [False] * 3
    assert caplog.text.count("could not write extents (Input/output error)") == 1
    assert cache.counters()["disk"].refused == 3
    assert files(tmp_path) == []
    assert fill(cache, range(8)) == [True] * 8


def test_a_full_disk_makes_room_among_its_own_and_tries_again(
    open_cache: OpenCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(9)
    cache.know([OBJECT], soonest_first)
    fill(cache, [7, 8])
    whole, failures = tier.write_entry, [errno.ENOSPC]

    def fail_once(*arguments: object) -> None:
        if failures:
            raise OSError(failures.pop(), "No space left on device")
        whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tier, "write_entry", fail_once)
    assert fill(cache, [0]) == [True]
    assert held(cache, 9) == [0, 7]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for about ten extents."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={12 * COST}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs root and the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_file_system_without_room_costs_entries_and_nothing_else(
    small_disk: Path, open_cache: OpenCache
) -> None:
    cache = open_cache(1000, folder=str(small_disk / "cache"))
    now = [0]
    cache.know([OBJECT], lambda names: np.full(len(names), float(-now[0])))
    (small_disk / "others").write_bytes(bytes(4 * COST))
    kept = []
    for now[0] in range(30):
        kept += fill(cache, [now[0]])
    assert kept.count(True) >= 5
    found = held(open_cache(1000, folder=str(small_disk / "cache")), 30)
    assert len(found) >= 4
    cache.close()


def test_a_folder_is_private_unless_a_group_shares_it(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        fill(open_cache(4, 1), [0, 1])
        for path in tmp_path.glob("*/*/v1/**/*"):
            assert path.stat().st_mode & 0o7777 == (0o700 if path.is_dir() else 0o600), path
        fill(open_cache(4, group=True), [0])
        for path in (tmp_path / "disk" / "group" / "v1").rglob("*"):
            assert path.stat().st_mode & 0o7777 == (0o2770 if path.is_dir() else 0o660), path
    finally:
        os.umask(before)


@as_root
def test_two_users_of_one_folder_have_a_cache_each_or_one_as_a_group(
    configure: Configure, open_cache: OpenCache, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir(mode=0o1777)
    (tmp_path / "disk").chmod(0o1777)
    let_others_reach(tmp_path)
    mine, ours = open_cache(4), open_cache(4, group=True)
    os.chown(tmp_path / "disk" / "group", 0, 100)
    for path in (tmp_path / "disk" / "group").rglob("*"):
        os.chown(path, 0, 100)
        path.chmod(0o2770 if path.is_dir() else 0o660)
    fill(mine, [0])
    fill(ours, [1])

    def other_user() -> None:
        os.setgroups([100])
        os.setgid(100)
        os.setuid(NOBODY)
        private, shared = Cache.open(configure(4)), Cache.open(configure(4, group=True))
        assert held(private, 3) == []
        assert fill(private, [2]) == [True]
        assert held(shared, 3) == [1]
        shared.know([OBJECT], lambda names: np.zeros(len(names)) - 1)
        assert fill(shared, [0, 3, 4]) == [True] * 3

    assert wait_for(fork(other_user)) == 0
    assert held(mine, 3) == [0]
    assert held(ours, 5) == [0, 1, 3, 4]
    ours.know([OBJECT], soonest_first)
    assert fill(ours, [2]) == [True]  # evicts what the other user wrote
    assert held(ours, 5) == [0, 1, 2, 3]
    assert used_bytes(tmp_path / "disk" / "group") == 4 * COST
