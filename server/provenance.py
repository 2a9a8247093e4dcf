"""Seal a run's model: ``provenance.json``, signed with the study key where a coordinator ran it."""

from __future__ import annotations

import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.files import write_atomic
from common.provenance import PROVENANCE, chain, sign
from server.coordinator import SETTINGS, open_coordinator
from server.run_folder import RunFolder


def seal(folder: RunFolder) -> None:
    """Write ``provenance.json`` from the results, card and model in ``folder``; nothing where there is no model.

    Raises CoordinatorError or TrustError if the run belongs to a coordinator whose key can't be read.
    """
    if not folder.model_file.exists():
        return
    results = json.loads(folder.results_file.read_bytes())
    links = chain(results, folder.card_json.read_bytes(), folder.model_file.read_bytes())
    provenance = sign(links, None if results["simulated"] else _study_key(folder))
    write_atomic(folder.root / PROVENANCE, (provenance.model_dump_json(indent=1) + "\n").encode(), mode=0o644)


def _study_key(folder: RunFolder) -> Ed25519PrivateKey | None:
    """The key of the coordinator in whose ``runs/`` the folder lies; None if it lies elsewhere."""
    home = folder.root.absolute().parent.parent
    return open_coordinator(home).study_key() if (home / SETTINGS).exists() else None
