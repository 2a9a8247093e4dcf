"""fedct-coordinator sign: the signature that hospitals check before they approve a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.console import say
from server.cli.options import HERE, FolderOption

if TYPE_CHECKING:
    from common.study import Study
    from server.coordinator import Coordinator


def sign(study: Annotated[Path, typer.Argument(help="The study file.")], folder: FolderOption = HERE) -> None:
    """Sign a study: writes STUDY.sig beside it, to be sent to the hospitals together with the study."""
    from common.study import load_study
    from server.coordinator import open_coordinator

    plan = load_study(study)
    path = write_signature(study, plan, open_coordinator(folder))
    say(f"{path}: signature of study '{plan.name}', digest {plan.digest}")


def write_signature(file: Path, study: Study, coordinator: Coordinator) -> Path:
    """Write the signature of ``study`` beside its ``file``: the same bytes each time. The signature's path."""
    from common.files import write_atomic
    from common.pki.signature import sign_study, signature_file

    path = signature_file(file)
    write_atomic(path.absolute(), sign_study(study, coordinator.study_key()).encode(), mode=0o644)
    return path
