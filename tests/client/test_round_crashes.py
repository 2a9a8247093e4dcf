"""kill -9 at every step of a round, with real processes: never under-charged, always readable after.

A step is any moment at which the process opens, renames, links or removes a file of the site, or opens
its database. The round is run once to count them, and then once for each, killed right there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.audit_log import AuditLog
from client.budget import study_charges
from client.ingest.build import ingest
from client.ledger import Ledger
from client.site import load_site
from common.privacy.accounting import epsilon

ROOT = Path(__file__).parents[2]

DRIVER = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # no thread of the parent may be missing in a child
from client.budget import study_charges
from client.participation import participate
from client.received import Received
from client.site import load_site
from common.messages import Request
from common.models.weights import initial_model
from common.privacy.accounting import epsilon
from common.study import study_from_json

def run(folder, weights, study, kill_at):
    log = os.open(f"{folder}.events", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event not in {"open", "os.rename", "os.link", "os.remove", "sqlite3.connect"} or folder not in str(arguments[0]):
            return
        seen += 1
        os.write(log, f"{event} {arguments[0]}\\n".encode())
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    request = Request(study=study.canonical_json(), round=2, seed=0)
    site = load_site(Path(folder))
    sys.addaudithook(hook)
    participate(site, study, request, weights, training=True)
    os.write(log, b"answered\\n")

study = study_from_json(Path(sys.argv[1]).read_text())
weights = Received.whole(initial_model(study, 0), study)
epsilon(study_charges(study, load_site(Path(sys.argv[2])).config.policy, 1), 1e-3)  # solved once, for all children
for words in sys.stdin:
    folder, kill_at = words.rsplit(" ", 1)
    child = os.fork()
    if child == 0:
        try:
            run(folder, weights, study, int(kill_at))
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def driver(make_sites, small_study, tmp_path):
    """Run the second round of a study on a fresh copy of a site, killed at its n-th step (0: not at all)."""
    study = small_study()
    site = load_site(make_sites(1, evaluation="noised", evaluation_sigma=20.0) / "site-1")
    ingest(site, study)
    site.approve(study)
    (tmp_path / "study.json").write_text(study.canonical_json())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "study.json"), str(site.folder)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def run(kill_at):
            copy = tmp_path / f"killed-at-{kill_at}."
            shutil.copytree(site.folder, copy)
            process.stdin.write(f"{copy} {kill_at}\n")
            process.stdin.flush()
            code = int(process.stdout.readline())
            return code, load_site(copy), Path(f"{copy}.events").read_text().splitlines()

        yield study, run


@pytest.mark.slow
@pytest.mark.failure(
    "a site's process, killed at any step of a round",
    seen="`asked` a second time",
    ends="its second answer counts",
    ledgers="charged before a patient is read; never lost, never undone",
)
def test_a_round_killed_at_any_step_is_charged_before_its_patients_are_touched(driver):
    study, run = driver
    code, site, steps = run(0)
    assert (code, steps.pop()) == (0, "answered")
    charge = study_charges(study, site.config.policy, 1)
    whole = epsilon(charge, 1e-3)
    assert [e.kind for e in Ledger(site.ledger_file).entries()] == ["reserve", "commit", "release"]
    kinds = ("ledger.sqlite", "ledger.head", "cohorts", "audit.log", "audit.head")
    assert [any(kind in step for step in steps) for kind in kinds] == [True] * 5
    outcomes = set()
    for kill_at in range(1, len(steps) + 1):
        code, site, reached = run(kill_at)
        assert (code, len(reached)) == (-signal.SIGKILL, kill_at)
        ledger = Ledger(site.ledger_file)
        charged = ledger.rounds_charged("default", study.digest)
        touched = any("cohorts" in step for step in reached)
        assert charged == (2,) or (charged == () and not touched)
        assert ledger.spent("default", 1e-3) == (whole if charged else 0.0)
        AuditLog(site.audit_file).append("noted", {})
        reserve_again(ledger, study, charge)
        assert ledger.spent("default", 1e-3) == epsilon(charge * (len(charged) + 1), 1e-3)
        outcomes.add((bool(charged), touched, sum("audit.log" in step for step in reached)))
    # Killed before the charge, after it, while the round is logged, in the work, and while the release is entered.
    assert outcomes == {(False, False, 0), (True, False, 0), (True, False, 1), (True, True, 1), (True, True, 2)}


def reserve_again(ledger, study, charge):
    ledger.reserve(
        cohort="default", study_digest=study.digest, round_=2, events=charge, max_epsilon=100.0, max_delta=1e-3
    )
