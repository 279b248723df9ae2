"""What became of the jobs of a sweep: a file each in the sweep's folder, one table at the end.

Files and not memory, since a launcher may run jobs in other processes and on other machines.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import xxhash
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .recovery.verdict import EXIT_FINISHED
from .telemetry.files import write_atomically

_FILE = "sweep.json"
_NUMBERS = ("eval_loss", "final_loss", "tokens_per_second", "goodput")
_COLUMNS = ("job", "overrides", "eval loss", "final loss", "tokens/s", "goodput", "code", "folder")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one job ended; numbers are of its summary, and None without one."""

    job: int
    overrides: list[str]
    code: int
    folder: str | None = None
    """Of the run; None where its settings were refused."""
    reason: str | None = None
    """What was refused, in a sentence."""
    eval_loss: float | None = None
    final_loss: float | None = None
    tokens_per_second: float | None = None
    goodput: float | None = None


def outcome_of(job: int, overrides: Sequence[str], code: int, folder: Path) -> Outcome:
    """The outcome of a job that has run in `folder`."""
    found = _summary(folder) if code == EXIT_FINISHED else {}
    numbers = {name: found.get(name) for name in _NUMBERS}
    return Outcome(job=job, overrides=list(overrides), code=code, folder=str(folder), **numbers)


def _summary(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def ranked(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The best first: by the held-out loss where every finished job has one, else by the last
    step's; those that did not finish behind them, in the order of their numbers."""
    done = [one for one in outcomes if one.code == EXIT_FINISHED]
    has_eval = all(one.eval_loss is not None for one in done)

    def loss(one: Outcome) -> float:
        found = one.eval_loss if has_eval else one.final_loss
        return float("inf") if found is None else found

    rest = [one for one in outcomes if one.code != EXIT_FINISHED]
    return [*sorted(done, key=lambda one: (loss(one), one.job)), *sorted(rest, key=lambda x: x.job)]


@final
class Sweep:
    """The folder of a sweep: of the same command the same, whenever it is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # jobs may be run elsewhere

    @classmethod
    def of(cls, argv: Sequence[str]) -> "Sweep":
        """The sweep that a command line asks for."""
        name = xxhash.xxh3_64_hexdigest("\n".join(sorted(argv)).encode())[:8]
        return cls(Path("runs") / f"sweep-{name}")

    def open(self) -> None:
        """Forgets what an earlier start of the sweep left."""
        for path in self._files():
            path.unlink()

    def note(self, outcome: Outcome) -> None:
        """Keeps what became of a job, in the process that ran it."""
        text = json.dumps(asdict(outcome))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / f"job-{outcome.job:04d}.json", text)

    def close(self, console: Console) -> list[Outcome]:
        """Writes sweep.json and prints the table; the outcomes, the best first. Nothing where no
        job has begun."""
        found = ranked([Outcome(**json.loads(path.read_text())) for path in self._files()])
        if not found:
            return []
        rows = [{**asdict(one), "best": _is_best(found, one)} for one in found]
        write_atomically(self.folder / _FILE, json.dumps(rows, indent=2) + "\n")
        draw(found, console)
        console.print(f"sweep: {self.folder / _FILE}", highlight=False, soft_wrap=True)
        return found

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("job-*.json"))


def _is_best(found: Sequence[Outcome], one: Outcome) -> bool:
    return one is found[0] and one.code == EXIT_FINISHED


def draw(found: Sequence[Outcome], console: Console) -> None:
    """Prints a line a job, with what tells it from the others, and why settings were refused."""
    shared = set.intersection(*(set(one.overrides) for one in found)) if len(found) > 1 else set()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", *_COLUMNS):
        is_number = name in _COLUMNS[2:7] or name == "job"
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for one in found:
        table.add_row(
            *("best" if _is_best(found, one) else "", str(one.job)),
            escape(" ".join(word for word in one.overrides if word not in shared)),
            *(_shown(value, ".4f") for value in (one.eval_loss, one.final_loss)),
            *(_shown(one.tokens_per_second, ",.0f"), _shown(one.goodput, ".0%")),
            *(str(one.code), escape(one.folder or "-")),
            style="" if one.code == EXIT_FINISHED else "red",
        )
    console.print(table)
    for one in found:
        if one.reason:
            console.print(f"job {one.job}: {one.reason}", markup=False, soft_wrap=True)


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
