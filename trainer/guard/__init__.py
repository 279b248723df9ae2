"""Numbers of a step -> verdicts: spikes that are skipped or gone back from, and bits that changed
by themselves. It knows no process but its own; who is replaced is for recovery/ to say."""
