"""`keepstep checkpoint copy`, `prune` and `tag` on a run's own checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.training import copied

from keepstep.trainer.recovery.chaos import flip_byte

Keepstep = Callable[..., Any]


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def test_copy_moves_a_proven_checkpoint_to_a_new_place(
    keepstep: Keepstep, run: Path, tmp_path: Path
) -> None:
    done = keepstep("copy", run, tmp_path / "backup")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/backup/{names(run)[-1]}\n")
    assert keepstep("verify", tmp_path / "backup").exit_code == 0
    again = keepstep("copy", run, tmp_path / "backup")
    assert again.exit_code == 2
    assert "is there already, and is left as it is" in again.stderr


def test_copy_of_a_damaged_one_is_exit_code_1_and_leaves_nothing(
    keepstep: Keepstep, run: Path, tmp_path: Path
) -> None:
    other = copied(run, tmp_path / "run")
    one = other / "checkpoints" / names(run)[0]
    flip_byte(one / "rank-00001.safetensors")
    done = keepstep("copy", one, tmp_path / "backup")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"keepstep: {one}/rank-00001.safetensors: bytes ")
    assert not any((tmp_path / "backup").glob("*"))


def test_prune_says_what_would_go_and_then_removes_it(
    keepstep: Keepstep, run: Path, tmp_path: Path
) -> None:
    other = copied(run, tmp_path / "run")
    old, new = names(other)
    dry = keepstep("prune", other, "--keep", 1, "--dry-run")
    assert (dry.exit_code, dry.stdout) == (0, f"{other}/checkpoints/{old}: would go\n")
    assert names(other) == [old, new]
    done = keepstep("prune", other, "--keep", 1)
    assert (done.exit_code, done.stdout) == (0, f"{other}/checkpoints/{old}\n")
    assert names(other) == [new]


def test_prune_reads_what_would_stay_and_never_takes_the_only_whole_one(
    keepstep: Keepstep, run: Path, tmp_path: Path
) -> None:
    other = copied(run, tmp_path / "run")
    old, new = names(other)
    flip_byte(other / "checkpoints" / new / "rank-00000.safetensors")
    done = keepstep("prune", other, "--keep", 1)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "it does not count as kept" in done.stderr
    assert names(other) == [old, new]


def test_a_tagged_one_and_multiples_stay(keepstep: Keepstep, run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "run")
    old = names(other)[0]
    assert keepstep("prune", other, "--keep", 1, "--every", 2, "--dry-run").stdout == ""
    assert keepstep("tag", other / "checkpoints" / old, "v1").exit_code == 0
    assert keepstep("prune", other, "--keep", 1).stdout == ""
    assert " v1 " in keepstep("list", other).stdout.splitlines()[2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("prune", "RUN", "--keep", 0), "--keep: found 0, needed 1 or more"),
        (("prune", "ONE"), "found one checkpoint, needed a place"),
        (("copy", "RUN", "ONE"), "found the name of a checkpoint, needed a place"),
        (("tag", "ONE", "a/b"), "tag: found 'a/b', needed letters"),
        (("copy", "RUN", "nothing://there"), "found nothing://, for which fsspec has no file"),
    ],
)
def test_wrong_words_are_exit_code_2(
    keepstep: Keepstep, run: Path, words: tuple[Any, ...], sentence: str
) -> None:
    one = run / "checkpoints" / names(run)[0]
    done = keepstep(*({"RUN": run, "ONE": one}.get(word, word) for word in words))
    assert done.exit_code == 2
    assert sentence in done.stderr
