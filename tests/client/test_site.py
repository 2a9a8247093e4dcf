"""The site folder: what it holds, what it refuses, and that its defaults are strict."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.site import DataSettings, PolicySettings, Site, SiteConfig, create_site, load_site, load_sites
from common.errors import SiteError
from common.study import Study, parse_study

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
    ),
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return create_site(tmp_path / "north", SiteConfig(name="north"))


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


def test_an_approval_that_can_not_be_read_is_none(site: Site):
    study = study_named("spine")
    os.makedirs(site.folder / "approved" / f"{study.digest}.json")
    assert not site.is_approved(study)


def test_approvals_are_the_owners_alone(site: Site):
    site.approve(study_named("spine"))
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (site.folder / "approved").rglob("*")]
    assert modes == [0o600]
    assert stat.S_IMODE((site.folder / "approved").stat().st_mode) == 0o700


@pytest.mark.parametrize("title", ["\x7f", "\U0001f3e5", 'a "quoted" \\ back\nslash', "\u2028"])
def test_any_title_makes_a_valid_file(tmp_path: Path, title: str):
    create_site(tmp_path, SiteConfig(name="n", title=title))
    assert tomllib.loads((tmp_path / "site.toml").read_text(encoding="utf-8"))["title"] == title
