"""Which code, configuration, data and machine made what: `lineage.json` in the run's folder, with a
record a job, and what of them each checkpoint's manifest carries. Plain JSON, no secrets.
"""

import contextlib
import getpass
import hashlib
import json
import platform
import socket
import subprocess
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .files import write_atomically
from .scrub import scrub

LINEAGE = "lineage.json"
FORMAT = 1
_GIT_SECONDS = 10
_CODE_BYTES = 2**20
_PACKAGES = ("torch", "numpy", "keepstep", "safetensors", "tokenizers", "transformers", "torchao")


def read_lineage(folder: Path) -> dict[str, Any]:
    """The run's lineage so far; empty where there is none that can be read."""
    try:
        found = json.loads((folder / LINEAGE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run_id_of(folder: Path) -> str:
    """The run's id, 32 hexadecimal digits: drawn by its first job, kept in the folder, the same for
    ever. The folder must exist and be this job's."""
    known = read_lineage(folder)
    if "run_id" not in known:
        known = {"format": FORMAT, "run_id": uuid.uuid4().hex, "ancestry": [], "jobs": []}
        _write(folder, known)
    return str(known["run_id"])


def note_surroundings(folder: Path) -> None:
    """Rank 0's guardian, before a job begins: what `surroundings` finds, for the training process,
    which may be killed at any moment and should leave no git behind."""
    run_id_of(folder)
    _write(folder, {**read_lineage(folder), "surroundings": surroundings()})


def add_job(folder: Path, record: dict[str, Any], ancestry: list[dict[str, Any]]) -> None:
    """Appends a job's record, unless it is there; `ancestry` is what the first one began from."""
    run_id_of(folder)
    known = read_lineage(folder)
    if any(job["time"] == record["time"] for job in known["jobs"]):
        return
    if not known["jobs"]:
        known["ancestry"] = ancestry
    known["jobs"].append({"job": len(known["jobs"]), **record})
    _write(folder, known)


def segments(known: dict[str, Any], started: float) -> list[dict[str, Any]]:
    """How the state of the job that began at `started` came to be, oldest first: each earlier job
    with the steps and samples of it that count, then this one's record, which is still open."""
    jobs = [job for job in known.get("jobs", []) if job["time"] <= started]
    if not jobs:
        return []
    later, found = jobs[-1], [dict(jobs[-1])]
    for job in reversed(jobs[:-1]):
        if job["from_step"] < later["from_step"]:  # else all of it was done again
            ends = {"to_step": later["from_step"], "to_sample": later["from_sample"]}
            found.append({**job, **ends})
            later = job
    run_id = known["run_id"]
    return [*known["ancestry"], *({"run_id": run_id, **one} for one in reversed(found))]


def folded(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Segments in short: each says only what it does not have in common with the one before."""
    short, before = [], dict[str, Any]()
    for one in found:
        gone = {key: None for key in before.keys() - one.keys()}
        short.append({key: v for key, v in {**one, **gone}.items() if before.get(key) != v})
        before = one
    return short


def unfolded(short: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The opposite of `folded`."""
    found: list[dict[str, Any]] = []
    for one in short:
        whole = {**(found[-1] if found else {}), **one}
        found.append({key: value for key, value in whole.items() if value is not None})
    return found


def surroundings() -> dict[str, Any]:
    """Who makes something, where, with which code and which versions. Runs git, which may take a
    while in a large working tree."""
    return {
        "user": _user(),
        "host": socket.gethostname(),
        "code": code(),
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
    }


def code(folder: Path | None = None) -> dict[str, Any]:
    """The commit of the working folder, whether files differ from it, and a digest of how: of
    `git diff HEAD` and the names and bytes of untracked files, of large ones, which are data, the
    size alone. Empty outside a repository."""
    commit = _git("rev-parse", "HEAD", folder=folder)
    if commit is None:
        return {}
    diff = _git("diff", "HEAD", "--binary", folder=folder)
    new = _git("ls-files", "--others", "--exclude-standard", "-z", folder=folder)
    remote = _git("config", "--get", "remote.origin.url", folder=folder)
    found: dict[str, Any] = {"commit": commit.decode().strip()}
    if diff is None or new is None:  # too large to be looked at in time
        found["is_dirty"] = None
    else:
        found["is_dirty"] = bool(diff or new)
        if found["is_dirty"]:
            found["diff_digest"] = _dirt(diff, new, folder or Path())
    if remote:
        found["remote"] = scrub(remote.decode().strip())
    return found


def _dirt(diff: bytes, names: bytes, folder: Path) -> str:
    known = hashlib.sha256(diff)
    for name in sorted(filter(None, names.split(b"\0"))):
        known.update(name + b"\0")
        with contextlib.suppress(OSError):
            path = folder / name.decode(errors="surrogateescape")
            if path.is_file():
                size = path.stat().st_size
                is_code = size <= _CODE_BYTES
                known.update(
                    hashlib.sha256(path.read_bytes() if is_code else b"%d" % size).digest()
                )
    return known.hexdigest()


def _git(*words: str, folder: Path | None) -> bytes | None:
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, timeout=_GIT_SECONDS, cwd=folder
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _user() -> str | None:
    with contextlib.suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _write(folder: Path, known: dict[str, Any]) -> None:
    write_atomically(folder / LINEAGE, json.dumps(known, indent=1) + "\n")
