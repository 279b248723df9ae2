"""What ends a run, or one life of it, on purpose.

ValueError    <- ConfigError        a setting is wrong: exit code 2, one sentence
RuntimeError  <- StoppedError       the run cannot go on: exit code 1, one sentence
RuntimeError  <- CorruptRankError   this rank's bits are wrong: another process takes its place
RuntimeError  <- SlowRankError      this rank is much slower than its likes: likewise
RuntimeError  <- CorruptPeerError   another rank's are: this one waits for the next generation
"""


class ConfigError(ValueError):
    """The configuration is wrong: one sentence with the key, what was found and what was needed."""


class StoppedError(RuntimeError):
    """The run has decided to stop; the message is one sentence for the user."""


class CorruptRankError(RuntimeError):
    """This rank computes or holds bits that it should not."""

    def __init__(self, words: str, *, rank: int, step: int, tensors: list[str]) -> None:
        super().__init__(words)
        self.rank, self.step, self.tensors = rank, step, tensors


class SlowRankError(RuntimeError):
    """This rank is much slower than those with the same work, and has been for a while."""


class CorruptPeerError(RuntimeError):
    """As `CorruptRankError`, on the ranks that have nothing wrong."""
