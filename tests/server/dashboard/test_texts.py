"""The page's words are in its table: none is missing, and none is there for nobody."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import server.dashboard
from common.web.texts import Texts
from server.dashboard.results import FILES
from server.history import Doing
from server.runs import State

FOLDER = Path(server.dashboard.__file__).parent


def test_every_word_that_the_page_asks_for_is_in_its_table_and_every_word_is_asked_for():
    sources = [*(FOLDER / "templates").glob("*.j2"), *FOLDER.glob("*.py")]
    text = "".join(path.read_text() for path in sources)
    asked = set(
        re.findall(r'"((?:nav|studies|study|results|compare|sites|invitation|admit|launch|signed)\.[\w-]+)"', text)
    )
    asked -= {*FILES, "study.json", "study.toml"}
    asked |= {f"study.{word}" for what in ("stop", "resume") for word in (what, f"ask_{what}", f"why_{what}")}
    asked |= {f"state.{state}" for state in get_args(State)} | {f"doing.{one}" for one in get_args(Doing)}
    standings = ("invited", "expired", "admitted", "revoked", "withdrawn")
    asked |= {f"standing.{one}" for one in standings}
    asked |= {f"node.{one}" for one in ("online", "offline", "registered", "unregistered", "unknown")}
    asked |= {f"results.{file.replace('.', '_')}" for file in FILES}
    own = set(Texts("server.dashboard").keys())
    assert asked - own == set()
    assert own - asked == set()
