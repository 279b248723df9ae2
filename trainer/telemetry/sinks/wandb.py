"""A run of Weights & Biases, online or as a folder for `wandb sync`; the same run in every job."""

import json
from collections.abc import Sequence
from typing import Any, final

import wandb

from .config import WandbConfig
from .sink import Ending, Line, RunFacts, numbers


@final
class WandbSink:
    """Its id is the run's own, so that a resumed run goes on in the same chart."""

    replays = False

    def __init__(self, config: WandbConfig) -> None:
        self._config = config
        self._run: Any = None
        self._folder: Any = None
        self._evaluated: dict[str, float] = {}

    def open(self, run: RunFacts, memory: dict[str, Any], last_step: int) -> None:
        memory["id"] = run.run_id
        self._folder = run.folder
        self._run = wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            id=run.run_id,
            name=run.name,
            config=run.settings,
            mode=self._config.mode.value,
            dir=str(run.folder.resolve()),
            resume="allow",
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, x_disable_stats=True
            ),
        )

    def metrics(self, lines: Sequence[Line]) -> None:
        for line in lines:
            row = {**numbers(line), **self._evaluated}
            self._run.log(row, step=int(line["step"]), commit=True)
            self._evaluated = {}
        # W&B takes lines without an answer; this question is answered once it has them, in a
        # process of its own that outlives ours.
        assert self._run.step > int(lines[-1]["step"])

    def events(self, lines: Sequence[Line]) -> None:
        for line in lines:
            if line["kind"] == "eval":
                # W&B takes no step but the next: it goes with the line that follows
                self._evaluated = {"eval_loss": line["loss"], "eval_step": line["step"]}
                self._run.summary.update(self._evaluated)
            if line["kind"] in ("failure", "hang", "recovery", "rollback", "preemption"):
                self._run.summary[f"last_{line['kind']}"] = json.dumps(line)

    def finish(self, ending: Ending) -> None:
        path = self._folder / "summary.json"
        if ending is Ending.finished and path.exists():
            self._run.summary.update(numbers(json.loads(path.read_text())))
        self._run.summary["ending"] = ending.value
        self._run.finish(exit_code=0 if ending is Ending.finished else 1)
        self._run = None

    def close(self) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            run.finish(exit_code=1)


SINK = WandbSink
