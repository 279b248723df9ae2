"""A process that makes the results it is told to, one after another: "survey 12" -> a line of JSON.

Numbers come in and verdicts go out; the results themselves are files. Starts no process.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from functools import cached_property
from pathlib import Path
from typing import IO, Any, final

from ..errors import DataError
from .job import TOKENIZER, Job, load_job
from .stages.assemble import finish, write_shard
from .stages.decide import decide
from .stages.encode import encode
from .stages.survey import survey
from .tokenizer import Tokenizer

_PR_SET_PDEATHSIG = 1


@final
class Runner:
    """Makes results of a job in this process."""

    def __init__(self, job: Job, *, is_alone: bool) -> None:
        self._job = job
        self._is_alone = is_alone

    def run(self, stage: str, number: int) -> None:
        """Makes one result, which then is there whole.

        Raises:
            DataError: the text or a setting cannot be used.
            OSError: a file cannot be read or written.
        """
        if stage == "survey":
            survey(self._job, number)
        elif stage == "decide":
            decide(self._job, number)
        elif stage == "encode":
            encode(self._job, number, self._tokenizer, is_alone=self._is_alone)
        elif stage == "shard":
            write_shard(self._job, number)
        else:
            finish(self._job, number, self._tokenizer)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self._job.work / TOKENIZER)


def serve(job: Job, orders: IO[bytes], verdicts: IO[bytes]) -> None:
    """Obeys until the orders end, which they also do when who gives them is gone."""
    runner = Runner(job, is_alone=False)
    for line in orders:
        stage, number = line.split()
        try:
            runner.run(stage.decode(), int(number))
            verdict: dict[str, Any] = {"done": int(number)}
        except DataError as error:
            verdict = {"kind": "data", "text": str(error)}
        except OSError as error:
            verdict = {"kind": "os", "errno": error.errno, "text": error.strerror or str(error)}
        except Exception:
            verdict = {"kind": "fault", "text": traceback.format_exc()}
        verdicts.write(json.dumps(verdict).encode() + b"\n")
        verdicts.flush()


def die_with(parent: int) -> None:
    """Has the kernel end this process when `parent` is gone, on Linux; elsewhere it ends at the
    next order. Interrupts from the keyboard are the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Entry of a worker that is started anew: its arguments are a work folder and its parent."""
    die_with(int(sys.argv[2]))
    verdicts = os.fdopen(os.dup(1), "wb")
    # A word that a library prints must not be taken for a verdict.
    os.dup2(2, 1)
    with os.fdopen(os.dup(0), "rb") as orders:
        serve(load_job(Path(sys.argv[1])), orders, verdicts)
