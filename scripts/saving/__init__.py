"""The bench of checkpoints: what a rank holds, the cases of each place, memory, and the table."""
