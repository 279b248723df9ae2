"""How the loss scale moves, and that it is a plain number of a manifest."""

from keepstep.parallel import LossScale


def moved(*overflows: bool, scale: float = 2.0**16) -> LossScale:
    made = LossScale(scale=scale, enabled=True)
    for overflowed in overflows:
        made.update(overflowed=overflowed)
    return made


def test_an_overflow_halves_it() -> None:
    assert moved(True).scale == 2.0**15
    assert moved(False, True, True).scale == 2.0**14


def test_two_thousand_steps_without_an_overflow_double_it() -> None:
    assert moved(*[False] * 1999).scale == 2.0**16
    assert moved(*[False] * 2000).scale == 2.0**17
    assert moved(*[False] * 4000).scale == 2.0**18


def test_an_overflow_begins_the_count_anew() -> None:
    assert moved(*[False] * 1999, True, *[False] * 1999).scale == 2.0**15
    assert moved(*[False] * 1999, True, *[False] * 2000).scale == 2.0**16


def test_it_stays_between_its_bounds() -> None:
    assert moved(*[False] * 2000, scale=2.0**24).scale == 2.0**24
    smallest = moved(*[True] * 100)
    assert (smallest.scale, smallest.can_shrink) == (2.0**-14, False)
    assert moved(True).can_shrink


def test_it_goes_on_from_a_manifest_as_if_it_had_not_stopped() -> None:
    kept = moved(*[False] * 1500, True, *[False] * 1500)
    other = LossScale.for_fp16()
    other.load_state_dict(kept.state_dict())
    assert other == kept
    for made in (kept, other):
        for _ in range(500):
            made.update(overflowed=False)
    assert other == kept
    assert other.scale == 2.0**16


def test_without_fp16_it_is_one_and_never_moves() -> None:
    plain = LossScale()
    plain.update(overflowed=True)
    plain.load_state_dict({"scale": 8.0, "steps_since_change": 3})
    assert (plain.scale, plain.can_shrink) == (1.0, False)
