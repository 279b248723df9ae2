"""configs/ holds YAML only: the groups and presets that Hydra composes into one run."""
