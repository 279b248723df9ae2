"""The command `keepstep`: one file a sub-command, each a thin face over a room."""

from .app import main

__all__ = ["main"]
