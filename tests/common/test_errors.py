"""The error tree: what a user reads, and what may cross to the coordinator."""

from __future__ import annotations

import errno
import re

import pytest

from common import errors
from common.errors import FedctError, StorageError, from_os_error

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, FedctError)]


def test_the_tree_in_the_docstring_is_the_tree_in_the_code():
    drawn = dict(re.findall(r"^[ |+-]*(\w+)\s+(\d+)   ", errors.__doc__ or "", flags=re.MULTILINE))
    assert drawn == {kind.__name__: str(kind.exit_code) for kind in ALL}


def test_every_error_has_a_code_and_a_docstring_of_its_own():
    assert len({kind.code for kind in ALL}) == len(ALL)
    assert all(kind.__doc__ and re.fullmatch(r"[a-z-]+", kind.code) for kind in ALL)


def test_an_error_reads_as_message_then_remedy():
    assert str(FedctError("a.toml is broken", "Mend it")) == "a.toml is broken. Mend it"
    assert str(FedctError("a.toml is broken")) == "a.toml is broken"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_file_and_says_what_to_do(number):
    error = from_os_error(OSError(number, "full", "/data/x"))
    assert isinstance(error, StorageError)
    assert "no space left while writing '/data/x'" in error.message
    assert "Free some space" in error.remedy


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_file_that_may_not_be_used_names_its_owner_and_mode(number):
    error = from_os_error(OSError(number, "denied", "/data/x"))
    assert isinstance(error, StorageError)
    assert "'/data/x'" in error.message
    assert "owner and mode" in error.remedy


def test_any_other_fault_keeps_its_words_even_without_a_file():
    assert "Input/output error" in str(from_os_error(OSError(errno.EIO, "Input/output error")))
    assert "odd" in str(from_os_error(OSError("odd")))
