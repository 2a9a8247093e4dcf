"""Seal a run's model: ``provenance.json``, signed by the coordinator that ran it."""

from __future__ import annotations

import json

from common.files import write_atomic
from common.provenance import PROVENANCE, chain, sign
from server.coordinator import Coordinator
from server.run_folder import RunFolder


def seal(folder: RunFolder, coordinator: Coordinator | None) -> None:
    """Write ``provenance.json`` from the results, card and model in ``folder``; nothing where there is no model.

    ``coordinator``: whose study key signs it; None for a simulation, which has nobody's.
    Raises CoordinatorError or TrustError if the key can't be read, ValueError if a simulation were to be signed, or a
    coordinator's run not.
    """
    if not folder.model_file.exists():
        return
    results = json.loads(folder.results_file.read_bytes())
    links = chain(results, folder.card_json.read_bytes(), folder.model_file.read_bytes())
    if results["simulated"] is not (coordinator is None):
        raise ValueError("a coordinator signs its own runs, and no simulation")
    provenance = sign(links, coordinator.study_key() if coordinator else None)
    write_atomic(folder.root / PROVENANCE, (provenance.model_dump_json(indent=1) + "\n").encode(), mode=0o644)
