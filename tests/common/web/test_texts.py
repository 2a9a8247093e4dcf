"""The words of the pages are in one table, and no template says any of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import common.web
from common.web.texts import Texts

FOLDER = Path(common.web.__file__).parent


def test_a_message_is_filled_in_and_a_missing_word_is_an_error():
    texts = Texts("common.web")
    assert texts("problem.fields", fields="name") == "See: name"
    with pytest.raises(KeyError):
        texts("problem.fields")
    with pytest.raises(KeyError):
        texts("no.such")


def test_every_message_that_a_template_asks_for_is_there():
    asked = set()
    for template in (FOLDER / "templates").glob("*.j2"):
        asked |= set(re.findall(r'\bt\("([\w.-]+)"[,)]', template.read_text()))
    texts = Texts("common.web")
    assert asked
    assert [key for key in asked if key not in texts] == []
