"""The steps of preparing, each over numbered pieces of work whose results are files.

survey (parts) -> decide (one) -> encode (parts) -> shard (shards) -> finish (one)
"""
