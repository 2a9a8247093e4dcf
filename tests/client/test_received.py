"""The model as a site receives it: the base once, and weights that stay."""

import dataclasses
import resource

import numpy as np
import pytest

from client import participation
from client.participation import participate
from client.received import BaseMissing, Received, keep_local, network
from client.site import load_site
from common.errors import DataError, StorageError
from common.messages import Request
from common.models import parts
from common.models.weights import initial_model, to_vector
from common.wire import unpack


@pytest.fixture
def site(make_sites):
    return load_site(make_sites(1) / "site-1")


def later(received):
    """The same without the base, as a second message has it."""
    return dataclasses.replace(received, base=None)


def test_the_base_that_came_once_is_used_again(site, small_study):
    study = small_study(model={"trainable": "head"})
    model = initial_model(study, 3)
    received = Received.whole(model, study)
    assert np.array_equal(to_vector(network(site, study, received)), to_vector(model))
    moved = dataclasses.replace(later(received), shared=received.shared + 1)
    again = network(site, study, moved)
    assert np.array_equal(parts.read(parts.base(again, study)), received.base)
    assert np.array_equal(parts.read(parts.shared(again, study)), received.shared + 1)


def test_a_base_that_is_not_here_is_asked_for(site, small_study):
    study = small_study()
    with pytest.raises(BaseMissing) as caught:
        network(site, study, later(Received.whole(initial_model(study, 0), study)))
    assert caught.value.code == "base-missing"


def test_a_base_that_was_altered_on_disk_is_asked_for(site, small_study):
    study = small_study()
    received = Received.whole(initial_model(study, 0), study)
    network(site, study, received)
    (kept,) = site.models_dir.rglob("base.safetensors")
    for content in (kept.read_bytes()[:-1] + b"x", b"", b"nonsense"):
        kept.write_bytes(content)
        with pytest.raises(BaseMissing):
            network(site, study, later(received))


def test_the_base_of_another_study_is_not_taken(site, small_study):
    one, other = small_study(), small_study(federation={"rounds": 3})
    received = Received.whole(initial_model(one, 0), one)
    network(site, one, received)
    with pytest.raises(BaseMissing):
        network(site, other, later(received))


ATTACKS = {
    "a base with another digest": lambda r: dataclasses.replace(r, base_digest="0" * 64),
    "a base of another length": lambda r: dataclasses.replace(r, base=r.base[1:], base_digest=parts.digest(r.base[1:])),
    "shared weights of another length": lambda r: dataclasses.replace(r, shared=r.shared[1:]),
    "shared weights that are not finite": lambda r: dataclasses.replace(r, shared=r.shared * np.float32(np.nan)),
    "a base that is not finite": lambda r: dataclasses.replace(
        r, base=r.base * np.float32(np.inf), base_digest=parts.digest(r.base * np.float32(np.inf))
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_model_that_does_not_fit_is_refused_and_nothing_is_kept(site, small_study, name):
    study = small_study(model={"trainable": "head"})
    with pytest.raises(DataError):
        network(site, study, ATTACKS[name](Received.whole(initial_model(study, 0), study)))
    assert not site.models_dir.exists()


def test_a_disk_that_is_full_is_said_to_be_and_keeps_nothing(site, small_study):
    study = small_study(model={"trainable": "head"})
    received = Received.whole(initial_model(study, 0), study)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(StorageError, match="no space"):
            network(site, study, received)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(BaseMissing):
        network(site, study, later(received))


def test_what_is_kept_can_be_read_by_the_sites_user_only(site, small_study):
    study = small_study(model={"local": "norm"})
    model = network(site, study, Received.whole(initial_model(study, 0), study))
    keep_local(site, study, model)
    kept = [site.models_dir, *site.models_dir.rglob("*")]
    assert {path.name for path in kept} == {"models", study.digest, "base.safetensors", "local.safetensors"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)


def test_no_local_weights_are_kept_where_the_study_has_none(site, small_study):
    study = small_study()
    keep_local(site, study, network(site, study, Received.whole(initial_model(study, 0), study)))
    assert list(site.models_dir.rglob("local.safetensors")) == []


@pytest.fixture
def cohort(site, small_study, write_cohort):
    """A site with a cohort of a study that it approved."""

    def make(**sections):
        study = small_study(**{"federation": {"rounds": 4}, **sections})
        write_cohort(site, study)
        site.approve(study)
        return site, study, Request(study=study.canonical_json(), round=1, seed=0)

    return make


@pytest.mark.parametrize("local", ["norm", "head"])
def test_local_weights_are_trained_kept_and_neither_sent_nor_overwritten(cohort, local, monkeypatch):
    site, study, request = cohort(model={"local": local}, evaluation={"holdout": 0.4, "every": 1})
    received = Received.whole(initial_model(study, 0), study)
    start = parts.read(parts.local(initial_model(study, 0), study))
    answer = participate(site, study, request, received, training=True)
    assert answer.update.size == received.shared.size
    assert received.shared.size + start.size <= to_vector(initial_model(study, 0)).size

    def own(message):
        return parts.read(parts.local(network(site, study, message), study))

    first = own(later(received))
    assert not np.array_equal(first, start)
    seen = []
    honest = participation.decide
    monkeypatch.setattr(
        participation,
        "decide",
        lambda model, *rest: seen.append(parts.read(parts.local(model, study))) or honest(model, *rest),
    )
    participate(site, study, request.model_copy(update={"round": 2}), received, training=True)
    assert np.array_equal(seen[0], first)  # its own, though the message brought the initial ones once more
    assert not np.array_equal(own(later(received)), first)


def test_an_update_travels_as_float16_after_the_noise(cohort):
    site, study, request = cohort(model={"trainable": "head"}, federation={"wire": "float16"})
    received = Received.whole(initial_model(study, 0), study)
    answer = participate(site, study, request, received, training=True)
    assert answer.update.dtype == np.float16
    update = unpack(answer.update, answer.reply.exponent, "float16", received.shared.size)
    assert np.abs(update).max() > 0
