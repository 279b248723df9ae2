"""A whole job on a terminal: its worker is killed, and the terminal is as it was."""

import contextlib
import os
import pty
import sys
from pathlib import Path

import pytest
from support.job import overrides, tiny
from support.terminal import Terminal

from keepstep.trainer import Trainer
from keepstep.trainer.compose import compose
from keepstep.trainer.recovery.preload import preload
from keepstep.trainer.supervise import run


def on_terminal(words: list[str]) -> tuple[int, Terminal]:
    """The exit code of a job of one rank whose output is a terminal, and what that got."""
    preload()
    compose()
    pid, fd = pty.fork()
    if pid == 0:
        code = 111
        try:
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            code = run(Trainer.fit, tiny(0.02), words)
        finally:
            sys.stdout.flush()
            os._exit(code)
    got = []
    with contextlib.suppress(OSError):  # the other side is closed
        while piece := os.read(fd, 2**16):
            got.append(piece)
    os.close(fd)
    terminal = Terminal()
    terminal.write(b"".join(got).decode().replace("\r\n", "\n"))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), terminal


@pytest.mark.slow
@pytest.mark.parametrize("enabled", ["true", "false"])
def test_a_terminal_shows_the_run_and_is_left_whole(
    enabled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    plan = "chaos.plan=[{do:kill,rank:0,step:15}]" if enabled == "true" else "chaos.plan=[]"
    words = overrides(
        tmp_path / "run", plan, f"recovery.enabled={enabled}", steps=30, save_every=10
    )
    code, terminal = on_terminal(words)
    text = terminal.getvalue()
    assert code == 0, text
    assert text.count("tokens/s ") > 3  # frames were drawn
    assert "\x1b[?25l" not in text
    lines, (row, column) = terminal.see()
    assert column == 0
    assert row == len(lines)  # nothing lies below the cursor
    said = "\n".join(lines)
    assert f"finished: {tmp_path / 'run'}" in said
    assert said.count("step 30/30") == 1
    assert said.count("tokens/s ") == 1  # the last frame; those before were taken off
    assert "saved step 10: " in said
    if enabled == "true":
        failed, recovered = said.index("rank 0 failed at step 15"), said.index("recovered ")
        assert failed < recovered < said.index("step 30/30")
