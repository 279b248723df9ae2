"""Datasets of token ids as other tools write them: one survey a format, one reader for all."""
