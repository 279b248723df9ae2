"""What `keepstep init` writes: a project that trains at once, to be changed into one's own."""

from .write import write_project

__all__ = ["write_project"]
