"""Datasets of records as other tools write them, one file a format: survey(...) and open_*(...)."""
