"""Who is asked in a round, who is asked again, and who is not, over nodes that come, go and lose what they were sent."""

from __future__ import annotations

import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from torch import nn

from common.errors import QuorumError
from server import asking, roster
from server.rounds import Rounds
from server.run_folder import RunFolder

A, B, C = 11, 12, 13
OK = ("ok", "")


class Node:
    """A site's node: does one message after another, and nothing while it is ``held``."""

    def __init__(self, peer) -> None:
        self.peer, self.held, self.inbox = peer, False, []

    def __call__(self, message: Message) -> Message | None:
        if self.held:
            self.inbox.append(message)
            return None
        return self.peer(message)

    def forget(self) -> None:
        """It is killed and started again."""
        self.inbox, self.held = [], False

    def go_on(self, grid) -> None:
        self.held = False
        for message in self.inbox:
            grid.answer(message, self.peer(message))
        self.inbox = []


@pytest.fixture
def run(tmp_path, small_study, grid, peer, monkeypatch):
    """Rounds of a model of six weights over nodes A, B and C, of sites a, b and c; and the grid."""
    monkeypatch.setattr(asking, "LONGEST_POLL", 0.05)
    monkeypatch.setattr(asking, "POLL_SECONDS", 0.01)

    def make(*, admitted=False, deadline=1.0, minimum=2, **edits):
        study = small_study(federation={"rounds": 9, "minimum_sites": minimum, "deadline_minutes": deadline / 60})
        folder = RunFolder(tmp_path / "out")
        folder.prepare(study, tmp_path)
        peers = {node: Node(peer(site, edits.get(site), size=6)) for node, site in ((A, "a"), (B, "b"), (C, "c"))}
        memory = grid(peers, {A: "a", B: "b", C: "c"})
        rounds = Rounds(memory, study, nn.Linear(2, 2), folder, 0, admitted=admitted)
        rounds.gather(1)
        return rounds, memory

    return make


def statuses(outcome):
    return {p.site: (p.status, p.reason) for p in outcome.participation}


def crash(_reply, _update):
    return Error(ErrorCode.CLIENT_APP_CRASHED, "")


@pytest.mark.failure(
    "a site whose task crashes each time",
    seen="`failed` with `lost`",
    ends="goes on without it",
    ledgers="charged twice, not more",
)
def test_a_task_that_crashed_is_asked_for_once_more_and_no_more(run):
    rounds, grid = run(c=crash, deadline=60)
    assert statuses(rounds.train(1)) == {"a": OK, "b": OK, "c": ("failed", "lost")}
    assert len(grid.to(C, "train")) == 2
    assert len(grid.to(A, "train")) == 1


def test_a_task_that_crashed_once_costs_no_round(run):
    answers = iter([crash])

    def once_crashing(reply, update):
        return next(answers, lambda *both: both)(reply, update)

    rounds, _ = run(c=once_crashing, deadline=60)
    outcome = rounds.train(1)
    assert statuses(outcome)["c"] == OK
    assert outcome.bytes_down == 4 * 6 * 4


def leaves_when_asked(grid, node, then):
    """A script: the node is away once it was sent a round, and at its third absence ``then`` happens and it is back."""

    def script(grid):
        script.looks += 1
        if script.looks == 2:
            grid.absent.add(node)
        if script.looks == 5:
            then(grid)
            grid.absent.discard(node)

    script.looks = 0
    grid.peers[node].held = True
    return script


def test_what_a_killed_node_was_sent_is_sent_again_once_it_is_back(run):
    rounds, grid = run(deadline=60)
    grid.script = leaves_when_asked(grid, C, lambda grid: grid.peers[C].forget())
    assert statuses(rounds.train(1))["c"] == OK
    assert [m.metadata.message_type for m in grid.sent if m.metadata.dst_node_id == C] == [
        *("query", "train"),
        *("query", "train"),  # not before it has shown that it works on nothing
    ]


@pytest.mark.failure(
    "a node that is away and back, and at work all the while",
    seen="`gone`, `back`",
    ends="its one answer counts",
    ledgers="charged once",
)
def test_a_node_that_was_cut_off_and_still_works_is_not_asked_twice(run):
    rounds, grid = run(deadline=60)
    looks = []
    away = leaves_when_asked(grid, C, lambda _: None)

    def script(grid):
        away(grid)
        looks.append(len(grid.to(C, "query")))
        if looks.count(2) == 20:  # long after it was put the cheap question
            grid.peers[C].go_on(grid)

    grid.script = script
    assert statuses(rounds.train(1))["c"] == OK
    assert len(grid.to(C, "train")) == 1


def test_a_restart_that_nobody_saw_is_known_by_the_time_of_activation(run):
    rounds, grid = run(admitted=True, deadline=60)

    def script(grid):
        if not grid.since:
            grid.peers[C].forget()
            grid.since[C] = "later"

    grid.peers[C].held = True
    grid.script = script
    assert statuses(rounds.train(1))["c"] == OK
    assert len(grid.to(C, "train")) == 2


def test_an_error_that_the_superlink_makes_itself_proves_nothing(run):
    rounds, grid = run(deadline=60)

    def back(grid):
        grid.peers[C].peer = lambda m: Message(Error(ErrorCode.NODE_UNAVAILABLE, ""), reply_to=m)
        grid.peers[C].forget()

    honest = grid.peers[C].peer
    grid.script = leaves_when_asked(grid, C, back)
    again = grid.script

    def script(grid):
        again(grid)
        if len(grid.to(C, "query")) == 4:
            grid.peers[C].peer = honest

    grid.script = script
    assert statuses(rounds.train(1))["c"] == OK
    assert len(grid.to(C, "train")) == 2
    assert len(grid.to(C, "query")) >= 4


def test_nothing_is_sent_again_when_the_answer_would_likely_be_late(run, monkeypatch):
    monkeypatch.setattr(asking.Asking, "_seconds_left", lambda self: 0.4 * self._question.seconds)
    rounds, grid = run(c=crash, deadline=60)
    assert statuses(rounds.train(1))["c"] == ("failed", "lost")
    assert len(grid.to(C, "train")) == 1


def goes_for_good(grid, node):
    grid.peers[node].held = True
    return lambda grid: grid.absent.add(node)


@pytest.mark.failure(
    "a site that is gone for good",
    seen="`failed` with `offline`, after five minutes",
    ends="goes on without it",
    ledgers="charged if it had begun",
)
def test_who_is_gone_is_given_up_after_a_while_if_the_others_are_enough(run, monkeypatch):
    monkeypatch.setattr(asking, "GRACE_SECONDS", 0.2)
    rounds, grid = run(deadline=600)
    grid.script = goes_for_good(grid, C)
    assert statuses(rounds.train(1)) == {"a": OK, "b": OK, "c": ("failed", "offline")}


def test_who_is_gone_is_waited_for_until_the_deadline_if_the_others_are_not_enough(run, monkeypatch):
    monkeypatch.setattr(asking, "GRACE_SECONDS", 0.0)
    rounds, grid = run(deadline=1.0, minimum=3)
    grid.script = goes_for_good(grid, C)
    with pytest.raises(QuorumError, match=r"2 updates arrived.*c failed \(offline\)"):
        rounds.train(1)


@pytest.mark.failure(
    "a site slower than the deadline",
    seen="`late` with `deadline`, then `busy` until it answers",
    ends="goes on without it; it joins again",
    ledgers="charged for the rounds that it was asked",
)
def test_a_late_site_is_not_asked_again_while_it_may_be_at_work_and_joins_when_it_answers(run):
    rounds, grid = run(deadline=1.0)
    grid.peers[C].held = True
    assert statuses(rounds.train(1))["c"] == ("late", "deadline")
    rounds.gather(2)
    assert statuses(rounds.train(2))["c"] == ("late", "busy")
    rounds.gather(3)
    assert statuses(rounds.train(3))["c"] == ("late", "busy")
    assert len(grid.to(C, "train")) == 1
    assert len(grid.to(C, "query")) == 2  # the hello of the beginning, and one question that waits for its answer
    grid.peers[C].go_on(grid)
    rounds.gather(4)
    assert statuses(rounds.train(4))["c"] == OK
    assert [m.metadata.group_id for m in grid.to(C, "train")] == ["1", "4"]


@pytest.mark.failure(
    "an update that comes after its round",
    seen="`late`",
    ends="it is dropped",
    ledgers="charged",
)
def test_the_late_answer_to_an_old_round_is_never_mixed_into_another(run):
    rounds, grid = run(deadline=1.0, c=lambda r, u: (r, 1000 * u))
    grid.peers[C].held = True
    rounds.train(1)
    before = rounds._model.weight.detach().clone()
    grid.peers[C].go_on(grid)  # its answer to round 1 lies there from now on
    grid.absent.add(C)
    rounds.gather(2)
    outcome = rounds.train(2)
    assert statuses(outcome) == {"a": OK, "b": OK, "c": ("failed", "offline")}
    assert (rounds._model.weight.detach() - before).abs().max() < 0.01


def test_a_site_that_comes_late_joins_at_the_next_round(run, peer):
    rounds, grid = run(deadline=60)
    grid.peers[14] = Node(peer("d", size=6))
    grid.names[14] = "d"
    assert "d" not in statuses(rounds.train(1))
    rounds.gather(2)
    assert statuses(rounds.train(2))["d"] == OK
    assert rounds.names == ["a", "b", "c", "d"]


def test_a_site_that_was_not_ready_is_asked_again_after_a_while(run, monkeypatch):
    rounds, grid = run(deadline=60)
    grid.peers[C].peer.hello = {"ready": False, "code": "policy-1-not-approved"}
    grid.absent.add(C)
    rounds._roster.late([C])
    grid.absent.clear()
    rounds.train(1)
    rounds.gather(2)
    assert statuses(rounds.train(2))["c"] == ("refused", "policy-1-not-approved")
    grid.peers[C].peer.hello = None
    rounds.gather(3)
    assert statuses(rounds.train(3))["c"] == ("refused", "policy-1-not-approved")
    monkeypatch.setattr(roster, "AGAIN_SECONDS", 0.0)
    rounds.gather(4)
    rounds.train(4)
    assert statuses(rounds.train(5))["c"] == OK


def test_a_hello_that_a_killed_node_took_with_it_is_said_again(run):
    rounds, grid = run(deadline=1.0)
    grid.peers[C].held = True
    rounds.train(1)
    rounds.gather(2)
    rounds.train(2)  # a hello lies at the node, which is killed
    grid.peers[C].forget()
    grid.absent.add(C)
    rounds.gather(3)
    rounds.train(3)
    grid.absent.clear()
    rounds.gather(4)
    rounds.train(4)
    rounds.gather(5)
    assert statuses(rounds.train(5))["c"] == OK


def test_a_site_that_vanishes_as_the_round_begins_is_waited_for_where_it_is_needed(run):
    rounds, grid = run(deadline=60, minimum=3)
    rounds.gather(1)
    looks = []

    def script(grid):
        looks.append(1)
        (grid.absent.add if len(looks) < 3 else grid.absent.discard)(C)

    grid.script = script
    assert statuses(rounds.train(1))["c"] == OK


def test_a_round_waits_for_enough_sites_to_be_back(run):
    rounds, grid = run(deadline=60)
    grid.absent |= {B, C}
    looks = []

    def script(grid):
        looks.append(1)
        if len(looks) == 3:
            grid.absent.discard(B)

    grid.script = script
    rounds.gather(2)
    assert statuses(rounds.train(2)) == {"a": OK, "b": OK, "c": ("failed", "offline")}


@pytest.mark.failure(
    "an admitted node that says another site's name",
    seen="`refused` with `wrong-site`",
    ends="goes on without it",
    ledgers="nothing",
)
def test_a_node_that_says_another_sites_name_is_named_and_never_asked(run, peer):
    rounds, grid = run(admitted=True, deadline=60)
    grid.peers[14], grid.names[14] = Node(peer("a", lambda r, u: (r, 1000 * u), size=6)), "mallory"
    grid.peers[15], grid.names[15] = Node(peer("stranger", size=6)), ""  # its name is no registry's
    for round_ in (1, 2):
        outcome = rounds.train(round_)
        rounds.gather(round_ + 1)
    assert statuses(outcome) == {"a": OK, "b": OK, "c": OK, "mallory": ("refused", "wrong-site")}
    assert grid.to(14, "train") == grid.to(15, "train") == grid.to(15, "query") == []


def test_a_reply_in_another_sites_name_is_dropped(run):
    rounds, _ = run(admitted=True, c=lambda r, u: ({**r, "site": "a"}, u), deadline=60)
    assert statuses(rounds.train(1))["c"] == ("failed", "wrong-site")


def test_a_site_that_was_admitted_anew_takes_its_own_place(run, peer):
    rounds, grid = run(admitted=True, deadline=60)
    grid.absent.add(C)
    grid.peers[14], grid.names[14] = Node(peer("c", size=6)), "c"
    rounds.train(1)
    rounds.gather(2)
    assert statuses(rounds.train(2)) == {"a": OK, "b": OK, "c": OK}
