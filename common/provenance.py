"""Where a model file comes from: a chain from the study to the file, signed by the coordinator.

``provenance.json`` lies beside ``model.safetensors``. It holds *links*, each with the SHA-256 of what it stands for
and of the link before it:

=========  ==================================================================================
study      the digest of the study that every hospital approved
round      one record of ``results.json`` a round, in canonical JSON: who took part, what came of it, and the
           digest of the model's weights after it
results    everything else in ``results.json``
card       ``model-card.json``, byte by byte
model      ``model.safetensors``, byte by byte
=========  ==================================================================================

The rule, checked in this order by ``verify``; it fails closed, at the first link that does not hold:

1. the links are of these kinds, in this order, numbered without a gap, and every hash is right;
2. the model file and the card beside it have the digests of their links, and name the study of the first;
3. ``results.json``, where it lies beside them, has the digests of its links, and the weights in the model file are
   those after its last round;
4. where a study key is given, the last hash is signed by its owner. A chain without a signature then does not hold.

A simulation has no coordinator's key: its chain is not signed, and says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import TrustError, UsageError
from common.model_card import CARD
from common.models.metadata import saved_study, saved_weights_digest
from common.pki.keys import read_study_public
from common.study import canonical_json, describe

PROVENANCE, MODEL, RESULTS = "provenance.json", "model.safetensors", "results.json"
_PREFIX = b"fedct-model-1\0"
_START = "0" * 64
_REMEDY = "Get the model's whole folder from the coordinator again, and change nothing in it"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Kind = Literal["study", "round", "results", "card", "model"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Link(_Frozen):
    """One link: its number from 1, what it stands for, that thing's digest, and the hash of the link before."""

    n: int
    kind: Kind
    digest: Digest
    prev: Digest
    hash: Digest


class Provenance(_Frozen):
    """Content of ``provenance.json``. ``signature``: 128 hex digits over the last hash, or empty."""

    format: Literal[1] = 1
    links: Annotated[tuple[Link, ...], Field(min_length=4, strict=False)]
    signature: Annotated[str, Field(pattern=r"^([0-9a-f]{128})?$")] = ""


@dataclass(frozen=True)
class Verified:
    """What ``verify`` found to hold. ``records``: ``results.json`` was there and fits. ``signed``: a signature is
    there; ``vouched``: it was checked against a study key.
    """

    study: str
    model: str
    rounds: int
    records: bool
    signed: bool
    vouched: bool


def chain(results: Mapping[str, Any], card: bytes, model: bytes) -> tuple[Link, ...]:
    """The links of a run. ``results``: ``results.json`` as JSON gives it back."""
    rest = {key: value for key, value in results.items() if key not in ("study", "rounds")}
    digests: list[tuple[Kind, str]] = [("study", _digest(results["study"]))]
    digests += [("round", _digest(record)) for record in results["rounds"]]
    digests += [("results", _digest(rest)), ("card", _sha256(card)), ("model", _sha256(model))]
    links: list[Link] = []
    for n, (kind, digest) in enumerate(digests, start=1):
        prev = links[-1].hash if links else _START
        links.append(Link(n=n, kind=kind, digest=digest, prev=prev, hash=_hash(n, kind, digest, prev)))
    return tuple(links)


def sign(links: tuple[Link, ...], key: Ed25519PrivateKey | None) -> Provenance:
    """The chain with the coordinator's signature, or without where there is no key."""
    signature = key.sign(_PREFIX + bytes.fromhex(links[-1].hash)).hex() if key is not None else ""
    return Provenance(links=links, signature=signature)


def verify(place: Path, study_key: str = "") -> Verified:
    """Check the model file ``place``, or the one in the folder ``place``, by what lies beside it.

    ``study_key``: 64 hex digits; empty where nobody's signature counts. Raises TrustError naming what does not hold,
    UsageError where there is no model.
    """
    model = place / MODEL if place.is_dir() else place
    data = _read(model, UsageError(f"model file '{model}' does not exist", "Give a model.safetensors or its folder"))
    provenance = _provenance(model.with_name(PROVENANCE))
    links = provenance.links
    _check_links(links)
    study = links[0].digest
    _check_files(model, data, links)
    records = _check_records(model.with_name(RESULTS), links, data)
    if study_key:
        _check_signature(provenance, study_key)
    return Verified(study, links[-1].digest, len(links) - 4, records, bool(provenance.signature), bool(study_key))


def _provenance(path: Path) -> Provenance:
    content = _read(path, TrustError(f"'{path}' does not exist, so nothing says where the model comes from", _REMEDY))
    try:
        return Provenance.model_validate_json(content)
    except ValidationError as error:
        raise TrustError(describe(error, str(path)), _REMEDY) from None


def _check_links(links: Sequence[Link]) -> None:
    kinds = ["study", *["round"] * (len(links) - 4), "results", "card", "model"]
    prev = _START
    for n, (link, kind) in enumerate(zip(links, kinds, strict=True), start=1):
        if (link.n, link.kind, link.prev) != (n, kind, prev) or link.hash != _hash(n, kind, link.digest, prev):
            raise TrustError(f"link {n} ({kind}) of the provenance was edited, removed or moved", _REMEDY)
        prev = link.hash


def _check_files(model: Path, data: bytes, links: Sequence[Link]) -> None:
    if _sha256(data) != links[-1].digest:
        raise TrustError(f"'{model}' is not the file that the provenance names", _REMEDY)
    card = model.with_name(CARD)
    content = _read(card, TrustError(f"'{card}' does not exist", _REMEDY))
    if _sha256(content) != links[-2].digest:
        raise TrustError(f"'{card}' is not the card that the provenance names", _REMEDY)
    try:
        named = {saved_study(data), json.loads(content)["study_digest"]}
        sealed = json.loads(content)["model_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TrustError(f"'{model}' or '{card.name}' does not say which study it is of", _REMEDY) from None
    if named != {links[0].digest} or sealed != links[-1].digest:
        raise TrustError(f"'{model}' or '{card.name}' is of another study or model than the provenance", _REMEDY)


def _check_records(path: Path, links: Sequence[Link], model: bytes) -> bool:
    """Whether ``results.json`` is there; TrustError if it is and differs, or ends with other weights than ``model``."""
    if not path.exists():
        return False
    try:
        results = json.loads(path.read_bytes())
        found = chain(results, b"", b"")
        last = results["rounds"][-1].get("weights_sha256", "") if results["rounds"] else ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise TrustError(f"'{path}' can't be read as results", _REMEDY) from None
    if len(found) != len(links):
        raise TrustError(f"'{path}' has {len(found) - 4} rounds; the provenance has {len(links) - 4}", _REMEDY)
    for ours, theirs in zip(found[:-2], links[:-2], strict=True):
        if ours.digest != theirs.digest:
            which = f"round {ours.n - 1}" if ours.kind == "round" else f"its {ours.kind}"
            raise TrustError(f"'{path}': {which} is not what the provenance names", _REMEDY)
    if last and saved_weights_digest(model) != last:  # earlier releases did not record it
        raise TrustError(f"'{path}': the model's weights are not those after its last round", _REMEDY)
    return True


def _check_signature(provenance: Provenance, study_key: str) -> None:
    if not provenance.signature:
        raise TrustError(
            "the provenance has no signature", "Ask the coordinator for a signed model; a simulation has none"
        )
    try:
        read_study_public(study_key).verify(
            bytes.fromhex(provenance.signature), _PREFIX + bytes.fromhex(provenance.links[-1].hash)
        )
    except InvalidSignature:
        raise TrustError("the model is not signed by the owner of this study key", _REMEDY) from None


def _read(path: Path, missing: Exception) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise missing from None


def _hash(n: int, kind: str, digest: str, prev: str) -> str:
    return _digest({"n": n, "kind": kind, "digest": digest, "prev": prev})


def _digest(content: Any) -> str:
    return _sha256(canonical_json(content).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
