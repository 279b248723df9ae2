"""How a run stands follows from what its job wrote and from what the kernel says."""

from typing import Any

import pytest

from keepstep.trainer.telemetry.alive import Presence
from keepstep.trainer.telemetry.reading.status import State, judge

FAILURE = {"time": 110.0, "kind": "failure", "step": 7, "reason": "killed by SIGKILL"}
RECOVERY = {"time": 111.0, "kind": "recovery", "step": 8}
STOP = {"time": 112.0, "kind": "stop", "step": None, "reason": "SIGTERM"}
OLD_END = {"time": 90.0, "kind": "end", "step": 3, "code": 75, "reason": ""}


def end(code: int, reason: str = "") -> dict[str, Any]:
    return {"time": 120.0, "kind": "end", "step": 9, "code": code, "reason": reason}


def job(is_alive: bool | None, silent_seconds: float = 3.0) -> Presence:
    return Presence(host="node7", begun=100.0, is_alive=is_alive, silent_seconds=silent_seconds)


@pytest.mark.parametrize(
    ("events", "alive", "state", "why"),
    [
        ([end(0)], False, State.finished, "all steps done"),
        ([end(0)], True, State.finished, "all steps done"),
        ([STOP, end(75)], False, State.preempted, "asked to end by SIGTERM, saved at step 9"),
        ([end(1, "max_recoveries: found 3")], False, State.failed, "max_recoveries: found 3"),
        ([FAILURE, end(1)], False, State.failed, "killed by SIGKILL"),
        ([OLD_END], True, State.running, ""),
        ([FAILURE], True, State.running, "failure at step 7: killed by SIGKILL"),
        ([FAILURE, RECOVERY], True, State.running, "1 recovery"),
    ],
)
def test_a_job_that_lives_or_has_said_its_end(
    events: list[dict[str, Any]], alive: bool, state: State, why: str
) -> None:
    assert judge(events, job(alive)) == (state, why)


def test_a_job_that_is_gone_without_a_word_is_lost() -> None:
    state, why = judge([OLD_END, RECOVERY], job(False, 65.0))
    assert state is State.lost
    assert why == (
        "its processes on node7 are gone without a word, 1m05s ago; last event: recovery at step 8"
    )


def test_of_another_machine_only_silence_is_known() -> None:
    assert judge([], job(None, 5.0)) == (State.running, "on node7, wrote 5s ago")
    assert judge([], job(None, 90.0)) == (State.silent, "node7 has written nothing for 1m30s")


def test_a_run_of_before_is_finished_only_if_it_says_so() -> None:
    assert judge([{"time": 1.0, "kind": "finish"}], None)[0] is State.finished
    assert judge([RECOVERY], None) == (State.unknown, "")
