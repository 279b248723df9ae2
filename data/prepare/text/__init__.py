"""Raw files -> documents of text: listed, cut into parts, read, normalised, filtered.

Knows no tokens and no work folder.
"""
