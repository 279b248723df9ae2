"""A stall is named with its cause, once, and only where it costs more than a hundredth."""

from keepstep.trainer.telemetry.stall import Stalls, by_cause


def fifty(stalls: Stalls, waited: dict[str, float]) -> list[str]:
    return [words for _ in range(50) if (words := stalls.add(waited, 1.0))]


def test_a_wait_has_the_causes_that_its_reading_had() -> None:
    assert by_cause(0.1, {"network": 3.0, "decode": 1.0, "lock": 0.0}) == {
        "network": 0.1 * 3 / 4,
        "decode": 0.1 / 4,
    }
    assert by_cause(0.0, {"network": 3.0}) == {}
    assert by_cause(0.1, {}) == {}


def test_a_stall_is_said_once_a_cause_with_what_to_do() -> None:
    stalls = Stalls()
    said = fifty(stalls, {"network": 0.03, "decode": 0.01})
    assert said == [
        "training waited for data 4.0% of the last 50 steps, 75% of it for network; "
        "raise data.fetch.most_in_flight or data.ahead_bytes, or look at the store"
    ]
    assert fifty(stalls, {"network": 0.03}) == []
    assert len(fifty(stalls, {"transform": 0.5})) == 1


def test_less_than_a_hundredth_is_not_worth_a_word() -> None:
    assert fifty(Stalls(), {"network": 0.0099}) == []
