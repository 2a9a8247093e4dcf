"""fedct-sim, as it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UsageError
from simulations.cli import main

DEMO = Path(__file__).parents[2] / "simulations" / "scenarios" / "demo.toml"


@pytest.mark.parametrize("other", [("--json",), ("--cross-validation", "3"), ("--leave-one-out",)], ids=" ".join)
def test_a_page_is_served_of_one_run_and_to_people_and_that_is_said_before_anything_runs(typed, tmp_path, other):
    code, _, errors = typed(main, "fedct-sim")("run", DEMO, "--sites", "none", "--out", "out", "--serve", *other)
    assert (code, len(errors.splitlines())) == (UsageError.exit_code, 1)
    assert "--serve shows one run" in errors
    assert not (tmp_path / "out").exists()
