"""Runs as one HTML file that needs nothing else: one run, or several compared."""
