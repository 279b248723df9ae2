"""What a peer's process tells scripts/bench_recovery: that it trains, and each step it finished."""

import json
import os
from pathlib import Path

NAME = "bench-worker"


def may_be_killed() -> None:
    """Gives the process the name by which the bench finds those that train."""
    Path("/proc/self/comm").write_text(NAME)


class Steps:
    """Lines of steps.jsonl in `folder`, each written at once; several processes may write."""

    def __init__(self, folder: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.file = os.open(folder / "steps.jsonl", flags, 0o644)

    def write(self, *, step: int, generation: int, world: int) -> None:
        """`step` is finished; `generation` grows with each recovery; `world` took part in it."""
        line = {"step": step, "generation": generation, "world": world}
        os.write(self.file, (json.dumps(line) + "\n").encode())

    def close(self) -> None:
        os.close(self.file)
