import csv
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.site import load_sites
from common.errors import DataError, UsageError
from simulations.split import deal_skewed, split


@pytest.fixture
def data(make_sites):
    """Ten patients of one folder, with their label table."""
    site = make_sites(1, patients=10) / "site-1"
    return site / "dicom", site / "labels.csv"


def table(site, column="label"):
    with (site.folder / "labels.csv").open() as file:
        return {row["patient_id"]: row[column] for row in csv.DictReader(file)}


def test_every_patient_goes_to_one_site_with_all_files_and_rows(data, tmp_path):
    split(*data, tmp_path / "out", sites=3)
    sites = load_sites(tmp_path / "out")
    tables = [table(site) for site in sites]
    assert sorted(Counter(p for t in tables for p in t).values()) == [1] * 10
    assert sorted(len(t) for t in tables) == [3, 3, 4]
    for site, rows in zip(sites, tables, strict=True):
        assert sum(len(files) for _, _, files in os.walk(site.dicom_dir)) == 8 * len(rows)
        assert site.config.simulated


def test_the_seed_fixes_the_deal(data, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        split(*data, tmp_path / name, sites=3, seed=seed)
    first, again, other = ([table(s) for s in load_sites(tmp_path / n)] for n in "abc")
    assert first == again
    assert first != other


@given(patients=st.integers(1, 40), sites=st.integers(1, 8), alpha=st.floats(0.01, 100), seed=st.integers(0, 9))
def test_a_skewed_deal_loses_nobody_and_leaves_no_site_empty(patients, sites, alpha, seed):
    labels = {f"p{i}": str(i % 3) for i in range(patients)}
    if patients < sites:
        return
    deal = deal_skewed(labels, sites, alpha, seed)
    assert sorted(p for members in deal for p in members) == sorted(labels)
    assert all(deal)


def test_a_small_alpha_skews_and_a_large_one_does_not():
    labels = {f"p{i}": str(i % 2) for i in range(400)}
    share = lambda deal: [sum(labels[p] == "1" for p in d) / len(d) for d in deal]  # noqa: E731
    even, skewed = share(deal_skewed(labels, 4, 1000, 0)), share(deal_skewed(labels, 4, 0.1, 0))
    assert max(even) - min(even) < 0.2
    assert max(skewed) - min(skewed) > 0.4


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sites": 0}, UsageError, "--sites 0"),
        ({"sites": 11}, UsageError, "only 10 patients"),
        ({"alpha": 0.0}, UsageError, "--alpha 0.0"),
        ({"alpha": 1.0, "label_column": "grade"}, DataError, "no column 'grade'"),
    ],
)
def test_impossible_numbers_are_named_and_nothing_is_written(data, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        split(*data, tmp_path / "out", **{"sites": 2, **change})
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_missing_folder_and_a_table_of_strangers_are_named(data, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        split(tmp_path / "none", data[1], tmp_path / "out", sites=2)
    (tmp_path / "l.csv").write_text("patient_id,label\nX,dark\n")
    with pytest.raises(DataError, match="no patient of"):
        split(data[0], tmp_path / "l.csv", tmp_path / "out", sites=2)


def test_an_existing_folder_is_never_written_into(data, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        split(*data, tmp_path / "out", sites=2)


def test_slice_labels_follow_their_patient(data, tmp_path, real_data):
    source = real_data / "sts_ct"
    split(source, source / "labels.csv", tmp_path / "out", sites=3, alpha=0.5, label_column="tumour")
    patients = [set(table(s, "tumour")) for s in load_sites(tmp_path / "out")]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 8
