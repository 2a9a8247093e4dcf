"""The documentation says what the code does: keys, codes, fields, links and commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import psutil
import pytest
import typer
from pydantic_core import PydanticUndefined

import client.cli
import server.cli
import simulations.cli
from client import bundle, policy, site
from client.ingest.records import Reason
from common import errors, messages, study
from common.console import INTERRUPTED
from server.coordinator import CoordinatorConfig
from simulations.benchmarks.__main__ import app as benchmarks_app
from simulations.flower import processes_of

ROOT = Path(__file__).resolve().parents[2]
SITE, COORDINATOR, ARCHITECTURE = (
    ROOT / "docs" / f"{n}.md" for n in ("site-guide", "coordinator-guide", "architecture")
)
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
RUN_IN_ORDER = (COORDINATOR, SITE, ROOT / "README.md")
SECTIONS = {
    COORDINATOR: {"Top level": study.Study, "task": study.Task, "input": study.Input, "model": study.Model}
    | {"training": study.Training, "privacy": study.Privacy, "federation": study.Federation}
    | {"evaluation": study.Evaluation},
    SITE: {"Top level": site.SiteConfig, "data": site.DataSettings, "policy": site.PolicySettings}
    | {"coordinator": site.CoordinatorSettings, "service": site.ServiceSettings},
    ARCHITECTURE: {"Request": messages.Request, "Hello": messages.Hello, "Reply": messages.Reply},
}
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
TABLES = [(page, heading) for page, headings in SECTIONS.items() for heading in headings]


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def section(page: Path, heading: str) -> str:
    """What stands under a heading, up to the next one."""
    (found,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text(page), flags=re.MULTILINE | re.DOTALL)
    return found


def rows(block: str) -> list[list[str]]:
    """Cells of the rows of the tables in a block, headers left out."""
    lines = [line for line in block.splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for index, line in enumerate(lines)
        if not line.startswith("|--") and not (index + 1 < len(lines) and lines[index + 1].startswith("|--"))
    ]


def ticked(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def first_cells(page: Path, heading: str) -> list[str]:
    return [name for row in rows(section(page, heading)) for name in ticked(row[0])]


def subclasses(kind: type[errors.FedctError]) -> set[type[errors.FedctError]]:
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", text(page), flags=re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize(("page", "heading"), TABLES, ids=lambda value: getattr(value, "stem", value))
def test_every_key_of_the_code_is_in_its_table_and_no_other(page, heading):
    fields = SECTIONS[page][heading].model_fields
    plain = {name for name, field in fields.items() if not hasattr(field.annotation, "model_fields")}
    assert sorted(first_cells(page, heading)) == sorted(plain)


@pytest.mark.parametrize(
    ("page", "heading"), TABLES[: -len(SECTIONS[ARCHITECTURE])], ids=lambda v: getattr(v, "stem", v)
)
def test_every_default_is_the_one_of_the_code(page, heading):
    fields = SECTIONS[page][heading].model_fields
    for row in rows(section(page, heading)):
        (name,) = ticked(row[0])
        default = fields[name].default
        if default is PydanticUndefined or name == "format":
            assert row[2] == "required", name
        elif default is None:
            assert row[2] == "unset", name
        else:
            assert ticked(row[2]) == [json.dumps(default)], name


@pytest.mark.parametrize("page", [SITE, COORDINATOR], ids=lambda page: page.stem)
def test_every_section_of_a_file_has_a_table(page):
    fields = SECTIONS[page]["Top level"].model_fields
    assert {n for n, f in fields.items() if hasattr(f.annotation, "model_fields")} == set(SECTIONS[page]) - {
        "Top level"
    }


def test_the_files_shown_in_the_guides_are_valid():
    (block,) = toml_blocks(COORDINATOR)
    assert study.parse_study(tomllib.loads(block)).privacy.on
    (block,) = toml_blocks(SITE)
    site.SiteConfig.model_validate(tomllib.loads(block))


def toml_blocks(page: Path) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", text(page), flags=re.MULTILINE | re.DOTALL)


def test_every_exit_code_is_in_the_table_with_its_class():
    expected = {kind.exit_code: kind for kind in sorted(subclasses(errors.FedctError), key=lambda k: -len(k.__mro__))}
    found = {int(row[0]): ticked(row[2]) for row in rows(section(COORDINATOR, "Exit codes"))}
    assert found == {0: [], INTERRUPTED: [], **{code: [kind.__name__] for code, kind in expected.items()}}


def test_every_code_that_a_round_can_show_is_explained():
    source = "".join(text(ROOT / "server" / f"{name}.py") for name in ("rounds", "asking", "roster", "replies"))
    said = r'(?:reason=|return (?:stranger, )?|or )"([a-z]+(?:-[a-z]+)*)"'
    from_coordinator = set(re.findall(said, source)) - {"no other site"}
    assert 'reason=f"flower-{' in source
    assert issubclass(bundle.BundleWithCode, errors.PolicyRefusal)
    from_site = {kind.code for kind in subclasses(errors.FedctError)} | {"internal-error"}
    found: dict[str, set[str]] = {"site": set(), "coordinator": set()}
    for row in rows(section(COORDINATOR, "When a site does not take part")):
        found[row[1]].update(ticked(row[0]))
    assert found == {"site": from_site, "coordinator": from_coordinator | {"flower-N"}}


def test_every_reason_of_ingest_is_explained():
    assert first_cells(SITE, "Ingest") == [reason.value for reason in Reason]


def test_every_setting_of_the_coordinators_folder_is_in_its_table():
    assert first_cells(COORDINATOR, "The coordinator's folder") == list(CoordinatorConfig.model_fields)


def test_the_policy_checks_are_listed_in_their_order():
    checks = [policy.NotApproved, policy.PrivacyRequired, policy.EpsilonTooLarge, policy.DeltaTooLarge]
    checks += [policy.RoundOutOfStudy, policy.TooManySteps, policy.ModelTooLarge, policy.TooManyRounds]
    checks += [policy.OutsideHours, errors.BudgetExceeded]
    table = rows(section(SITE, "What is checked before a study runs"))
    assert [(row[0], ticked(row[1])) for row in table] == [(str(n), [k.code]) for n, k in enumerate(checks, start=1)]


def leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """The commands under a command, with their full names; itself if it has none."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    for sub, below in command.commands.items():
        yield from leaves(f"{name} {sub}", below)


def test_every_command_and_option_is_listed():
    expected = {}
    apps = {"fedct-sim": simulations.cli.app, "fedct-site": client.cli.app, "fedct-coordinator": server.cli.app}
    for name, app in apps.items():
        for sub, command in leaves(name, typer.main.get_command(app)):
            options = {o for p in command.params for o in p.opts if o.startswith("--")} - {"--help"}
            expected[sub] = options
    table = rows(section(COORDINATOR, "Commands"))
    assert {ticked(r[0])[0]: {t for t in ticked(r[1]) if t.startswith("--")} for r in table} == expected


@pytest.mark.parametrize("page", [COORDINATOR, SITE], ids=lambda page: page.stem)
def test_what_takes_several_machines_is_shown_with_known_commands_and_options(page):
    """tests/e2e/test_real_hospitals.py types the coordinator's; here without running them."""
    apps = {"fedct-sim": simulations.cli.app, "fedct-site": client.cli.app, "fedct-coordinator": server.cli.app}
    known = {n: c for program, app in apps.items() for n, c in leaves(program, typer.main.get_command(app))}
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", text(page), flags=re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert lines
    for line in lines:
        (command,) = [c for name, c in known.items() if line.startswith(f"{name} ")]
        assert set(re.findall(r"--[a-z-]+", line)) <= {o for p in command.params for o in p.opts}, line


def anchors(page: Path) -> set[str]:
    titles = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text(page), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_image_leads_somewhere(page):
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_named_is_there(page):
    named = re.findall(r"`((?:common|client|server|simulations|tests|docs)/[\w./-]+)`", text(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_decisions_are_numbered_without_a_gap_and_listed():
    files = sorted(path.name for path in (ROOT / "docs" / "adr").iterdir())
    assert [int(name[:4]) for name in files] == list(range(1, len(files) + 1))
    assert re.findall(r"\(adr/([^)]+)\)", section(ARCHITECTURE, "Decisions")) == files


def test_every_command_shown_is_a_known_one_and_none_holds_an_address():
    targets = set(re.findall(r"^([a-z]+):", text(ROOT / "Makefile"), flags=re.MULTILINE))
    shown = [(page, shlex.split(command)) for page in PAGES for command in commands(page)]
    assert {words[0] for _, words in shown} == {"make", *SCRIPTS}
    assert {words[1] for _, words in shown if words[0] == "make"} <= targets
    assert {page for page, words in shown if words[0] != "make"} == set(RUN_IN_ORDER)
    assert not [words for _, words in shown if any("://" in word or "index" in word for word in words)]
    assert sum(words[:2] == ["fedct-sim", "run"] for _, words in shown) <= 2


def test_the_commands_of_the_benchmarks_name_what_exists():
    """They take many minutes, so they are not run here; their subcommands and files must be there."""
    shown = [
        shlex.split(line)
        for line in re.findall(r"```sh\n(.*?)```", text(ROOT / "docs/benchmarks.md"), re.DOTALL)
        for line in line.splitlines()
    ]
    assert shown
    known = {
        command.name or command.callback.__name__.replace("_", "-") for command in benchmarks_app.registered_commands
    }
    for words in shown:
        assert words[0] in {*SCRIPTS, "python"}
        if words[0] == "python":
            assert words[1:3] == ["-m", "simulations.benchmarks"]
            assert words[3] in known
        assert all((ROOT / word).exists() for word in words if word.endswith(".toml"))


@pytest.fixture
def home():
    """A short folder for temporary files; Ray's sockets need it short. What still runs is ended."""
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        yield Path(folder)
        left = processes_of(Path(folder))
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=10)


@pytest.mark.slow
def test_every_command_of_the_guides_runs_as_it_is_shown(tmp_path, home):
    (tmp_path / "study.toml").write_text(*toml_blocks(COORDINATOR))
    environment = {**os.environ, "TMPDIR": str(home), "FEDCT_PASSPHRASE": "correct horse battery"}
    for page in RUN_IN_ORDER:
        if page.name == "README.md":  # the reader's own data: here, those of a synthetic hospital
            (tmp_path / "DICOM").symlink_to(tmp_path / "hospitals" / "hospital-2" / "dicom")
            (tmp_path / "labels.csv").symlink_to(tmp_path / "hospitals" / "hospital-2" / "labels.csv")
        for command in commands(page):
            program, *arguments = shlex.split(command)
            if program == "make":
                continue
            call = [*start(program), *arguments]
            done = subprocess.run(
                call,
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}"
    promised = {ticked(row[0])[0] for row in rows(section(COORDINATOR, "What a run writes"))} - {
        "run/initial.safetensors"
    }
    assert {name for name in promised if not (tmp_path / "first" / name).exists()} == set()
    assert (tmp_path / "results" / "report.html").is_file()
    assert "of 1000 spent" in ledger_says(tmp_path, environment)
    assert processes_of(home) == []


def start(program: str) -> list[str]:
    """How a command of this tree is started, whether it is installed or not."""
    module, function = SCRIPTS[program].split(":")
    return [sys.executable, "-c", f"import sys; sys.argv[0] = {program!r}; from {module} import {function} as f; f()"]


def ledger_says(folder: Path, environment: dict[str, str]) -> str:
    """What ``fedct-site ledger show`` says of a site after the guides' runs."""
    (command,) = [command for command in commands(SITE) if command.startswith("fedct-site ledger show")]
    program, *arguments = shlex.split(command)
    call = [*start(program), *arguments]
    return subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
