"""What ends a run on purpose.

ValueError    <- ConfigError    a setting is wrong: exit code 2, one sentence
RuntimeError  <- StoppedError   the run cannot go on: exit code 1, one sentence
"""


class ConfigError(ValueError):
    """The configuration is wrong: one sentence with the key, what was found and what was needed."""


class StoppedError(RuntimeError):
    """The run has decided to stop; the message is one sentence for the user."""
