"""What a run leaves behind and shows: metrics, events, the progress line, the summary, lineage."""
