"""Models that keepstep brings: plain modules that know nothing of ranks, each with its plan."""
