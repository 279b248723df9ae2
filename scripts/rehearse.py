"""A storm over one run: any of its processes is killed, again and again, and what comes out has to
be what an undisturbed run gives, bit for bit.

A small Llama is trained under a real torchrun, once in peace and once under the storm, for each
layout and each way of recovery. From outside are killed (SIGKILL): training processes, their
spares, their warm servers, guardians, and now and then the whole tree; torchrun starts guardians
again, and where it ends itself the same command is given again. Between two kills a step is
finished. The rank that is struck stays the same for a dozen kills, so that the others live through
many generations: their descriptors, threads and memory may not grow. At the end no process may be
left.

    scripts/rehearse --kills 20 --layouts shard2 --ways in_place

With --exact it is sizes that change: runs of parallel.exact=true over random schedules of numbers
of ranks, layouts, endings and kills, each of which has to have the bits of a run on one rank that
nothing happens to.

    scripts/rehearse --exact --schedules 100 --steps 60

To rehearse on a cluster of your own, give its job chaos.plan=[{do:kill,rate:20}] and look at
ledger.json in the run's folder.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.footprint import Footprint, Growth  # noqa: E402
from support.resizing import PRECISIONS, bits_of, resized, schedule, straight  # noqa: E402

MARK = "KEEPSTEP_REHEARSAL"
LAYOUTS = {
    "shard2": (2, ()),
    "hsdp2x2": (4, ("parallel.replicate=2", "parallel.shard=2")),
    "pipeline2": (2, ("parallel.pipeline=2",)),
    "tensor2": (2, ("parallel.tensor=2",)),
}
WAYS = {"in_place": "recovery.in_place=true", "afresh": "recovery.in_place=false"}
# Of a hundred kills. What ends the whole job is rare, or nobody would live long enough to grow.
TARGETS = {"worker": 80, "spare": 8, "warm": 4, "guardian": 4, "tree": 4}
COMMANDS = {"keepstep-worker": "worker", "keepstep-spare": "spare", "keepstep-warm": "warm"}
SAME_RANK_KILLS = 12
STALL_SECONDS, LEAVE_SECONDS = 120.0, 2.0
FEWEST_LOOKS = 8


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    command: str
    rank: int


class Tree:
    """One torchrun and all that comes of it, found by a word in their environment, so that an
    orphan is seen wherever it was adopted."""

    def __init__(self, command: list[str], log: Path, mark: str) -> None:
        self.mark = f"{MARK}={mark}".encode()
        self.variables = {**os.environ, "OMP_NUM_THREADS": "1", MARK: mark}
        self.command, self.log = command, log
        self.torchrun: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.torchrun = subprocess.Popen(
                self.command, env=self.variables, cwd=self.log.parent, stdout=log, stderr=log
            )

    def poll(self) -> int | None:
        assert self.torchrun is not None
        return self.torchrun.poll()

    def processes(self) -> list[Process]:
        return list(self._found())

    def _found(self) -> Iterator[Process]:
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if not entry.name.isdigit():
                    continue
                words = (entry / "environ").read_bytes().split(b"\0")
                if self.mark not in words:
                    continue
                command, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
                state, parent = rest.split()[:2]
                ranks = [int(one[5:]) for one in words if one.startswith(b"RANK=")]
                if state != "Z":
                    yield Process(int(entry.name), int(parent), command, (ranks or [-1])[0])

    def roles(self) -> dict[str, dict[int, int]]:
        """Process ids by what a process is, and by rank."""
        assert self.torchrun is not None
        found: dict[str, dict[int, int]] = defaultdict(dict)
        every = {one.pid: one for one in self.processes()}
        for one in every.values():
            if one.parent == self.torchrun.pid:
                found["guardian"][one.rank] = one.pid
            elif one.parent in every:
                is_of_spare = every[one.parent].command in ("keepstep-spare", "keepstep-worker")
                role = COMMANDS.get(one.command)
                if role and not is_of_spare:
                    found[role][one.rank] = one.pid
        return found

    def kill(self) -> None:
        """SIGKILL to every process of it, until there is none."""
        deadline = time.monotonic() + 10
        while (found := self.processes()) and time.monotonic() < deadline:
            for one in found:
                kill(one.pid)
            if self.torchrun is not None:
                self.torchrun.poll()
            time.sleep(0.01)
        if self.torchrun is not None:
            self.torchrun.wait(10)

    def left(self) -> list[str]:
        """What still runs some time after torchrun has ended."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while (found := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [f"{one.command} of rank {one.rank}" for one in found]


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@dataclass(slots=True)
class Storm:
    """The kills of one run, one after the other, each after a finished step."""

    tree: Tree
    run: Path
    ranks: int
    kills: int
    dice: random.Random
    limit_seconds: float
    struck: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    looks: dict[tuple[str, int], list[Footprint]] = field(default_factory=lambda: defaultdict(list))
    trouble: str = ""
    _rank: int = 0
    _lines: int = 0

    def pass_over(self) -> None:
        """Until the run is finished, or something does not come back. Blocks."""
        deadline, stalls_at = time.monotonic() + self.limit_seconds, None
        code: int | None = 1
        while code != 0:
            now = time.monotonic()
            if code is not None:
                self.tree.start()
                self.starts += 1
                stalls_at = now + STALL_SECONDS
            if self._has_stepped():
                stalls_at = now + STALL_SECONDS
                if self.struck.total() < self.kills:
                    self._strike()
            if now > deadline or (stalls_at and now > stalls_at):
                is_late = now > deadline
                self.trouble = f"{'not finished' if is_late else 'no step'} in time"
                return
            time.sleep(0.02)
            code = self.tree.poll()

    def _has_stepped(self) -> bool:
        return count_lines(self.run / "metrics.jsonl") > self._lines

    def _strike(self) -> None:
        time.sleep(self.dice.uniform(0.1, 0.6))
        roles = self.tree.roles()
        self._look(roles)
        if self.struck.total() % SAME_RANK_KILLS == 0:
            self._rank = self.dice.randrange(self.ranks)
        (target,) = self.dice.choices(list(TARGETS), list(TARGETS.values()))
        if target == "tree":
            self.tree.kill()
        elif self._rank in roles[target]:
            kill(roles[target][self._rank])
        else:  # between two lives: the next finished step is another try
            return
        self.struck[target] += 1
        time.sleep(0.02)  # a step that was all but written
        self._lines = count_lines(self.run / "metrics.jsonl")

    def _look(self, roles: dict[str, dict[int, int]]) -> None:
        for role in ("guardian", "warm", "worker"):
            for pid in roles[role].values():
                if (found := Footprint.of(pid)) is not None:
                    self.looks[role, pid].append(found)

    def growth(self) -> dict[str, dict[str, Any]]:
        """Of each role the process that was looked at most: what it held at first and at last."""
        found = {}
        for role in ("guardian", "warm", "worker"):
            longest = max((s for (r, _), s in self.looks.items() if r == role), key=len, default=[])
            if len(longest) >= FEWEST_LOOKS:
                grown = Growth.over(longest)
                found[role] = {
                    "looks": len(longest),
                    "first": asdict(grown.first),
                    "last": asdict(grown.last),
                    "is_flat": grown.is_flat,
                    "private_kib": [one.private_kib for one in longest],
                }
        return found


def count_lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def command(folder: Path, run: Path, layout: str, *more: str, steps: int) -> list[str]:
    """torchrun of a small Llama in that layout, one sample of 64 tokens a rank."""
    ranks, degrees = LAYOUTS[layout]
    torchrun = [
        str(Path(sys.executable).parent / "torchrun"),
        "--standalone",
        "--max-restarts=1000",
    ]
    small = (
        *("model.num_layers=2", "model.hidden_size=64", "model.intermediate_size=128"),
        *("model.num_heads=4", "model.num_kv_heads=2"),
        *(f"data.path={folder / 'words.txt'}", "data.vocabulary_size=300"),
        *("data.sequence_length=64", f"data.cache.folder={folder / 'cache'}"),
        *(f"train.steps={steps}", "train.eval_every=0", "train.sample_tokens=0"),
        "train.eval_samples=8",
        *(f"train.batch_samples={ranks}", "train.microbatch_samples=1"),
        *("checkpoint.every_steps=50", "checkpoint.every_seconds=0", "parallel.device=cpu"),
        *("recovery.max_recoveries=100000", "telemetry.progress=false", f"run.dir={run}"),
    )
    words = [f"--nproc-per-node={ranks}", "-m", "keepstep.trainer", *small, *degrees, *more]
    return [*torchrun, *words]


def write_words(path: Path) -> None:
    """Some 200 kB of words to learn, the same each time."""
    dice = random.Random(0)
    letters = "etaoinshrdlu"
    known = ["".join(dice.choices(letters, k=dice.randint(2, 7))) for _ in range(500)]
    path.write_text("\n".join(" ".join(dice.choices(known, k=12)) for _ in range(4000)))


def undisturbed(folder: Path, layout: str, steps: int) -> str:
    """The state digest of the run that nothing happens to."""
    run = folder / f"{layout}-undisturbed"
    tree = Tree(command(folder, run, layout, steps=steps), folder / f"{run.name}.log", str(run))
    try:
        tree.start()
        assert tree.torchrun is not None
        if tree.torchrun.wait(600) != 0:
            raise SystemExit(f"{layout}: the undisturbed run failed\n{tail(tree.log)}")
    finally:
        tree.kill()
    return digest_of(run)


def digest_of(run: Path) -> str:
    return str(json.loads((run / "summary.json").read_text())["state_digest"])


def tail(path: Path) -> str:
    return path.read_text(errors="replace")[-3000:]


def rehearse(folder: Path, layout: str, way: str, asked: argparse.Namespace, digest: str) -> Any:
    """One run under a storm, and what came of it."""
    run, ranks = folder / f"{layout}-{way}", LAYOUTS[layout][0]
    # So slow that the kills fit into the run's steps.
    slow = (
        f"chaos.plan=[{{do:slow,rank:0,step:0,steps:{asked.steps},seconds:{asked.step_seconds}}}]"
    )
    words = command(folder, run, layout, WAYS[way], slow, steps=asked.steps)
    tree = Tree(words, folder / f"{run.name}.log", str(run))
    dice = random.Random(f"{asked.seed} {layout} {way}")
    storm = Storm(tree, run, ranks, asked.kills, dice, asked.limit_seconds)
    begun = time.monotonic()
    try:
        storm.pass_over()
        left = tree.left() if not storm.trouble else []
    finally:
        tree.kill()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    back = [one["seconds"] for one in events if one["kind"] == "recovery"]
    ledger = json.loads((run / "ledger.json").read_text())
    booked = sum(ledger["seconds"].values())
    is_equal = not storm.trouble and digest_of(run) == digest
    growth = storm.growth()
    return {
        "layout": layout,
        "way": way,
        "steps": asked.steps,
        "kills": dict(storm.struck),
        "starts_of_torchrun": storm.starts,
        "recoveries": len(back),
        "recovery_seconds_median": round(statistics.median(back), 3) if back else None,
        "seconds": round(time.monotonic() - begun, 1),
        "is_equal": is_equal,
        "left_behind": left,
        "is_flat": all(one["is_flat"] for one in growth.values()),
        "growth": growth,
        "ledger": {name: round(seconds, 2) for name, seconds in ledger["seconds"].items()},
        "goodput": round(ledger["seconds"]["step"] / booked, 4) if booked else None,
        "trouble": storm.trouble and f"{storm.trouble}\n{tail(tree.log)}",
        "events": dict(Counter(one["kind"] for one in events)),
    }


def is_well(found: dict[str, Any]) -> bool:
    return found["is_equal"] and found["is_flat"] and not found["left_behind"]


def show(found: dict[str, Any]) -> None:
    """A few lines of what one storm has shown, its ledger among them."""
    kills = ", ".join(f"{count} {name}" for name, count in found["kills"].items())
    state = "equal, bit for bit" if found["is_equal"] else f"NOT EQUAL {found['trouble']}"
    print(
        f"{found['layout']:>10} {found['way']:<9} kills: {sum(found['kills'].values())} ({kills})"
    )
    print(f"{'':20} state: {state}; left behind: {found['left_behind'] or 'nothing'}")
    print(
        f"{'':20} {found['recoveries']} recoveries, median {found['recovery_seconds_median']} s; "
        f"torchrun started {found['starts_of_torchrun']} times; {found['seconds']} s in all"
    )
    for role, grown in found["growth"].items():
        parts = ", ".join(
            f"{name} {grown['first'][name]} -> {grown['last'][name]}" for name in grown["first"]
        )
        verdict = "flat" if grown["is_flat"] else "GREW"
        print(f"{'':20} {role} over {grown['looks']} kills, {verdict}: {parts}")
    spent = ", ".join(f"{name} {seconds}" for name, seconds in found["ledger"].items() if seconds)
    print(f"{'':20} ledger (s): {spent}; goodput {found['goodput']}", flush=True)


def rehearse_exact(asked: argparse.Namespace) -> int:
    """Random schedules over exact runs of all precisions; the exit code. Those that the result file
    already has are not run again, so a rehearsal that was ended goes on where it was."""
    path = asked.result.with_name("rehearse_exact.json")
    results = json.loads(path.read_text()) if path.exists() else []
    results = [one for one in results if (one["seed"], one["steps"]) == (asked.seed, asked.steps)]
    done = {(one["precision"], one["number"]) for one in results}
    wanted: dict[str, Any] = {}
    for number in range(asked.schedules // len(PRECISIONS)):
        for precision in PRECISIONS:
            if (precision, number) in done:
                continue
            if precision not in wanted:
                with tempfile.TemporaryDirectory(prefix="keepstep-rehearse-") as folder:
                    ran = straight(Path(folder), precision, steps=asked.steps)
                    wanted[precision] = bits_of(ran)
            one = one_schedule(asked, precision, number, wanted[precision])
            results.append(one)
            state = "equal, bit for bit" if one["is_equal"] else f"NOT EQUAL {one['trouble']}"
            print(f"{precision} {number}: {state}; {'; '.join(one['parts'])}", flush=True)
            path.write_text(json.dumps(results, indent=1) + "\n")
    equal = sum(one["is_equal"] for one in results)
    print(f"{equal} of {len(results)} schedules have the bits of {asked.steps} undisturbed steps")
    return 0 if equal == len(results) else 1


def one_schedule(
    asked: argparse.Namespace, precision: str, number: int, wanted: dict[str, Any]
) -> dict[str, Any]:
    """What came of a schedule that its seed, precision and number give."""
    dice = random.Random(f"{asked.seed} {precision} {number}")
    parts = schedule(dice, steps=asked.steps)
    begun, folder, trouble = time.monotonic(), tempfile.mkdtemp(prefix="keepstep-rehearse-"), ""
    try:
        ran = resized(Path(folder), parts, precision, steps=asked.steps, dice=dice)
        is_equal = bits_of(ran) == wanted
    except AssertionError as error:
        is_equal, trouble = False, str(error)
    if is_equal:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        trouble += f"\nits folder is {folder}"
    return {
        "precision": precision,
        "number": number,
        "seed": asked.seed,
        "steps": asked.steps,
        "parts": [str(part) for part in parts],
        "is_equal": is_equal,
        "trouble": trouble,
        "seconds": round(time.monotonic() - begun, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--step-seconds", type=float, default=0.1, help="by which a step is slowed")
    parser.add_argument("--layouts", default=",".join(LAYOUTS))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-seconds", type=float, default=3600.0, help="of each storm")
    result = ROOT / "scripts" / "results" / "rehearse.json"
    parser.add_argument("--result", type=Path, default=result)
    parser.add_argument("--keep", type=Path, help="folder for the runs; default: a passing one")
    parser.add_argument("--exact", action="store_true", help="schedules of sizes, not a storm")
    parser.add_argument("--schedules", type=int, default=100, help="of --exact")
    asked = parser.parse_args()
    if asked.exact:
        raise SystemExit(rehearse_exact(asked))
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="keepstep-rehearse-"))
    folder.mkdir(parents=True, exist_ok=True)
    write_words(folder / "words.txt")
    results = []
    try:
        for layout in asked.layouts.split(","):
            digest = undisturbed(folder, layout, asked.steps)
            for way in asked.ways.split(","):
                results.append(rehearse(folder, layout, way, asked, digest))
                show(results[-1])
                asked.result.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        if not asked.keep:
            shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(0 if all(map(is_well, results)) else 1)


if __name__ == "__main__":
    main()
