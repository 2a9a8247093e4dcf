import json
import subprocess
import sys

import pytest

from simulations.benchmarks.dp_step import STEPS

RATIOS = {
    "ratio_to_plain",
    "ratio_to_opacus_hooks",
    "ratio_to_opacus_ghost",
    "peak_memory_ratio",
    "max_relative_error",
}


@pytest.mark.slow
def test_the_benchmark_measures_every_method_and_our_sum_is_that_of_opacus_hooks():
    command = [
        sys.executable,
        "-m",
        "simulations.benchmarks",
        "dp-step",
        "--size",
        "32",
        "--batch",
        "3",
        "--repeats",
        "2",
    ]
    found = json.loads(subprocess.run([*command, "--json"], check=True, capture_output=True, text=True).stdout)
    assert set(found) >= RATIOS
    assert set(found["seconds"]) == set(found["peak_gb"]) == set(STEPS)
    assert 0 < found["max_relative_error"] < 1e-5
    assert found["ratio_to_plain"] == pytest.approx(found["seconds"]["fedct"] / found["seconds"]["plain"])
    assert found["ratio_to_plain"] > found["ratio_to_opacus_hooks"]  # the latter's step is the longer one
    assert min(found["peak_gb"].values()) > 0.1
