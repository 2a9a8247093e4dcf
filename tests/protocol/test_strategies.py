"""Every strategy with real sites: the coordinator's rounds, the sites' app, cohorts, noise and ledgers; no network."""

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from client import app as site_app
from client.ingest.build import ingest
from client.ledger import Ledger
from client.site import load_sites
from common.models import parts
from common.models.weights import initial_model
from server.rounds import Rounds
from server.run_folder import RunFolder

HANDLERS = {"query": site_app.hello, "train": site_app.train, "evaluate": site_app.evaluate}
CASES = {
    "fedavg": {},
    "fedavg by public weights": {"weights": {"site-1": 2.0}},
    "fedprox": {"strategy": "fedprox", "proximal_mu": 0.1},
    "fedavgm": {"strategy": "fedavgm"},
    "fedadam": {"strategy": "fedadam", "server_learning_rate": 0.01},
    "fedyogi": {"strategy": "fedyogi", "server_learning_rate": 0.01},
    "scaffold": {"strategy": "scaffold"},
    "median": {"strategy": "median", "minimum_sites": 3},
    "trimmed-mean": {"strategy": "trimmed-mean", "trim": 0.34, "minimum_sites": 3},
    "multi-krum": {"strategy": "multi-krum", "liars": 1, "minimum_sites": 5},
    "float16 and scaffold": {"strategy": "scaffold", "wire": "float16"},
}


class SiteGrid(Grid):
    """Nodes 1, 2, ... are the sites; a message is answered when it is sent."""

    def __init__(self, sites):
        self._sites = dict(enumerate(sites, start=1))
        self._replies = {}

    def set_run(self, run): ...

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def get_node_ids(self):
        return list(self._sites)

    def push_messages(self, messages):
        names = []
        for message in messages:
            name = f"m{len(self._replies)}"
            message.metadata.__dict__["_message_id"] = name
            site = self._sites[message.metadata.dst_node_id]
            context = Context(1, 1, {"site": str(site.folder)}, RecordDict(), {})
            self._replies[name] = HANDLERS[message.metadata.message_type](message, context)
            names.append(name)
        return names

    def pull_messages(self, message_ids):
        return [found for found in (self._replies.get(name) for name in message_ids) if found is not None]

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError


@pytest.fixture(scope="module")
def sites(write_sites, small_study, tmp_path_factory):
    root = write_sites(tmp_path_factory.mktemp("sites"), 5, max_epsilon=1000.0)
    found = load_sites(root)
    for site in found:
        ingest(site, small_study())
    return found


@pytest.fixture
def run(sites, small_study, tmp_path, monkeypatch):
    """Two rounds of a study and the last evaluation; the outcomes, and by how much the shared weights moved."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)

    def make(name, **sections):
        federation = {"rounds": 2, "minimum_sites": 2, "deadline_minutes": 60.0, **sections.pop("federation", {})}
        study = small_study(name=name, federation=federation, **{"model": {"trainable": "head"}, **sections})
        some = sites[: study.federation.minimum_sites]
        for site in some:
            site.approve(study)
        folder = RunFolder(tmp_path / "out")
        folder.prepare(study, tmp_path)
        model = initial_model(study, 0)
        before = parts.read(parts.shared(model, study))
        rounds = Rounds(SiteGrid(some), study, model, folder, 0)
        rounds.gather(1)
        outcomes = [rounds.train(1), rounds.train(2), rounds.evaluate(2)]
        return study, outcomes, parts.read(parts.shared(model, study)) - before

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_private_study_runs_and_each_site_is_charged_what_fedavg_costs(run, sites, name):
    study, outcomes, moved = run(f"s-{list(CASES).index(name)}", federation=CASES[name])
    for outcome in outcomes:
        assert {(p.status, p.reason) for p in outcome.participation} == {("ok", "")}
        assert len(outcome.participation) == study.federation.minimum_sites
    assert np.abs(moved).max() > 0
    assert np.isfinite(moved).all()
    assert outcomes[-1].pooled()[0] is not None
    for site in sites[: study.federation.minimum_sites]:
        assert Ledger(site.ledger_file).rounds_charged("default", study.digest) == (1, 2)
        assert outcomes[-1].epsilon[site.name] <= study.privacy.epsilon
    size = moved.nbytes // (2 if study.federation.wire == "float16" else 1)
    count = study.federation.minimum_sites
    assert outcomes[1].bytes_up == count * size
    assert outcomes[1].bytes_down == count * size * (2 if study.federation.strategy == "scaffold" else 1)


@pytest.mark.slow
@pytest.mark.parametrize("local", ["norm", "head"])
def test_weights_that_stay_are_another_model_at_each_site_and_never_sent(run, sites, local):
    study, outcomes, moved = run(f"local-{local}", model={"trainable": "norm+head", "local": local})
    assert all(p.status == "ok" for outcome in outcomes for p in outcome.participation)
    assert outcomes[1].bytes_up == outcomes[1].bytes_down == 2 * moved.nbytes
    one, other = [(site.models_dir / study.digest / "local.safetensors").read_bytes() for site in sites[:2]]
    assert one != other
