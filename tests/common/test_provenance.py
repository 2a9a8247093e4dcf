"""The chain from study to model file, and those who would bend it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy

from common.errors import TrustError, UsageError
from common.models.metadata import saved_weights_digest
from common.pki.keys import new_study_key, study_public
from common.provenance import Provenance, chain, sign, verify
from common.study import canonical_json

KEY = new_study_key()


def model_bytes(study: str, value: float = 1.0) -> bytes:
    return safetensors.numpy.save({"w": np.full(3, value, np.float32)}, {"fedct": canonical_json({"study": study})})


@pytest.fixture
def folder(tmp_path):
    """A model with its card, results of two rounds, and signed provenance."""
    plan = {"name": "small", "task": {"classes": ["a", "b"]}, "rate": 0.1}
    study = hashlib.sha256(canonical_json(plan).encode()).hexdigest()
    model = model_bytes(study)
    digest = hashlib.sha256(model).hexdigest()
    after = [saved_weights_digest(one) for one in (model_bytes(study, 0.5), model)]
    part = {"participation": [{"site": "x", "status": "ok"}]}
    rounds = [{"round": n, **part, "weights_sha256": weights} for n, weights in enumerate(after, start=1)]
    results = {"study": plan, "study_digest": study, "rounds": rounds, "model_sha256": digest, "accuracy": 0.8}
    card = json.dumps({"study_digest": study, "model_sha256": digest, "accuracy": 0.8}).encode()
    (tmp_path / "model.safetensors").write_bytes(model)
    (tmp_path / "model-card.json").write_bytes(card)
    (tmp_path / "results.json").write_text(json.dumps(results, indent=1))
    write(tmp_path, sign(chain(results, card, model), KEY))
    return tmp_path


def write(folder, provenance):
    (folder / "provenance.json").write_text(provenance.model_dump_json())


def read(folder):
    return Provenance.model_validate_json((folder / "provenance.json").read_bytes())


def rewrite(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_an_honest_chain_holds_and_says_what_was_checked(folder):
    found = verify(folder, study_public(KEY))
    assert (found.rounds, found.records, found.signed, found.vouched) == (2, True, True, True)
    assert verify(folder / "model.safetensors", study_public(KEY)) == found


def test_without_a_key_nobody_vouches(folder):
    found = verify(folder)
    assert (found.signed, found.vouched) == (True, False)


def test_without_results_the_records_count_as_not_compared(folder):
    (folder / "results.json").unlink()
    assert verify(folder, study_public(KEY)).records is False


def test_json_written_another_way_is_the_same_content(folder):
    rewrite(folder, "results.json", lambda content: content)
    assert verify(folder, study_public(KEY)).records


def swap_model(folder):
    study = json.loads((folder / "model-card.json").read_text())["study_digest"]
    (folder / "model.safetensors").write_bytes(model_bytes(study, 2.0))


def edit_link(**change):
    def attack(folder):
        rewrite(folder, "provenance.json", lambda content: content["links"][1].update(change))

    return attack


def drop_round(folder):
    rewrite(folder, "provenance.json", lambda content: content["links"].pop(2))


def reorder(folder):
    def swap(content):
        content["links"][1], content["links"][2] = content["links"][2], content["links"][1]

    rewrite(folder, "provenance.json", swap)


def edit(name, key, value):
    return lambda folder: rewrite(folder, name, lambda content: content.update({key: value}))


def edit_round(folder):
    rewrite(folder, "results.json", lambda content: content["rounds"][0]["participation"].pop())


def add_round(folder):
    rewrite(folder, "results.json", lambda content: content["rounds"].append({"round": 3}))


def rebuild(folder):
    """The forger's best: swap the model, mend every digest and hash, keep the signature that was there."""
    results = json.loads((folder / "results.json").read_text())
    model = model_bytes(results["study_digest"], 2.0)
    digest = hashlib.sha256(model).hexdigest()
    results["model_sha256"] = digest
    results["rounds"][-1]["weights_sha256"] = saved_weights_digest(model)
    card = json.dumps({"study_digest": results["study_digest"], "model_sha256": digest}).encode()
    (folder / "model.safetensors").write_bytes(model)
    (folder / "model-card.json").write_bytes(card)
    (folder / "results.json").write_text(json.dumps(results))
    write(folder, Provenance(links=chain(results, card, model), signature=read(folder).signature))


def another_end(folder):
    """A coordinator that signs another model than the one its rounds led to."""
    results = json.loads((folder / "results.json").read_text())
    results["rounds"][-1]["weights_sha256"] = results["rounds"][0]["weights_sha256"]
    (folder / "results.json").write_text(json.dumps(results))
    files = [(folder / name).read_bytes() for name in ("model-card.json", "model.safetensors")]
    write(folder, sign(chain(results, *files), KEY))


def resign(folder):
    write(folder, sign(read(folder).links, new_study_key()))


def unsign(folder):
    write(folder, sign(read(folder).links, None))


ATTACKS = {
    "another model lies in its place": (swap_model, "is not the file that the provenance names"),
    "a record's digest is edited": (edit_link(digest="0" * 64), r"link 2 \(round\) .* was edited"),
    "a link's hash is edited": (edit_link(hash="0" * 64), r"link 2 \(round\) .* was edited"),
    "a round is taken out of the chain": (drop_round, r"link 3 .* was edited, removed or moved"),
    "two rounds change places": (reorder, r"link 2 .* was edited, removed or moved"),
    "the card's accuracy is raised": (edit("model-card.json", "accuracy", 0.99), "is not the card"),
    "the results' accuracy is raised": (edit("results.json", "accuracy", 0.99), "its results is not what"),
    "the study is edited": (edit("results.json", "study", {"name": "other"}), "its study is not what"),
    "a hospital is taken out of a round": (edit_round, "round 1 is not what"),
    "a round is added to the results": (add_round, "has 3 rounds; the provenance has 2"),
    "everything is rebuilt around another model": (rebuild, "not signed by the owner"),
    "the last round led to other weights": (another_end, "not those after its last round"),
    "the chain is signed with another key": (resign, "not signed by the owner"),
    "the signature is taken away": (unsign, "has no signature"),
    "the card is taken away": (lambda folder: (folder / "model-card.json").unlink(), "does not exist"),
    "the provenance is taken away": (lambda folder: (folder / "provenance.json").unlink(), "nothing says where"),
    "the provenance is no JSON": (lambda folder: (folder / "provenance.json").write_text("x"), "provenance.json"),
    "the results are no JSON": (lambda folder: (folder / "results.json").write_text("["), "can't be read as results"),
    "an unknown field is smuggled in": (edit("provenance.json", "trusted", True), "unknown key"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_chain_breaks_when(folder, attack):
    bend, message = ATTACKS[attack]
    bend(folder)
    with pytest.raises(TrustError, match=message):
        verify(folder, study_public(KEY))


def test_a_model_of_another_study_breaks_it_even_with_right_digests(folder):
    results = json.loads((folder / "results.json").read_text())
    model = model_bytes("f" * 64)
    card = json.dumps({"study_digest": "f" * 64, "model_sha256": hashlib.sha256(model).hexdigest()}).encode()
    (folder / "model.safetensors").write_bytes(model)
    (folder / "model-card.json").write_bytes(card)
    write(folder, sign(chain(results, card, model), KEY))
    with pytest.raises(TrustError, match="of another study or model"):
        verify(folder, study_public(KEY))


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        verify(tmp_path)
