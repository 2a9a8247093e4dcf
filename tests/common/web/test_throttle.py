"""How often a login may fail."""

from __future__ import annotations

from common.web.throttle import FREE, LONGEST_WAIT, Throttle


def test_the_wait_doubles_from_the_sixth_failure_on_up_to_a_limit_and_ends_with_a_success():
    now = 0.0
    throttle = Throttle(lambda: now)
    waits = []
    for _ in range(FREE + 12):
        throttle.failed("a")
        waits.append(throttle.wait("a", "b"))
    assert waits[: FREE + 4] == [0.0] * (FREE - 1) + [1.0, 2.0, 4.0, 8.0, 16.0]
    assert waits[-1] == LONGEST_WAIT
    now = LONGEST_WAIT
    assert throttle.wait("a") == 0
    throttle.succeeded("a")
    throttle.failed("a")
    assert throttle.wait("a") == 0
    assert throttle.wait("b") == 0
