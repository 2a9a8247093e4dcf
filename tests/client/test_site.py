"""The site folder: what it holds, what it refuses, and that its defaults are strict."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from client.site import (
    CoordinatorSettings,
    DataSettings,
    PolicySettings,
    Site,
    SiteConfig,
    create_site,
    load_site,
    load_sites,
)
from common.errors import SiteError, TrustError
from common.pki.keys import new_study_key, study_public
from common.pki.signature import sign_study
from common.study import Study, parse_study

HEX = "0" * 64
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
CONFIGS = st.builds(
    SiteConfig,
    name=st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,20}\Z"),
    title=TEXT,
    simulated=st.booleans(),
    cohort=st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,20}\Z"),
    data=st.builds(DataSettings, dicom=TEXT, labels=TEXT),
    policy=st.builds(
        PolicySettings,
        max_epsilon=st.floats(1e-300, 1000),
        max_delta=st.floats(1e-300, 0.09),
        allow_without_privacy=st.booleans(),
        evaluation=st.sampled_from(["withheld", "noised", "exact"]),
        evaluation_sigma=st.floats(0.01, 1e6),
        max_steps=st.integers(1, 1_000_000_000),
        max_parameters=st.integers(1, 1_000_000_000),
        max_rounds_a_day=st.integers(1, 100_000),
        hours=st.sampled_from(["00:00-24:00", "19:30-06:00", "23:59-00:00"]),
    ),
    coordinator=st.just(CoordinatorSettings()),
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return create_site(tmp_path / "north", SiteConfig(name="north", simulated=True))


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return new_study_key()


@pytest.fixture
def joined(tmp_path: Path, key: Ed25519PrivateKey) -> Site:
    settings = CoordinatorSettings(address="h.example:1", study_key=study_public(key), invitation="0" * 64)
    return create_site(tmp_path / "south", SiteConfig(name="south", coordinator=settings))


def study_named(name: str, rounds: int = 5) -> Study:
    return parse_study(
        {
            "format": 1,
            "name": name,
            "task": {"classes": ["no", "yes"]},
            "input": {"windows": [{"low": -160, "high": 240}], "spacing_mm": 1.0, "size": 64},
            "model": {},
            "training": {"learning_rate": 0.1, "local_steps": 10, "batch_patients": 32},
            "privacy": {"unit": "off"},
            "federation": {"rounds": rounds},
        }
    )


@settings(max_examples=25, deadline=None)
@given(config=CONFIGS)
def test_a_site_comes_back_from_its_file_as_it_was_made(config: SiteConfig, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites") / "site"
    made = create_site(folder, config)
    assert load_site(folder) == made
    assert made.config == config


def test_only_the_owner_may_enter(site: Site):
    assert stat.S_IMODE(site.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((site.folder / "site.toml").stat().st_mode) == 0o600


def test_a_site_is_not_made_over_another(site: Site):
    before = (site.folder / "site.toml").read_bytes()
    with pytest.raises(SiteError, match="exists already"):
        create_site(site.folder, SiteConfig(name="south"))
    assert (site.folder / "site.toml").read_bytes() == before


def test_a_name_alone_makes_a_site_with_strict_limits(tmp_path: Path):
    (tmp_path / "site.toml").write_text('name = "north"\n')
    policy = load_site(tmp_path).config.policy
    assert policy == PolicySettings()
    assert (policy.max_epsilon, policy.max_delta, policy.evaluation) == (8.0, 1e-5, "noised")
    assert policy.allow_without_privacy is False


def test_a_whole_number_is_a_limit_too(tmp_path: Path):
    (tmp_path / "site.toml").write_text('name = "n"\n[policy]\nmax_epsilon = 3\n')
    assert load_site(tmp_path).config.policy.max_epsilon == 3.0


def test_paths_are_taken_from_the_site_folder(site: Site):
    assert site.name == "north"
    assert site.dicom_dir == site.folder / "dicom"
    assert site.labels_file == site.folder / "labels.csv"
    assert {p.parent for p in (site.cohorts_dir, site.ledger_file, site.audit_file)} == {site.folder}
    assert Site(site.folder, SiteConfig(name="n", data=DataSettings(dicom="/pacs"))).dicom_dir == Path("/pacs")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "name"),
        ('name = "No Spaces"', "No Spaces"),
        ('name = "n"\ncohort = ""', "cohort"),
        ('name = "n"\n[policy]\nmax_epsilon = 0', r"policy\.max_epsilon = 0"),
        ('name = "n"\n[policy]\nmax_epsilon = inf', r"policy\.max_epsilon = inf"),
        ('name = "n"\n[policy]\nmax_delta = 0.5', r"policy\.max_delta = 0\.5"),
        ('name = "n"\n[policy]\nallow_without_privacy = 1', r"policy\.allow_without_privacy = 1"),
        ('name = "n"\n[policy]\nevaluation = "plain"', r"policy\.evaluation = 'plain'"),
        ('name = "n"\n[policy]\nevaluation_sigma = 0', r"policy\.evaluation_sigma = 0"),
        ('name = "n"\n[policy]\nmax_epsilon = true', r"policy\.max_epsilon = True"),
        ('name = "n"\n[policy]\nmax_delta = "1e-5"', r"policy\.max_delta = '1e-5'"),
        ('name = "n"\n[policy]\nmax_epsilom = 3', r"policy\.max_epsilom = 3: unknown key"),
        ('name = "n"\n[policy]\nmax_steps = 0', r"policy\.max_steps = 0"),
        ('name = "n"\n[policy]\nmax_parameters = 1.5', r"policy\.max_parameters = 1\.5"),
        ('name = "n"\n[policy]\nmax_rounds_a_day = -1', r"policy\.max_rounds_a_day = -1"),
        ('name = "n"\n[policy]\nhours = "night"', r"policy\.hours = 'night'"),
        ('name = "n"\n[policy]\nhours = "24:00-06:00"', r"policy\.hours = '24:00-06:00'"),
        ('name = "n"\n[policy]\nhours = "06:00-06:00"', r"policy\.hours = '06:00-06:00': expected two different"),
        ('name = "n"\n[coordinator]\naddress = "h:1"', "expected all three or none"),
        ('name = "n"\n[coordinator]\nstudy_key = "0"', r"coordinator\.study_key = '0'"),
        (f'name = "n"\n[coordinator]\naddress = "h"\nstudy_key = "{HEX}"\ninvitation = "{HEX}"', "not HOST:PORT"),
        (
            f'name = "n"\nsimulated = true\n[coordinator]\naddress = "h:1"\nstudy_key = "{HEX}"\ninvitation = "{HEX}"',
            "simulated is true",
        ),
        ('name = "n"\nname = "m"', "can't be read"),
        ("name = ", "can't be read"),
    ],
)
def test_a_bad_site_file_is_refused_by_file_key_and_value(tmp_path: Path, text: str, named: str):
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(SiteError, match=named) as caught:
        load_site(tmp_path)
    assert str(tmp_path / "site.toml") in caught.value.message


def test_a_folder_without_a_site_file_is_refused(tmp_path: Path):
    with pytest.raises(SiteError, match=r"site\.toml' does not exist"):
        load_site(tmp_path)
    with pytest.raises(SiteError, match=r"site folder .* does not exist"):
        load_site(tmp_path / "none")


def test_sites_are_found_by_name_whatever_their_folders(tmp_path: Path):
    for folder, name in (("1", "west"), ("2", "east")):
        create_site(tmp_path / folder, SiteConfig(name=name))
    (tmp_path / "notes").mkdir()
    assert [s.name for s in load_sites(tmp_path)] == ["east", "west"]


def test_two_sites_of_one_name_are_refused(tmp_path: Path):
    for folder in ("1", "2"):
        create_site(tmp_path / folder, SiteConfig(name="east"))
    with pytest.raises(SiteError, match=r"two sites .* named 'east'"):
        load_sites(tmp_path)


def test_no_sites_at_all_are_refused(tmp_path: Path):
    with pytest.raises(SiteError, match="holds no site folder"):
        load_sites(tmp_path)
    with pytest.raises(SiteError, match="does not exist"):
        load_sites(tmp_path / "none")


def test_one_bad_site_among_good_ones_is_named(tmp_path: Path, site: Site):
    (tmp_path / "south").mkdir()
    (tmp_path / "south" / "site.toml").write_text("name = 1")
    with pytest.raises(SiteError, match="south"):
        load_sites(tmp_path)


# Approval


def test_nothing_is_approved_until_it_is(site: Site):
    study = study_named("spine")
    assert not site.is_approved(study)
    site.approve(study)
    assert site.is_approved(study)
    site.approve(study)
    assert site.is_approved(study)


def test_a_study_changed_in_one_value_is_not_approved(site: Site):
    site.approve(study_named("spine", rounds=5))
    assert not site.is_approved(study_named("spine", rounds=6))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff"])
def test_an_approval_of_other_content_under_the_right_name_is_none(site: Site, content: bytes):
    study = study_named("spine")
    site.approve(study)
    (site.folder / "approved" / f"{study.digest}.json").write_bytes(content)
    assert not site.is_approved(study)
    assert not site.has_approved(study.digest)


def test_another_studys_text_under_a_digest_approves_neither(site: Site):
    study, other = study_named("spine"), study_named("spine", rounds=6)
    site.approve(study)
    (site.folder / "approved" / f"{other.digest}.json").write_text(study.canonical_json())
    assert not site.has_approved(other.digest)
    assert not site.is_approved(other)


def test_a_digest_is_known_once_its_study_is_approved(site: Site):
    study = study_named("spine")
    assert not site.has_approved(study.digest)
    site.approve(study)
    assert site.has_approved(study.digest)


@pytest.mark.parametrize("digest", ["", "..", "../site", "a" * 63, "A" * 64, "a" * 64 + "\n", "/" + "a" * 63])
def test_what_is_no_digest_is_not_approved_and_reaches_no_other_file(site: Site, digest: str):
    site.approve(study_named("spine"))
    (site.folder / "approved" / f"{'A' * 64}.json").write_text("{}")
    assert not site.has_approved(digest)


def test_an_approval_that_can_not_be_read_is_none(site: Site):
    study = study_named("spine")
    os.makedirs(site.folder / "approved" / f"{study.digest}.json")
    assert not site.is_approved(study)


def test_approvals_are_the_owners_alone(site: Site):
    site.approve(study_named("spine"))
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (site.folder / "approved").rglob("*")]
    assert modes == [0o600]
    assert stat.S_IMODE((site.folder / "approved").stat().st_mode) == 0o700


def test_a_joined_site_approves_what_its_coordinator_signed_and_nothing_else(joined: Site, key: Ed25519PrivateKey):
    study, other = study_named("spine"), study_named("spine", rounds=6)
    for signature in ("", sign_study(other, key), sign_study(study, new_study_key()), "fedct-study-1"):
        with pytest.raises(TrustError):
            joined.approve(study, signature)
        assert not joined.is_approved(study)
    joined.approve(study, sign_study(study, key))
    assert joined.is_approved(study)
    assert not joined.is_approved(other)


def test_an_approval_put_in_place_without_a_valid_signature_is_none(joined: Site, key: Ed25519PrivateKey):
    study = study_named("spine")
    joined.approve(study, sign_study(study, key))
    signature = joined.folder / "approved" / f"{study.digest}.json.sig"
    for content in (sign_study(study, new_study_key()).encode(), b"", b"\xff"):
        signature.write_bytes(content)
        assert not joined.is_approved(study)
        assert not joined.has_approved(study.digest)
    signature.unlink()
    assert not joined.is_approved(study)
    assert not joined.has_approved(study.digest)


def test_a_site_that_neither_joined_nor_is_simulated_approves_nothing(tmp_path: Path, key: Ed25519PrivateKey):
    alone, study = create_site(tmp_path / "alone", SiteConfig(name="alone")), study_named("spine")
    with pytest.raises(TrustError, match="joined no coordinator"):
        alone.approve(study, sign_study(study, key))
    (alone.folder / "approved").mkdir()
    (alone.folder / "approved" / f"{study.digest}.json").write_text(study.canonical_json())
    assert not alone.is_approved(study)


def test_an_approval_taken_back_is_none(joined: Site, key: Ed25519PrivateKey):
    study = study_named("spine")
    assert joined.withdraw(study) is False
    joined.approve(study, sign_study(study, key))
    assert joined.withdraw(study) is True
    assert not joined.is_approved(study)
    assert list((joined.folder / "approved").iterdir()) == []


@pytest.mark.parametrize("title", ["\x7f", "\U0001f3e5", 'a "quoted" \\ back\nslash', "\u2028"])
def test_any_title_makes_a_valid_file(tmp_path: Path, title: str):
    create_site(tmp_path, SiteConfig(name="n", title=title))
    assert tomllib.loads((tmp_path / "site.toml").read_text(encoding="utf-8"))["title"] == title
