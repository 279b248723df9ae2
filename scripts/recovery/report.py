"""The table of a bench: medians over the turns, and ratios to plain torchrun of the same turn."""

import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from . import sides

BASE = "torchrun"
Run = dict[str, Any]
COLUMNS = {
    "seconds": ("seconds", ".3f"),
    "x torchrun": ("torchrun / this", ".1f"),
    "all ranks": ("whole_seconds", ".3f"),
    "repeated": ("repeated", "g"),
    "goodput": ("goodput", ".3f"),
    "step": ("step_seconds", ".4f"),
}
LEGEND = (
    "medians; seconds: from SIGKILL of one training process to the next finished step; x torchrun:",
    "so many times as fast; all ranks: to the next step in which none is missing; repeated: steps",
    "done again; goodput: share of a run without kills that a storm leaves; step: seconds, no kill",
)


class Results:
    """Every single run, written to `path` after each; `more` begins with what is there."""

    def __init__(self, path: Path, *, more: bool) -> None:
        self.path = path
        self.runs: list[Run] = []
        self.facts = {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load_average_before": os.getloadavg(),
        }
        self.first_turn = 0
        if more and path.exists():
            held = json.loads(path.read_text())
            self.runs, self.facts = held["runs"], held["facts"]
            self.first_turn = 1 + max((run["turn"] for run in self.runs), default=-1)

    def add(self, run: Run) -> None:
        self.runs.append(run)
        written = {"bench": "recovery", "facts": self.facts, "model": model_facts()}
        written |= {"table": self.table(), "runs": self.runs}
        self.path.parent.mkdir(exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(written, indent=1) + "\n")
        beside.replace(self.path)

    def has_only_failed(self, kind: str, side: str, ranks: int) -> bool:
        """Whether it was tried twice and never came through."""
        found = self.of(kind, side, ranks)
        return len(found) >= 2 and all("failed" in run for run in found)

    def of(self, kind: str, side: str, ranks: int) -> list[Run]:
        asked = (kind, side, ranks)
        return [run for run in self.runs if (run["kind"], run["side"], run["ranks"]) == asked]

    def table(self) -> dict[str, dict[str, Run]]:
        """By side and ranks: medians, all times, and why there is none."""
        names = dict.fromkeys((run["side"], run["ranks"]) for run in self.runs)
        found: dict[str, dict[str, Run]] = {}
        for side, ranks in sorted(names, key=lambda name: name[1]):
            found.setdefault(side, {})[str(ranks)] = self.cell(side, ranks)
        return found

    def cell(self, side: str, ranks: int) -> Run:
        kills, storms = (self.of(kind, side, ranks) for kind in ("kill", "storm"))
        cell: Run = {}
        for key, runs in (
            *((key, kills) for key in ("seconds", "whole_seconds", "repeated", "world_after")),
            *(("step_seconds", kills), ("goodput", storms), ("steps", storms)),
        ):
            values = [run[key] for run in runs if key in run]
            if values:
                cell[key] = {"median": statistics.median(values), "all": values}
        failed = [run["failed"] for run in (*kills, *storms) if "failed" in run]
        if failed:
            cell["failed"] = {"times": len(failed), "first": failed[0]}
        ratios = self.ratios(kills, self.of("kill", BASE, ranks))
        if side != BASE and ratios:
            spread = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
            cell["torchrun / this"] = spread
        return cell

    @staticmethod
    def ratios(runs: list[Run], base: list[Run]) -> list[float]:
        seconds = {run["turn"]: run["seconds"] for run in base if "seconds" in run}
        pairs = [(run, seconds.get(run["turn"])) for run in runs if "seconds" in run]
        return [other / run["seconds"] for run, other in pairs if other]

    def show(self) -> str:
        table, lines = self.table(), list[str]()
        for ranks in sorted({count for row in table.values() for count in row}, key=int):
            lines.append(f"{f'{ranks} ranks':<16}" + "".join(f"{head:>12}" for head in COLUMNS))
            lines += [
                f"{side:<16}{shown(row[ranks])}" for side, row in table.items() if ranks in row
            ]
            for side, row in table.items():
                if failed := row.get(ranks, {}).get("failed"):
                    last = failed["first"].strip().splitlines()[-1]
                    lines.append(f"  {side} failed {failed['times']} time(s): ... {last}")
        return "\n".join([*lines, *LEGEND])


def shown(cell: Run) -> str:
    values = [(cell.get(key, {}).get("median"), form) for key, form in COLUMNS.values()]
    cells = ["-" if value is None else format(value, form) for value, form in values]
    return "".join(f"{cell:>12}" for cell in cells)


def model_facts() -> Run:
    llama = sides.llama
    names = ("VOCABULARY", "LENGTH", "HIDDEN", "INTERMEDIATE", "LAYERS", "HEADS", "KV_HEADS")
    facts: Run = {name.lower(): getattr(llama, name) for name in names}
    return facts | {"parameters": sum(p.numel() for p in llama.Llama().parameters())}
