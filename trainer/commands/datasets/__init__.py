"""Commands that look at datasets wherever they lie: lock, verify, inspect, explain and bench."""
