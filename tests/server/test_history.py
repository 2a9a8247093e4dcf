"""What the events of a run come to, read at once or as they are written."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from server.history import History, Reader, history
from server.run_folder import RunFolder, parsed

SITES = st.sampled_from(("a", "b", "c"))
ROUNDS = st.integers(1, 4)
ROUND = {"seconds": 1.0, "took_part": 2, "missed": [["c", "late", "deadline"]], "accuracy": 0.5, "model_round": 1}
EVENTS = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("asked"), "round": ROUNDS, "site": SITES, "what": st.sampled_from(("train", "evaluate"))}
    ),
    st.fixed_dictionaries(
        {"kind": st.just("reply"), "site": SITES, "status": st.just("ok"), "reason": st.just(""), "seconds": ROUNDS}
    ),
    st.fixed_dictionaries({"kind": st.sampled_from(("gone", "back")), "site": SITES}),
    st.fixed_dictionaries({"kind": st.just("round"), "round": ROUNDS, **{k: st.just(v) for k, v in ROUND.items()}}),
    st.fixed_dictionaries({"kind": st.just("hello"), "site": SITES, "ready": st.booleans(), "reason": st.just("")}),
    st.fixed_dictionaries({"kind": st.sampled_from(("begin", "resumed", "tracking-failed"))}),
    st.fixed_dictionaries({"kind": st.just("end"), "outcome": st.just("failed"), "reason": st.just("x")}),
)


@given(st.lists(st.tuples(EVENTS, st.booleans()), max_size=40))
def test_what_is_passed_over_changes_nothing(events):
    with TemporaryDirectory() as place:
        folder = RunFolder(Path(place))
        folder.inner.mkdir()
        reader, whole = Reader(folder), History()
        for event, look in events:
            details = dict(event)
            folder.event(details.pop("kind"), **details)
            if look:
                reader.look()
        for event in parsed(folder.lines()[0]):
            whole.take(event)
        assert reader.look() == history(folder) == whole


def test_lines_of_rounds_that_are_over_are_not_parsed(tmp_path):
    folder = RunFolder(tmp_path)
    folder.inner.mkdir()
    folder.event("asked", round=1, site="a", what="train")
    folder.event("round", round=1, **ROUND)
    folder.event("asked", round=2, site="b", what="train")
    with folder.events_file.open("ab") as file:
        file.write(b'{"event": "reply", "site": "b"')  # what is cut off now ends a round's line later
    text = folder.events_file.read_bytes().replace(b'"what": "train"}', b'"what": ', 1)
    folder.events_file.write_bytes(text)
    found = history(folder)
    assert (found.done, list(found.places)) == (1, ["b"])
