"""The error tree of fedct.

Every error that a user can cause or meet is a ``FedctError``: one line that names the file or
setting, the value and what was expected, a remedy, and an exit code by kind. Commands catch it once,
in ``common.console.run_cli``; the trace is shown only with ``--debug``.

::

    FedctError                 1   anything of ours
    +-- UsageError             2   a wrong argument or option
    +-- StudyError             3   a study file that is invalid
    +-- SiteError              4   a site folder or site.toml that is missing or invalid
    +-- DataError              5   DICOM or labels that can't be used
    +-- PolicyRefusal          6   the site's policy says no; nothing was touched
    |   +-- BudgetExceeded     6   the privacy budget would be overrun
    +-- LedgerError            7   a ledger or audit log that fails its own checks
    +-- RunError               8   a run that could not start or did not finish
    |   +-- QuorumError        8   fewer sites than the study's minimum
    +-- StorageError           9   the disk is full or can't be written
    +-- TrustError            10   an invitation, request, signature, key or certificate that does not hold
    +-- CoordinatorError      11   a coordinator's folder that is missing or invalid
    +-- AuditFailed           12   a privacy audit that did not pass
    +-- NotHealthy            13   a site that would not take part in the next round
"""

from __future__ import annotations

import errno
from typing import ClassVar


class FedctError(Exception):
    """Base of all errors that are reported to the user in one line.

    ``message`` says what is wrong and where; ``remedy`` says what to do about it. ``code`` is a
    short constant that may cross to the coordinator: it never holds text from data.
    """

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message


class UsageError(FedctError):
    """A wrong argument or option."""

    exit_code = 2
    code = "usage"


class StudyError(FedctError):
    """A study file that is invalid."""

    exit_code = 3
    code = "study-invalid"


class SiteError(FedctError):
    """A site folder or its site.toml is missing or invalid."""

    exit_code = 4
    code = "site-invalid"


class DataError(FedctError):
    """DICOM files or labels that can't be used."""

    exit_code = 5
    code = "data-unusable"


class PolicyRefusal(FedctError):  # noqa: N818 - a refusal is a decision, not a fault
    """The site's policy refuses what was asked; no data were touched."""

    exit_code = 6
    code = "policy-refused"


class BudgetExceeded(PolicyRefusal):
    """The privacy budget of the cohort would be overrun; nothing was reserved."""

    code = "budget-exceeded"


class LedgerError(FedctError):
    """A ledger or audit log fails its own checks."""

    exit_code = 7
    code = "ledger-damaged"


class RunError(FedctError):
    """A run could not start or did not finish."""

    exit_code = 8
    code = "run-failed"


class QuorumError(RunError):
    """Fewer sites answered than the study's minimum."""

    code = "quorum-missed"


class StorageError(FedctError):
    """The disk is full or can't be written."""

    exit_code = 9
    code = "storage"


class TrustError(FedctError):
    """An invitation, request, signature, key or certificate does not hold; nothing was changed."""

    exit_code = 10
    code = "not-trusted"


class CoordinatorError(FedctError):
    """A coordinator's folder is missing or invalid."""

    exit_code = 11
    code = "coordinator-invalid"


class AuditFailed(FedctError):  # noqa: N818 - the audit ran; what it audits failed
    """A privacy audit found that a study's claim is not kept."""

    exit_code = 12
    code = "audit-failed"


class NotHealthy(FedctError):  # noqa: N818 - the doctor worked; the site does not
    """The doctor found that the site would not take part in the next round."""

    exit_code = 13
    code = "not-healthy"


def from_os_error(error: OSError) -> FedctError:
    """The one-line form of an operating-system error; a full disk gets a remedy of its own."""
    where = f"'{error.filename}'" if error.filename else "the output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(
            f"no space left while writing {where}",
            "Free some space and run the same command again; finished parts are kept",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(f"{where} can't be written or read ({error.strerror})", "Check its owner and mode")
    return StorageError(f"{where}: {error.strerror or error}")
