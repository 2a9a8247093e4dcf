"""Settings written as TOML are read back as they were."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from common.toml import table, to_toml

NAMES = st.from_regex(r"\A[a-z_]{1,12}\Z")
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = SCALARS | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(settings=st.dictionaries(NAMES, VALUES | st.dictionaries(NAMES, VALUES, max_size=3), max_size=5))
def test_settings_are_read_back(settings):
    assert tomllib.loads(to_toml(settings)) == settings


@given(first=st.dictionaries(NAMES, VALUES, max_size=3), values=st.dictionaries(NAMES, VALUES, max_size=3))
def test_a_section_can_be_put_at_the_end(first, values):
    text = to_toml(first) + "\n".join(table("new_section", values)) + "\n"
    assert tomllib.loads(text) == first | {"new_section": values}
