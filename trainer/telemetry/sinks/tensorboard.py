"""TensorBoard event files. What an earlier process wrote beyond the kept place is purged by
TensorBoard's own rule, so that no step shows twice."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from torch.utils.tensorboard import SummaryWriter

from .config import TensorBoardConfig
from .sink import Ending, Line, RunFacts, numbers

_SHOWN = ("failure", "hang", "recovery", "rollback", "skip", "preemption", "finish")


@final
class TensorBoardSink:
    """Scalars under the names of metrics.jsonl, the configuration and events as text."""

    replays = False

    def __init__(self, config: TensorBoardConfig) -> None:
        self._config = config
        self._writer: SummaryWriter | None = None
        self._step = 0

    def open(self, run: RunFacts, memory: dict[str, Any], last_step: int) -> None:
        folder = Path(self._config.dir) if self._config.dir else run.folder / "tensorboard"
        self._step = last_step
        self._writer = SummaryWriter(str(folder), purge_step=last_step + 1)
        if not memory.get("is_described"):
            rows = "\n".join(f"|{key}|`{value}`|" for key, value in run.settings.items())
            self._writer.add_text("run", f"|key|value|\n|-|-|\n{rows}", 0)
            memory["is_described"] = True
        self._flush()

    def metrics(self, lines: Sequence[Line]) -> None:
        assert self._writer is not None
        for line in lines:
            self._step = int(line["step"])
            for name, value in numbers(line).items():
                self._writer.add_scalar(name, value, self._step, line.get("time") or time.time())
        self._flush()

    def events(self, lines: Sequence[Line]) -> None:
        assert self._writer is not None
        for line in lines:
            if line["kind"] == "eval":
                self._writer.add_scalar("eval_loss", line["loss"], line["step"], line["time"])
            elif line["kind"] in _SHOWN:
                words = json.dumps(line)
                self._writer.add_text(f"event/{line['kind']}", words, line["step"], line["time"])
        self._flush()

    def finish(self, ending: Ending) -> None:
        self._flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        assert self._writer is not None
        self._writer.flush()


SINK = TensorBoardSink
