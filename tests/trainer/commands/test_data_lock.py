"""`keepstep data lock` and `verify`: datasets of any kind, anywhere, against what was locked."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.s3.faults import Faults
from support.s3_server import S3Server, s3_server
from typer.testing import CliRunner, Result

from keepstep.data import DataError
from keepstep.data.access import STRONG
from keepstep.data.access.digests import Check
from keepstep.data.lockfile import read_lock
from keepstep.data.seal import verify_lock
from keepstep.trainer.commands import app as module
from keepstep.trainer.commands.app import app
from keepstep.trainer.recovery.chaos import flip_byte

FIXTURES = Path(__file__).parents[2] / "data" / "fixtures"


def keepstep(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture
def mds(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES / "mds" / "all", tmp_path / "mds")
    return tmp_path / "mds"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with s3_server(Faults()) as one:
        yield one


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A dataset in a bucket, and how commands reach it; the working directory is a new one."""
    for path in (FIXTURES / "mds" / "all").iterdir():
        server.put(f"books/{path.name}", path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return ["s3://books", "--endpoint", server.endpoint]


def test_a_local_lock_lies_in_its_folder_with_digests(mds: Path) -> None:
    done = keepstep("lock", mds)
    assert done.exit_code == 0, done.output
    found = read_lock(mds / "keepstep.lock")
    assert found.extent_digests is not None
    assert done.stdout.splitlines()[0] == f"lock     {mds}/keepstep.lock"
    assert f"samples  {found.counts.sum()}" in done.stdout
    assert found.digest in done.stdout
    assert not list(mds.glob(".*"))
    again = keepstep("verify", mds)
    assert (again.exit_code, again.stdout) == (0, f"{mds}: whole\n")


def test_a_flipped_byte_of_any_object_is_named(mds: Path) -> None:
    keepstep("lock", mds)
    for path in sorted(mds.glob("shard*")):
        flip_byte(path)
        done = keepstep("verify", mds)
        flip_byte(path)
        assert done.exit_code == 1
        assert f"{path}: found other bytes in [0, " in done.stderr
        assert done.stderr.count("other bytes") == 1  # those before have another tag alone


def test_a_touched_file_is_named_for_its_tag_and_a_lost_one_for_its_name(mds: Path) -> None:
    keepstep("lock", mds)
    first, *_, last = sorted(mds.glob("shard*"))
    first.touch()
    last.unlink()
    done = keepstep("verify", mds)
    assert done.exit_code == 1
    assert f"{first}: found bytes of the recorded digest under the tag " in done.stderr
    assert f"{last}: found no such file" in done.stderr


def test_a_bucket_is_locked_without_reading_it_and_verified_by_its_lock(
    server: S3Server, bucket: list[str]
) -> None:
    for path in (FIXTURES / "megatron" / "many").iterdir():
        server.put(f"mega/{path.name}", path.read_bytes())
    done = keepstep("lock", "s3://mega", *bucket[1:])
    assert done.exit_code == 0, done.output
    assert "without digests; --digests would read" in done.stderr
    assert not [name for name in server.counts()["bytes"] if name.endswith(".bin")]
    checked = keepstep("verify", "mega.lock", *bucket[1:])
    assert (checked.exit_code, checked.stdout) == (0, "mega.lock: whole\n")
    assert "compared sizes and tags of 3 objects, and the bytes of 0 B of" in checked.stderr
    assert not [name for name in server.counts()["bytes"] if name.endswith(".bin")]


def test_an_object_that_changed_in_a_bucket_is_named(server: S3Server, bucket: list[str]) -> None:
    assert keepstep("lock", *bucket, "--digests").exit_code == 0
    name = sorted(path.name for path in (FIXTURES / "mds" / "all").glob("shard*"))[0]
    body = bytearray((FIXTURES / "mds" / "all" / name).read_bytes())
    body[100] ^= 1
    server.put(f"books/{name}", bytes(body))
    done = keepstep("verify", "books.lock", *bucket[1:])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"s3://books/{name}: found other bytes in [0, {len(body)})")
    server.delete(f"books/{name}")
    assert "found no such" in keepstep("verify", "books.lock", *bucket[1:]).stderr


def test_digests_go_on_where_they_were_stopped(
    server: S3Server, bucket: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("keepstep.trainer.commands.datasets.lock.ByteProgress", lambda verb: stopped)
        assert keepstep("lock", *bucket, "--digests").exit_code != 0
    assert not Path("books.lock").exists()
    kept = Path(".books.lock.digests")
    assert kept.exists()
    first = kept.read_text().split('"')[1]
    server.counts(reset=True)
    assert keepstep("lock", *bucket, "--digests").exit_code == 0
    assert server.counts()["bytes"].get(f"books/{first}", 0) < (
        (FIXTURES / "mds" / "all" / first).stat().st_size
    )
    assert not kept.exists()


def test_another_lock_is_kept_unless_it_may_be_replaced(mds: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.lock"
    assert keepstep("lock", mds, "--out", out).exit_code == 0
    assert keepstep("lock", mds, "--out", out).exit_code == 0
    before = out.read_bytes()
    other = keepstep("lock", FIXTURES / "webdataset" / "plain", "--out", out)
    assert isinstance(other.exception, DataError)
    assert out.read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if p.name.endswith("draft")]
    other = keepstep("lock", FIXTURES / "webdataset" / "plain", "--out", out, "--replace")
    assert other.exit_code == 0


def test_a_name_that_speaks_of_its_own_folder_is_refused_elsewhere(
    mds: Path, tmp_path: Path
) -> None:
    done = keepstep("lock", mds, "--out", tmp_path / "keepstep-x.lock")
    assert isinstance(done.exception, DataError)
    assert "do not let it begin with keepstep" in str(done.exception)


def test_raw_arrays_are_locked_by_their_type_twice_alike(tmp_path: Path) -> None:
    np.arange(1000, dtype=np.uint16).tofile(tmp_path / "tokens")
    arguments = ("lock", tmp_path, "--format", "raw", "--dtype", "uint16")
    first, second = keepstep(*arguments), keepstep(*arguments)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "tokens   1,000" in first.stdout
    assert first.stdout == second.stdout


@pytest.mark.parametrize("spoil", [lambda path: flip_byte(path), lambda path: path.unlink()])
def test_a_damaged_lock_is_said_in_one_sentence(
    mds: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
) -> None:
    keepstep("lock", mds)
    spoil(mds / "keepstep.lock")
    monkeypatch.setattr("sys.argv", ["keepstep", "data", "verify", str(mds)])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("keepstep: ")
    assert said.count("\n") == 1


def test_tokens_in_a_bucket_are_verified_by_their_manifest(
    server: S3Server, bucket: list[str], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("some words of no length at all " * 400)
    done = keepstep(
        "prepare", tmp_path / "text.txt", "--out", tmp_path / "out", "--vocabulary-size", 300
    )
    assert done.exit_code == 0, done.output
    for path in (tmp_path / "out").iterdir():
        server.put(f"tokens/{path.name}", path.read_bytes())
    assert keepstep("verify", "s3://tokens", *bucket[1:]).exit_code == 0
    shard = next(path for path in (tmp_path / "out").glob("*.npy"))
    flip_byte(shard)
    server.put(f"tokens/{shard.name}", shard.read_bytes())
    done = keepstep("verify", "s3://tokens", *bucket[1:])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"s3://tokens/{shard.name}: found ")


def test_a_lock_is_signed_with_digests_that_cannot_be_forged(mds: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["key", str(tmp_path / "key")])
    assert made.stdout == f"public key: {tmp_path}/key.pub\n"
    done = keepstep("lock", mds, "--sign", tmp_path / "key")
    assert done.exit_code == 0, done.output
    content = (mds / "keepstep.lock").read_bytes()
    verify_lock(content, (mds / "keepstep.lock.sig").read_bytes(), tmp_path / "key.pub")
    found = read_lock(mds / "keepstep.lock")
    assert found.extent_digests is not None
    assert found.extent_digests.shape[1] == 32
    assert {one.partition(":")[0] for one in found.digests.values()} == {"sha256"}
    assert keepstep("verify", mds).stdout == f"{mds}: whole\n"
    flip_byte(mds / "shard.00000.mds")
    assert keepstep("verify", mds).exit_code == 1


def test_extents_of_a_signed_lock_are_checked_by_sha256_as_they_arrive() -> None:
    check = Check(hashlib.sha256(b"right").digest(), algorithm=STRONG)
    assert check(b"right")
    assert not check(b"wrong")
    assert check.quick == b""
