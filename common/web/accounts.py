"""Who may use a page: ``accounts.toml``, a section a person with role and password hash.

Hashes are scrypt (RFC 7914) with N = 2^15, r = 8, p = 3: 32 MiB and about 0.1 s each, so they are computed one at a
time. The file is read anew at each request: whoever is removed, or given another role, is so at once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import threading
import tomllib
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.errors import UsageError, from_os_error
from common.files import exclusive, write_atomic
from common.study import describe
from common.toml import to_toml

Role = Literal["viewer", "operator", "approver"]
ROLES: tuple[Role, ...] = get_args(Role)
FILE = "accounts.toml"
SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 1024
NAME = r"^[a-z][a-z0-9_-]{0,31}$"
_LOG_N, _R, _P = 15, 8, 3
_one_at_a_time = threading.Lock()


class Account(BaseModel):
    """One person. ``hash``: ``scrypt$SALT$KEY``, both in base64."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Role
    hash: str = Field(pattern=r"^scrypt\$[A-Za-z0-9+/=]{24}\$[A-Za-z0-9+/=]{44}$")


_FILE = TypeAdapter(dict[str, Account])


def allows(role: Role, needed: Role) -> bool:
    """Whether ``role`` may do what ``needed`` may: an approver all, an operator what a viewer may, and so on."""
    return ROLES.index(role) >= ROLES.index(needed)


class Accounts:
    """The accounts in ``path``. Every method raises UsageError when the file is damaged, naming the key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Account]:
        """All accounts by name; none when there is no file."""
        try:
            return _FILE.validate_python(tomllib.loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise from_os_error(error) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"'{self.path}' can't be read: {error}", "Correct the file") from None
        except ValidationError as error:
            raise UsageError(describe(error, str(self.path)), "Correct the file") from None

    def put(self, name: str, role: Role, password: str) -> None:
        """Add a person, or give one another role and password. Raises UsageError on a bad name or password."""
        if not re.fullmatch(NAME, name):
            raise UsageError(f"account name {name!r}: expected a letter, then letters, digits, '-' or '_', at most 32")
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            raise UsageError(
                f"the password has {len(password)} characters; expected {SHORTEST_PASSWORD} to {LONGEST_PASSWORD}",
                "Take four or five words",
            )
        made = Account(role=role, hash=hash_of(password, secrets.token_bytes(16)))
        with exclusive(self.path.with_name(f".{self.path.name}.lock")):
            self._write(self.read() | {name: made})

    def remove(self, name: str) -> None:
        """Remove a person; who is logged in is so no more. Raises UsageError when there is none of this name."""
        with exclusive(self.path.with_name(f".{self.path.name}.lock")):
            found = self.read()
            if found.pop(name, None) is None:
                raise UsageError(f"there is no account '{name}' in '{self.path}'")
            self._write(found)

    def check(self, name: str, password: str) -> Account | None:
        """The account if the password is its own; as slow for a name that does not exist."""
        account = self.read().get(name)
        known = account or _NOBODY
        salt = base64.b64decode(known.hash.split("$")[1])
        with _one_at_a_time:
            same = hmac.compare_digest(hash_of(password[:LONGEST_PASSWORD], salt), known.hash)
        return account if same else None

    def _write(self, accounts: dict[str, Account]) -> None:
        content = to_toml({name: accounts[name].model_dump() for name in sorted(accounts)})
        write_atomic(self.path, content.encode())


def hash_of(password: str, salt: bytes) -> str:
    """How a password is kept."""
    key = hashlib.scrypt(
        password.encode(), salt=salt, n=1 << _LOG_N, r=_R, p=_P, maxmem=1 << 27, dklen=32
    )  # 128 * N * r = 32 MiB
    return "$".join(("scrypt", base64.b64encode(salt).decode(), base64.b64encode(key).decode()))


def role_of(text: str) -> Role:
    """Read a role. Raises UsageError."""
    if text not in ROLES:
        raise UsageError(f"role '{text}' is unknown; expected one of {', '.join(ROLES)}")
    return text


_NOBODY = Account(role="viewer", hash=f"scrypt${base64.b64encode(bytes(16)).decode()}${'A' * 43}=")
