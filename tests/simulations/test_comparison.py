import numpy as np
import pytest

from client.ingest import ingest, open_cohort
from client.site import load_sites
from simulations.comparison import Pooled, compare


@pytest.fixture
def cohorts(make_sites, small_study):
    study = small_study(privacy={"unit": "off"})
    sites = load_sites(make_sites(3, patients=6))
    for site in sites:
        ingest(site, study)
    return study, sites


def test_the_pool_holds_every_cohort_in_its_order(cohorts):
    study, sites = cohorts
    parts = [open_cohort(site, study) for site in sites]
    pool = Pooled(parts)
    everything = np.concatenate([part.pixels(np.arange(len(part.labels))) for part in parts])
    order = np.random.default_rng(0).permutation(len(pool.labels))
    assert np.array_equal(pool.pixels(order), everything[order])
    assert np.array_equal(pool.labels, np.concatenate([part.labels for part in parts]))
    members = np.concatenate(pool.training_patients())
    assert len(members) == len(set(members)) == sum(len(p) for part in parts for p in part.training_patients())
    assert pool.pixels(order[:0]).shape == (0, *everything.shape[1:])


@pytest.mark.slow
def test_each_hospital_alone_and_all_together_are_judged_on_the_same_patients(cohorts):
    study, sites = cohorts
    seen = []
    compared = compare(study, sites, ("local", "central"), 0, None, lambda done, total: seen.append((done, total)))
    found = compared.comparisons
    held_out = {s.name: len(open_cohort(s, study).holdout_patients()) for s in sites}
    assert {n: m.cases for n, m in found["central"].per_site.items()} == held_out
    assert {n: m.cases for n, m in found["local"].per_site.items()} == held_out
    assert {m.cases for m in found["local"].pooled_per_site.values()} == {sum(held_out.values())}
    assert found["central"].pooled.cases == sum(held_out.values())
    steps = study.total_steps
    assert seen[-1] == (3 * steps + 3 * steps, 6 * steps)
    for kind, own in (("local", found["local"].per_site), ("central", found["central"].per_site)):
        for site, judgement in compared.judgements[kind].items():
            assert judgement.held_out.all()
            assert sum(judgement.right().values()) == pytest.approx(np.trace(own[site].confusion))
