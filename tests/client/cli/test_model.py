from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.site import CoordinatorSettings, SiteConfig, create_site
from common.errors import TrustError, UsageError
from common.pki.keys import new_study_key, study_public
from common.provenance import chain, sign
from common.study import canonical_json

KEY = new_study_key()


@pytest.fixture
def folder(tmp_path):
    """A signed model without rounds."""
    import hashlib

    import numpy as np
    import safetensors.numpy

    study = hashlib.sha256(b'{"name":"x"}').hexdigest()
    model = safetensors.numpy.save({"w": np.zeros(1, np.float32)}, {"fedct": canonical_json({"study": study})})
    card = json.dumps({"study_digest": study, "model_sha256": hashlib.sha256(model).hexdigest()}).encode()
    links = chain({"study": {"name": "x"}, "rounds": []}, card, model)
    (tmp_path / "model.safetensors").write_bytes(model)
    (tmp_path / "model-card.json").write_bytes(card)
    (tmp_path / "provenance.json").write_text(sign(links, KEY).model_dump_json())
    return tmp_path


def verify(*words):
    return CliRunner().invoke(app, ["model", "verify", *map(str, words)])


def test_the_study_key_decides(folder):
    result = verify(folder, "--study-key", study_public(KEY))
    assert result.exit_code == 0
    assert "Signed by the coordinator" in result.stdout
    wrong = verify(folder, "--study-key", study_public(new_study_key()))
    assert isinstance(wrong.exception, TrustError)


def test_without_a_key_it_says_loudly_that_nobody_vouches(folder):
    assert "SIGNATURE NOT CHECKED" in verify(folder).stdout
    assert json.loads(verify(folder, "--json").stdout)["vouched"] is False


def test_a_site_trusts_the_coordinator_that_it_joined_and_no_other(folder, tmp_path):
    for name, key in (("ours", KEY), ("theirs", new_study_key())):
        settings = CoordinatorSettings(address="h.example:8443", study_key=study_public(key), invitation="a" * 64)
        create_site(tmp_path / name, SiteConfig(name=name, coordinator=settings))
    assert "Signed by the coordinator" in verify(folder, "--site", tmp_path / "ours").stdout
    assert isinstance(verify(folder, "--site", tmp_path / "theirs").exception, TrustError)


def test_a_site_that_joined_nobody_has_no_key_to_check_with(folder, tmp_path):
    create_site(tmp_path / "alone", SiteConfig(name="alone"))
    assert isinstance(verify(folder, "--site", tmp_path / "alone").exception, TrustError)
    both = verify(folder, "--site", tmp_path / "alone", "--study-key", study_public(KEY))
    assert isinstance(both.exception, UsageError)
