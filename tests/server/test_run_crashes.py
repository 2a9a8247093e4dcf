"""kill -9 at every step of a run at the coordinator, with real processes, and then a second attempt.

A step is any moment at which the process opens, makes, renames or removes a file of the run folder, or sends messages.
The run is done once to count them, and then once for each, killed right there and resumed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from server.results import read_results
from server.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
ROUNDS = 2
OF_NO_WEIGHT = ("open events.jsonl", "open lock")  # being killed there is being killed at the next step

DRIVER = """
import importlib.util, os, signal, sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)  # no thread of the parent may be missing in a child
from torch import nn
from flwr.supercore.task_identity import TaskIdentity
from common.study import study_from_json
from server import asking, run, rounds
from server.run_folder import RunFolder
spec = importlib.util.spec_from_file_location("peers", sys.argv[2])
peers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peers)
TaskIdentity._run_id = TaskIdentity._node_id = TaskIdentity._task_id = 1
asking.POLL_SECONDS = rounds.POLL_SECONDS = 0.01
study = study_from_json(Path(sys.argv[1]).read_text())

def tiny(study, seed, weights):
    torch.manual_seed(seed)
    return nn.Linear(2, 2)

run.initial_model = tiny  # a large one only takes longer
run.render_report = lambda results, path: path.write_text("report")

class Grid(peers.MemoryGrid):
    def push_messages(self, messages):
        step("send", messages[0].metadata.message_type + " " + messages[0].metadata.group_id)
        return super().push_messages(messages)

def step(event, what):
    global seen
    seen += 1
    os.write(log, f"{event} {what}\\n".encode())
    if seen == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def hook(event, arguments):
    if event in {"open", "os.mkdir", "os.rename", "os.remove"} and str(folder) in str(arguments[0]):
        step(event, Path(str(arguments[0])).name)

def attempt():
    scaled = lambda reply, update: (reply, update * np.float32(reply["round"]))
    grid = Grid({11: peers.Peer("a", scaled, size=6), 12: peers.Peer("b", scaled, size=6)})
    sys.addaudithook(hook)
    run.run_study(grid, study, RunFolder(folder), 0)
    os.write(log, b"finished\\n")

for words in sys.stdin:
    name, kill_at = words.rsplit(" ", 1)
    folder, kill_at, seen = Path(name), int(kill_at), 0
    child = os.fork()
    if child == 0:
        try:
            log = os.open(f"{name}.steps", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            attempt()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def driver(small_study, tmp_path):
    """Run a study in the folder given, killed at its n-th step (0: not at all); the exit code, and the steps so far."""
    study = small_study(federation={"rounds": ROUNDS, "strategy": "fedavgm"}, privacy={"unit": "off"})
    (tmp_path / "study.json").write_text(study.canonical_json())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "study.json"), str(Path(__file__).parent / "conftest.py")]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def run(folder, kill_at):
            if not folder.exists():
                RunFolder(folder).prepare(study, tmp_path)
            process.stdin.write(f"{folder} {kill_at}\n")
            process.stdin.flush()
            code = int(process.stdout.readline())
            return code, Path(f"{folder}.steps").read_text().splitlines()

        yield run


def trained(steps):
    """How often sites were asked to train in each round."""
    return Counter(step.split()[-1] for step in steps if step.startswith("send train"))


@pytest.mark.slow
@pytest.mark.failure(
    "the run's process, killed at any step: before it asks, while it sends, collects, writes a record, checkpoint, model or results",
    seen="nothing of it after `resume`: the same model, bit by bit",
    ends="finished; at most one round is repeated",
    ledgers="that round charged once more",
)
def test_a_run_killed_at_any_step_and_resumed_counts_every_round_once(driver, tmp_path):
    code, steps = driver(tmp_path / "whole.", 0)
    assert (code, steps.pop()) == (0, "finished")
    assert trained(steps) == {"1": 1, "2": 1}
    whole = read_results(tmp_path / "whole." / "results.json")
    weights = load_file(tmp_path / "whole." / "model.safetensors")
    repeated = set()
    for kill_at in [number for number, step in enumerate(steps, start=1) if step not in OF_NO_WEIGHT]:
        folder = tmp_path / f"killed-at-{kill_at}."
        assert driver(folder, kill_at)[0] == -signal.SIGKILL
        code, both = driver(folder, 0)
        assert (code, both[-1]) == (0, "finished"), both
        results = read_results(folder / "results.json")
        assert (results.outcome, results.model_sha256) == ("finished", whole.model_sha256)
        assert [r.round for r in results.rounds] == [1, 2]
        assert [r.participation[0].status for r in results.rounds] == ["ok"] * ROUNDS
        assert results.sites == whole.sites
        found = load_file(folder / "model.safetensors")
        assert all((found[name] == weights[name]).all() for name in weights)  # momentum of every round, once
        again = {round_ for round_, times in trained(both).items() if times > 1}
        assert len(again) <= 1
        assert max(trained(both).values()) <= 2
        repeated |= again
    assert repeated == {"1", "2"}  # a round is repeated until its checkpoint has its name
    kinds = ("send train 1", "00001.json", "00001.safetensors", "send evaluate", "model.safetensors", "results.json")
    assert [any(kind in step for step in steps) for kind in kinds] == [True] * 6
