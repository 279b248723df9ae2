"""The bench of recoveries: jobs, the sides that start them, what is measured of each."""
