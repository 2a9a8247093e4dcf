"""May the task of this bundle run here? Pure, numbered checks; nothing is unpacked and nothing imported.

The bundle that Flower brings is a ZIP file. It may name the installed app and hold settings; it may hold nothing
that could be executed. Checked in this order, fail closed:

1. the task is one for a ClientApp;
2. the content has the SHA-256 that the node, and the run, name;
3. it is a small, plain ZIP file, each name once;
4. it holds the files of ``ALLOWED`` and no others, so no Python, no library, no folder of code;
5. its ClientApp is the installed one, ``client.app:app``;
6. its settings name a study, by digest, that the site approved.

Each has an error class with a ``code`` of its own, which may cross to the coordinator.
"""

from __future__ import annotations

import hashlib
import io
import tomllib
import zipfile
import zlib
from collections.abc import Callable

from common.errors import PolicyRefusal

CLIENT_TASK = "flwr-clientapp"
COMPONENT = "client.app:app"
ALLOWED = frozenset({"pyproject.toml", "README.md", "LICENSE", ".info/CONTENT"})
MOST_BYTES = 256 << 10  # of the bundle, and of each file in it
CONFIG_FILE = "pyproject.toml"
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, KeyError, ValueError),
    *(NotImplementedError, RuntimeError, EOFError, OSError),
)


class WrongTask(PolicyRefusal):
    """Check 1: the task is not one for a ClientApp."""

    code = "task-not-for-sites"


class WrongDigest(PolicyRefusal):
    """Check 2: the bundle is not the one that the run names."""

    code = "bundle-digest"


class BadBundle(PolicyRefusal):
    """Check 3: the bundle can't be read, or is too large."""

    code = "bundle-unreadable"


class BundleWithCode(PolicyRefusal):
    """Check 4: the bundle holds more than settings."""

    code = "bundle-holds-code"


class WrongComponent(PolicyRefusal):
    """Check 5: the bundle asks for another app than the installed one."""

    code = "bundle-component"


class UnknownStudy(PolicyRefusal):
    """Check 6: the bundle's study is not one that the site approved."""

    code = "policy-1-not-approved"


def check_bundle(content: bytes, task_type: str, digests: tuple[str, ...], is_approved: Callable[[str], bool]) -> None:
    """Raise the PolicyRefusal of the first check that fails.

    ``digests``: every SHA-256 (hex) that node and run give for ``content``; at least one. ``is_approved``: whether
    the site approved the study of this digest.
    """
    if task_type != CLIENT_TASK:
        raise WrongTask(f"task of type {task_type[:40]!r}; expected '{CLIENT_TASK}'")
    found = hashlib.sha256(content).hexdigest()
    if not digests or any(digest != found for digest in digests):
        raise WrongDigest(f"bundle {found[:12]} came under another digest", "Ask the coordinator to launch again")
    settings = _settings(content)
    component = _at(settings, "components", "clientapp")
    if component != COMPONENT:
        raise WrongComponent(f"the bundle asks for ClientApp {str(component)[:80]!r}; expected '{COMPONENT}'")
    study = _at(settings, "config", "study")
    if not isinstance(study, str) or is_approved(study) is not True:
        raise UnknownStudy(f"the bundle's study {str(study)[:12]!r} is not approved at this site", "Review the study")


def _settings(content: bytes) -> dict[str, object]:
    """Checks 3 and 4; then the parsed pyproject.toml."""
    if len(content) > MOST_BYTES:
        raise BadBundle(f"the bundle has {len(content)} bytes; expected at most {MOST_BYTES}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = [entry.orig_filename for entry in entries]  # as written: zipfile cuts names at a NUL
            if len(set(names)) != len(names) or any(entry.file_size > MOST_BYTES for entry in entries):
                raise BadBundle("the bundle names a file twice, or holds one that is too large")
            for name in names:
                if name not in ALLOWED:
                    raise BundleWithCode(f"the bundle holds {name[:80]!r}; expected only {', '.join(sorted(ALLOWED))}")
            with archive.open(CONFIG_FILE) as file:
                text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise BadBundle("the bundle holds a file that is too large")
        return tomllib.loads(text.decode("utf-8"))
    except _UNREADABLE as error:
        raise BadBundle(f"the bundle can't be read ({type(error).__name__})") from None


def _at(settings: dict[str, object], section: str, key: str) -> object:
    """``tool.flwr.app.SECTION.KEY``, or None."""
    value: object = settings
    for part in ("tool", "flwr", "app", section, key):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value
