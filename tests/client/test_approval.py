"""Approval: what is checked before yes, what no takes back, and that both are on the log whatever crashes."""

from __future__ import annotations

import pytest

from client.approval import CohortSize, approve, refuse, review
from client.approval_words import lines
from client.audit_log import AuditLog
from client.ledger import Ledger
from client.policy import EpsilonTooLarge, ModelTooLarge, NotApproved, TooManySteps, check_study
from client.site import CoordinatorSettings, DataSettings, PolicySettings, SiteConfig, create_site
from common.errors import BudgetExceeded, LedgerError, TrustError
from common.pki.keys import new_study_key, study_public
from common.pki.signature import sign_study
from common.privacy.events import Gaussian

KEY = new_study_key()


@pytest.fixture
def site(tmp_path):
    """A joined site; keywords are policy settings."""

    def make(*, simulated=False, **policy):
        joined = CoordinatorSettings(address="h.example:1", study_key=study_public(KEY), invitation="0" * 64)
        config = SiteConfig(
            name="st-anna",
            simulated=simulated,
            data=DataSettings(dicom="/pacs/export"),
            policy=PolicySettings(**{"max_epsilon": 20.0, "max_delta": 1e-3, **policy}),
            coordinator=CoordinatorSettings() if simulated else joined,
        )
        return create_site(tmp_path / "site", config)

    return make


def kinds(site) -> list[str]:
    return [entry.kind for entry in AuditLog(site.audit_file).read()]


def files(site) -> list[str]:
    return sorted(path.name for path in (site.folder / "approved").glob("*"))


def test_yes_is_a_signed_approval_and_a_line_on_the_log(site, small_study):
    here, study = site(), small_study()
    line = sign_study(study, KEY)
    approve(here, study, line)
    assert here.is_approved(study)
    assert files(here) == [f"{study.digest}.json", f"{study.digest}.json.sig"]
    (entry,) = AuditLog(here.audit_file).read()
    assert (entry.kind, entry.details["study"], entry.details["name"]) == ("study-approved", study.digest, "small")


def test_a_simulated_site_needs_no_signature(site, small_study):
    here, study = site(simulated=True), small_study()
    approve(here, study, "")
    assert here.is_approved(study)
    assert kinds(here) == ["study-approved"]


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        ({"max_epsilon": 7.0}, EpsilonTooLarge),
        ({"max_steps": 1}, TooManySteps),
        ({"max_parameters": 1_000_000}, ModelTooLarge),
        ({"max_epsilon": 8.0}, BudgetExceeded),
    ],
    ids=["epsilon", "steps", "model", "budget with its evaluations"],
)
def test_what_the_policy_or_the_budget_would_refuse_is_not_approved(site, small_study, policy, error):
    here, study = site(**policy), small_study()
    with pytest.raises(error):
        approve(here, study, sign_study(study, KEY))
    assert not here.is_approved(study)
    assert kinds(here) == files(here) == []


def test_what_was_spent_before_counts(site, small_study):
    here, study = site(max_epsilon=10.0), small_study()
    book = Ledger(here.ledger_file)
    book.reserve(
        cohort="default", study_digest="a" * 64, round_=1, events=[Gaussian(0.5)], max_epsilon=10.0, max_delta=1e-3
    )
    with pytest.raises(BudgetExceeded, match=r"policy\.max_epsilon is 10"):
        approve(here, study, sign_study(study, KEY))


def test_a_ledger_that_is_gone_stops_every_decision_for_yes(site, small_study):
    here, study = site(), small_study()
    Ledger(here.ledger_file).reserve(
        cohort="default", study_digest="a" * 64, round_=1, events=[Gaussian(9.0)], max_epsilon=20.0, max_delta=1e-3
    )
    here.ledger_file.unlink()
    with pytest.raises(LedgerError):
        approve(here, study, sign_study(study, KEY))
    assert not here.is_approved(study)


@pytest.mark.parametrize("signature", ["", "fedct-study-1", "another key", "another study"])
def test_without_the_coordinators_signature_nothing_is_approved(site, small_study, signature):
    here, study = site(), small_study()
    forged = {
        "another key": sign_study(study, new_study_key()),
        "another study": sign_study(small_study(name="other"), KEY),
    }
    with pytest.raises(TrustError):
        approve(here, study, forged.get(signature, signature))
    assert not here.is_approved(study)
    assert kinds(here) == files(here) == []


def test_no_takes_an_approval_back_and_can_be_said_before_it(site, small_study):
    here, study = site(), small_study()
    assert refuse(here, study) is False
    approve(here, study, sign_study(study, KEY))
    assert refuse(here, study) is True
    assert not here.is_approved(study)
    assert files(here) == []
    assert kinds(here) == ["study-refused", "study-approved", "study-refused"]
    assert [e.details.get("was_approved") for e in AuditLog(here.audit_file).read()] == [False, None, True]
    with pytest.raises(NotApproved):
        check_study(study, here.config.policy, approved=here.is_approved(study), round_=1)


def test_a_log_that_can_not_be_written_stops_yes_and_not_no(site, small_study, monkeypatch):
    here, study = site(), small_study()
    approve(here, study, sign_study(study, KEY))

    def full(*_):
        raise OSError(28, "full")

    monkeypatch.setattr(AuditLog, "append", full)
    with pytest.raises(OSError, match="full"):
        refuse(here, study)
    assert not here.is_approved(study)
    with pytest.raises(OSError, match="full"):
        approve(here, study, sign_study(study, KEY))
    assert not here.is_approved(study)


def test_a_review_changes_nothing_and_knows_the_cohort(site, small_study, write_cohort):
    here, study = site(), small_study()
    before = sorted(here.folder.rglob("*"))
    told = review(here, study, sign_study(study, KEY))
    assert (told.signature, told.cohort, told.forecast.approved) == ("", None, False)
    assert sorted(here.folder.rglob("*")) == before
    write_cohort(here, study)
    assert review(here, study, "").cohort == CohortSize(training=9, held_out=3)
    assert "has no signature" in review(here, study, "").signature


def words(site, study, signature="") -> str:
    return "\n".join(lines(site, study, review(site, study, signature)))


def test_the_words_say_what_is_done_with_whose_data_and_what_leaves(site, small_study, write_cohort):
    here, study = site(), small_study()
    write_cohort(here, study)
    text = words(here, study, sign_study(study, KEY))
    for said in (
        study.digest,
        "signed by the coordinator at h.example:1",
        "approved   no",
        "tell apart: dark, bright; one label a patient, from column 'label'",
        "sagittal planes of 32 x 32 pixels of 2 mm",
        "2 rounds of 1 step each at every site, 2 in all",
        "The first message with the model has 46 MB, a later one and an update 45 MB",
        "CT in '/pacs/export', labels in",
        "9 patients train it, 3 are held out",
        "each patient is drawn with probability 0.5",
        "with noise: epsilon 8 at delta 0.001 for each patient",
        "Evaluation counts with noise",
        "It makes 2 training steps, of at most 10,000.",
    ):
        assert said in text, said
    assert "DOES NOT HOLD" not in text


def test_the_words_warn_of_a_missing_signature_missing_noise_and_exact_counts(site, small_study):
    here = site(evaluation="exact", allow_without_privacy=True)
    text = words(here, small_study(privacy={"unit": "off"}))
    assert "DOES NOT HOLD: study 'small' has no signature" in text
    assert "WITHOUT noise" in text
    assert "EXACT evaluation counts" in text
    assert "not ingested for it yet" in text
    assert "DOES NOT HOLD" not in words(site_simulated(here), small_study())


def site_simulated(site):
    return create_site(site.folder.with_name("simulated"), SiteConfig(name="sim", simulated=True))


def test_what_a_coordinator_wrote_can_not_speak_to_the_terminal(site, small_study):
    study = small_study(title="a\x1b[2Jb", description="c\u202ed", task={"classes": ["x\x07", "y"]})
    text = words(site(), study)
    assert "a?[2Jb" in text
    assert all(letter.isprintable() for letter in text.replace("\n", ""))
