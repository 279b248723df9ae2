"""Children of the test process: forked, run, and ended by their process id."""

import gc
import os
import signal
import traceback
from collections.abc import Callable


def fork(body: Callable[[], object]) -> int:
    """Runs `body` in a child, which exits 0, or 1 with a traceback on stderr; the process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    gc.freeze()
    try:
        body()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait_for(pid: int, alarm_seconds: int = 30) -> int:
    """A child's exit status, minus the signal where one ended it. Never longer than the alarm."""

    def stop(*_: object) -> None:
        os.kill(pid, signal.SIGKILL)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(alarm_seconds)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
