from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from client import task
from client.order import Order, carry_out

PLANTED = "DOE^JANE 1970-01-01"
ORDER = Order("127.0.0.1:1", "token", "flwr-clientapp", Path("/site"))


@pytest.fixture
def carried(monkeypatch, capsys):
    """Carry an order out; the code of the process, what the runner is told, and what would be printed."""

    def run(work):
        monkeypatch.setattr(task, "run_task", lambda _: work())
        reader, writer = multiprocessing.Pipe(duplex=False)
        with reader, writer:
            code = 0
            try:
                carry_out(ORDER, writer)
            except SystemExit as ended:
                code = ended.code
            return code, json.loads(reader.recv_bytes()), "".join(capsys.readouterr())

    return run


def test_the_runner_is_told_what_became_of_a_task(carried):
    result = {"kind": "train", "study": "a" * 64, "round": 1, "status": "ok", "code": ""}
    assert carried(lambda: dict(result)) == (0, result, "")


@pytest.mark.parametrize("last", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_an_exception_that_names_a_patient_ends_the_process_without_its_text(carried, last):
    def fail():
        raise last(PLANTED) from ValueError(PLANTED)

    code, told, printed = carried(fail)
    assert (code, told["error"], printed) == (1, last.__name__, "")
    assert told["where"].startswith("test_order.py:")
    assert "DOE" not in str(told)
