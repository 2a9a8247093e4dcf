import numpy as np
import pytest
from flwr.app import Error

from common import messages
from common.errors import QuorumError, RunError
from common.models.weights import initial_model, to_vector
from server.rounds import Rounds
from server.run_folder import RunFolder


@pytest.fixture
def run(tmp_path, small_study, grid):
    """Rounds over the peers given; the study may be changed by section."""

    def make(peers, **sections):
        federation = {"rounds": 2, "minimum_sites": 2, "deadline_minutes": 10.0, **sections.pop("federation", {})}
        sections = {"federation": federation, **sections}
        study = small_study(**sections)
        folder = RunFolder(tmp_path / "out")
        folder.prepare(study, tmp_path)
        model = initial_model(study, 0)
        memory = grid(dict(enumerate(peers, start=11)))
        return Rounds(memory, study, model, folder, 0), model, memory

    return make


def statuses(outcome):
    return {p.site: (p.status, p.reason) for p in outcome.participation}


def test_the_model_moves_by_the_mean_update(run, peer):
    rounds, model, _ = run([peer("a"), peer("b", lambda r, u: (r, 3 * u))])
    before = to_vector(model, trainable_only=True)
    rounds.gather(1)
    outcome = rounds.train(1)
    moved = to_vector(model, trainable_only=True)
    assert np.allclose(moved - before, 2e-3, atol=1e-6)
    assert statuses(outcome) == {"a": ("ok", ""), "b": ("ok", "")}
    assert outcome.bytes_up == 2 * before.nbytes
    assert outcome.epsilon == {"a": 1.5, "b": 1.5}


def nan(reply, update):
    update[3] = np.nan
    return reply, update


ATTACKS = {
    "an update that is not finite": (nan, ("failed", "bad-reply")),
    "an update of another length": (lambda r, u: (r, u[:-1]), ("failed", "bad-reply")),
    "an update of another type": (lambda r, u: (r, u.astype(np.float64)), ("failed", "bad-reply")),
    "no update at all": (lambda r, u: (r, None), ("failed", "bad-reply")),
    "another site's name": (lambda r, u: ({**r, "site": "a"}, u), ("failed", "wrong-site")),
    "an old round": (lambda r, u: ({**r, "round": 9}, u), ("failed", "wrong-reply")),
    "another study": (lambda r, u: ({**r, "study_digest": "f" * 64}, u), ("failed", "wrong-reply")),
    "an unknown key": (lambda r, u: ({**r, "name": "Doe^Jane"}, u), ("failed", "bad-reply")),
    "counts of the wrong size": (lambda r, u: ({**r, "counts": b"1" * 16}, u), ("failed", "bad-reply")),
    "a refusal": (
        lambda r, u: ({**r, "status": "refused", "code": "budget-exceeded", "evaluation": "none", "counts": b""}, u),
        ("refused", "budget-exceeded"),
    ),
    "an error of the node": (lambda r, u: Error(code=0, reason="Doe^Jane"), ("failed", "flower-0")),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.failure(
    "one update that is not finite, of the wrong shape or type, or missing; an answer for another site, round or study",
    seen="`failed` with `bad-reply`, `wrong-site` or `wrong-reply`",
    ends="goes on without that update",
    ledgers="charged, as the site trained",
)
def test_one_bad_reply_is_named_and_does_not_touch_the_model(run, peer, name):
    edit, expected = ATTACKS[name]
    rounds, model, _ = run([peer("a"), peer("b"), peer("evil", edit)])
    before = to_vector(model, trainable_only=True)
    rounds.gather(1)
    outcome = rounds.train(1)
    assert statuses(outcome)["evil"] == expected
    assert outcome.answered == 2
    assert np.allclose(to_vector(model, trainable_only=True) - before, 1e-3, atol=1e-6)
    assert "evil" not in outcome.counts
    assert "Doe" not in repr(outcome)


@pytest.mark.failure(
    "too few sites answer",
    seen="the reason of the run: how many of how many, and who is missing why",
    ends="failed; the model is as before the round; `resume` goes on",
    ledgers="charged at those that trained",
)
def test_a_round_below_the_minimum_fails_the_run_and_names_who_was_missing(run, peer):
    rounds, model, _ = run([peer("a"), peer("b", silent_after=0)], federation={"deadline_minutes": 0.3})
    before = to_vector(model, trainable_only=True)
    rounds.gather(1)
    with pytest.raises(QuorumError, match=r"round 1: 1 updates arrived.*b late"):
        rounds.train(1)
    assert np.array_equal(before, to_vector(model, trainable_only=True))


def test_a_silent_site_is_late_and_the_round_goes_on(run, peer):
    rounds, _, _ = run([peer("a"), peer("b"), peer("c", silent_after=1)], federation={"deadline_minutes": 0.3})
    rounds.gather(1)
    assert statuses(rounds.train(1))["c"] == ("ok", "")
    assert statuses(rounds.train(2))["c"] == ("late", "deadline")


def test_a_site_that_is_not_ready_is_not_sent_the_model_and_is_named(run, peer):
    rounds, _, memory = run([peer("a"), peer("b"), peer("c", hello={"ready": False, "code": "budget-exceeded"})])
    rounds.gather(1)
    assert rounds.names == ["a", "b", "c"]
    assert statuses(rounds.train(1))["c"] == ("refused", "budget-exceeded")
    assert all(m.metadata.dst_node_id != 13 for m in memory.sent if m.metadata.message_type == "train")


def test_a_second_node_can_t_take_a_sites_name(run, peer):
    rounds, _, _ = run([peer("a"), peer("b"), peer("a", lambda r, u: (r, 1000 * u))])
    rounds.gather(1)
    assert statuses(rounds.train(1))["node-13"] == ("refused", "name-taken")


def test_too_few_ready_sites_end_the_run_before_a_model_is_sent(run, peer):
    rounds, _, memory = run([peer("a"), peer("b", hello={"ready": False, "code": "data-unusable"})])
    with pytest.raises(QuorumError, match=r"1 sites are ready.*b \(data-unusable\)"):
        rounds.gather(1)
    assert all(m.metadata.message_type == "query" for m in memory.sent)


@pytest.mark.failure(
    "updates so large that the model overflows",
    seen='"the global model is no longer finite"',
    ends="failed; the rounds before are kept",
    ledgers="charged",
)
def test_a_model_that_is_no_longer_finite_ends_the_run(run, peer):
    huge = lambda r, u: (r, np.full_like(u, 3e38))  # noqa: E731
    rounds, _, _ = run([peer("a", huge), peer("b", huge)], federation={"server_learning_rate": 100.0})
    rounds.gather(1)
    with pytest.raises(RunError, match="no longer finite"), np.errstate(over="ignore"):
        rounds.train(1)


def test_only_trainable_weights_come_back(run, peer):
    head = 2 * 512 + 2
    rounds, model, _ = run([peer(s, lambda r, u: (r, u[:head])) for s in "ab"], model={"trainable": "head"})
    rounds.gather(1)
    outcome = rounds.train(1)
    assert outcome.bytes_up == 2 * 4 * head
    assert outcome.bytes_down == 2 * to_vector(model).nbytes


@pytest.mark.failure(
    "an update whose norm explodes, under a study with `update_norm`",
    seen="`failed` with `update-too-large`",
    ends="goes on without that update",
    ledgers="charged, as the site trained",
)
def test_an_update_longer_than_the_study_allows_is_named_and_left_out(run, peer):
    huge = peer("evil", lambda r, u: (r, 1000 * u))
    rounds, model, _ = run([peer("a"), peer("b"), huge], federation={"update_norm": 100.0})
    before = to_vector(model, trainable_only=True)
    rounds.gather(1)
    outcome = rounds.train(1)
    assert statuses(outcome)["evil"] == ("failed", "update-too-large")
    assert np.allclose(to_vector(model, trainable_only=True) - before, 1e-3, atol=1e-6)


def test_float16_halves_the_bytes_both_ways(run, peer):
    def half(reply, update):
        return {**reply, "exponent": -10}, (update * 1024).astype(np.float16)

    rounds, model, _ = run([peer("a", half), peer("b", half)], federation={"wire": "float16"})
    before = to_vector(model, trainable_only=True)
    rounds.gather(1)
    outcome = rounds.train(1)
    assert outcome.bytes_up == before.nbytes
    base = 4 * (512 + 512**2)  # the public constants: a centre, and a matrix that whitens
    assert outcome.bytes_down == before.nbytes + 2 * base
    assert np.allclose(to_vector(model, trainable_only=True) - before, 1e-3, atol=1e-6)


def test_a_site_that_lost_the_base_is_named_and_sent_it_in_the_next_round(run, peer):
    def lost(reply, update):
        if reply["round"] == 1:
            return reply, update
        return {**reply, "status": "failed", "code": "base-missing", "evaluation": "none", "counts": b""}, None

    rounds, _, memory = run([peer("a"), peer("b"), peer("c", lost)], federation={"rounds": 3})
    rounds.gather(1)
    for round_ in (1, 2, 3):
        outcome = rounds.train(round_)
    assert statuses(outcome)["c"] == ("failed", "base-missing")
    to_c = [m for m in memory.sent if m.metadata.dst_node_id == 13 and m.metadata.message_type == "train"]
    assert [messages.BASE in m.content[messages.MODEL] for m in to_c] == [True, False, True]


STRATEGIES = {
    "fedprox": {"proximal_mu": 0.1},
    "fedyogi": {"server_learning_rate": 0.01},
    "scaffold": {},
    "median": {},
    "trimmed-mean": {"trim": 0.34},
    "multi-krum": {"liars": 1},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rounds_of_every_strategy_move_the_model_and_leave_no_updates_on_disk(run, peer, tmp_path, strategy):
    settings = {"strategy": strategy, "minimum_sites": 5, **STRATEGIES[strategy]}
    head = {"model": {"trainable": "head"}}
    cut = lambda r, u: (r, u[: 2 * 512 + 2])  # noqa: E731
    rounds, model, memory = run([peer(site, cut) for site in "abcde"], federation=settings, **head)
    before = to_vector(model)
    rounds.gather(1)
    for round_ in (1, 2):
        assert rounds.train(round_).answered == 5
    assert not np.array_equal(to_vector(model), before)
    kept = {path.name for path in (tmp_path / "out" / "run").iterdir()}
    assert kept - {"controls"} == {"study.json", "events.jsonl"}
    corrections = [
        messages.CORRECTION in m.content[messages.MODEL] for m in memory.sent if m.metadata.message_type == "train"
    ]
    assert any(corrections) == (strategy == "scaffold")


def test_a_robust_round_that_fails_leaves_no_updates_on_disk(run, peer, tmp_path):
    peers = [peer("a"), peer("b"), peer("c", silent_after=0)]
    rounds, _, _ = run(peers, federation={"strategy": "median", "minimum_sites": 3, "deadline_minutes": 0.3})
    rounds.gather(1)
    with pytest.raises(QuorumError):
        rounds.train(1)
    assert not (tmp_path / "out" / "run" / "updates.f32").exists()
