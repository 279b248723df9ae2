"""Which micro-batches of a step a reader computes."""


def share_microbatches(
    batch_samples: int, microbatch_samples: int, reader_index: int, reader_count: int
) -> range:
    """The micro-batches of a step, by number, that a reader computes: one contiguous share each.

    Raises:
        ValueError: the batch is not a whole number of micro-batches, or these cannot be shared.
    """
    if batch_samples < 1 or microbatch_samples < 1:
        raise ValueError(
            f"train.batch_samples: found {batch_samples} with train.microbatch_samples="
            f"{microbatch_samples}, needed 1 or more of both; set positive numbers"
        )
    if batch_samples % microbatch_samples:
        raise ValueError(
            f"train.batch_samples: found {batch_samples}, needed a multiple of "
            f"train.microbatch_samples={microbatch_samples}; "
            f"set train.batch_samples={_nearest(batch_samples, microbatch_samples)}"
        )
    count = batch_samples // microbatch_samples
    if count % reader_count:
        fitting = _nearest(batch_samples, microbatch_samples * reader_count)
        raise ValueError(
            f"train.batch_samples: found {batch_samples}, which is {count} micro-batches of "
            f"train.microbatch_samples={microbatch_samples}, needed a number of them that "
            f"parallel.replicate x parallel.shard = {reader_count} divides; "
            f"set train.batch_samples={fitting} or other degrees"
        )
    share = count // reader_count
    return range(reader_index * share, (reader_index + 1) * share)


def _nearest(found: int, unit: int) -> int:
    return max(1, round(found / unit)) * unit
