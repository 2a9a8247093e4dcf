"""docs/reliability.md is the table of the failures that tests bring about: one row for each ``failure`` mark.

``@pytest.mark.failure(broken, seen=..., ends=..., ledgers=...)`` stands on a test that breaks something: what was
broken, what the operator sees, how the run ends, and what is on the ledgers. ``python tests/docs/test_reliability.py``
writes the page's table anew.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
COLUMNS = ("seen", "ends", "ledgers")
HEAD = "| what was broken | what the operator sees | how the run ends | the ledgers | test |\n|--|--|--|--|--|\n"
SECTIONS = {
    "The coordinator": ("tests/server/test_run", "tests/server/test_checkpoints", "tests/server/test_daemon"),
    "The network and Flower": ("tests/e2e",),
    "A site's answer": ("tests/server/test_rounds", "tests/server/test_asking"),
    "A site": ("tests/client",),
    "Keys, certificates and what is signed": ("tests/protocol", "tests/server/test_admission"),
}


def marks(path: Path) -> list[tuple[str, list[str]]]:
    """(test, cells) of each mark in a file, in order."""
    found = []
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef):
            continue
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.failure":
                said = {keyword.arg: ast.literal_eval(keyword.value) for keyword in decorator.keywords}
                broken = ast.literal_eval(decorator.args[0])
                found.append((function.name, [broken, *(said[name] for name in COLUMNS)]))
    return found


def table() -> str:
    """All rows under their headings."""
    files = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    text = ""
    for heading, prefixes in SECTIONS.items():
        text += f"\n## {heading}\n{HEAD}"
        for prefix in prefixes:
            for name in [name for name in files if name.startswith(prefix)]:
                for test, cells in marks(files[name]):
                    text += f"| {' | '.join(cells)} | [{test.removeprefix('test_').replace('_', ' ')}](../{name}) |\n"
    return text + "\n"


def test_the_page_shows_the_failures_that_tests_bring_about():
    _, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    shown, _ = rest.split(END)
    assert shown == table(), "run 'python tests/docs/test_reliability.py'"


def test_every_mark_is_on_the_page():
    everywhere = [mark for path in (ROOT / "tests").rglob("test_*.py") for mark in marks(path)]
    assert len(everywhere) == table().count("](../tests/") > 20
    assert all(all(cells) for _, cells in everywhere)


if __name__ == "__main__":
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.split(END)[1], encoding="utf-8")
