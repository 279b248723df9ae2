"""What a status means as the error of a file, and how long one asks again."""

import errno
from threading import Event

import pytest

from keepstep.checkpoint.stores.errors import Patience, TransientError, refusal


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, "SlowDown", TransientError),
        (500, "InternalError", TransientError),
        (429, "", TransientError),
        (409, "ConditionalRequestConflict", TransientError),
        (400, "RequestTimeout", TransientError),
        (400, "ExpiredToken", PermissionError),
        (403, "AccessDenied", PermissionError),
        (404, "NoSuchBucket", FileNotFoundError),
        (412, "PreconditionFailed", FileExistsError),
        (301, "PermanentRedirect", OSError),
    ],
)
def test_a_status_is_an_error_of_files_and_says_where(status, code, kind):
    found = refusal("s3://bucket/run/file", status, code)
    assert type(found) is kind
    assert "s3://bucket/run/file: found" in str(found)


@pytest.mark.parametrize(("status", "code"), [(507, ""), (403, "QuotaExceeded")])
def test_a_full_store_is_told_from_a_forbidden_one(status, code):
    assert refusal("here", status, code).errno == errno.ENOSPC


class Clock:
    def __init__(self):
        self.now, self.asked = 0.0, 0

    def sleep(self, seconds):
        self.now += seconds

    def patience(self, seconds):
        return Patience(seconds, clock=lambda: self.now, sleep=self.sleep)

    def fail(self):
        self.asked += 1
        raise TransientError(f"attempt {self.asked}")


def test_what_fails_for_good_is_asked_again_until_the_time_is_over():
    clock = Clock()
    with pytest.raises(TransientError, match=r"attempt \d\d"):
        clock.patience(60.0).ask(clock.fail)
    assert 50.0 < clock.now <= 60.0


def test_without_patience_it_is_asked_once():
    clock = Clock()
    with pytest.raises(TransientError, match=r"attempt 1$"):
        clock.patience(0.0).ask(clock.fail)


def test_nobody_waits_for_what_is_over():
    clock, over = Clock(), Event()
    over.set()
    with pytest.raises(TransientError, match=r"attempt 1$"):
        clock.patience(60.0).ask(clock.fail, over=over)


def test_what_cannot_pass_is_asked_once_and_what_passes_is_answered():
    clock, answers = Clock(), [TransientError("no"), TransientError("no"), "yes"]

    def ask():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert clock.patience(60.0).ask(ask) == "yes"
    answers[:] = [PermissionError("never"), "yes"]
    with pytest.raises(PermissionError):
        clock.patience(60.0).ask(ask)
