"""The sub-commands of `keepstep checkpoint`, one file a kind of work."""
