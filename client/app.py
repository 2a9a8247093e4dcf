"""The Flower ClientApp of a site: parse, check policy, reserve budget, train or evaluate, release.

Thin by intent: every rule lives in a module of its own. Nothing of an exception but its constant
code crosses to the coordinator; the text stays on the site's audit log.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from client.audit_log import AuditLog
from client.participation import Answer, participate, readiness
from client.received import Received
from client.site import Site, load_site, load_sites
from common import messages
from common.errors import DataError, FedctError, PolicyRefusal, SiteError
from common.messages import Hello, Reply, Request
from common.models import parts
from common.models.parts import Vector
from common.models.resnet import build_model
from common.study import Study
from common.version import VERSION
from common.wire import Wire, unpack

SITES_VARIABLE = "FEDCT_SITES"  # simulation: the folder of all site folders

app = ClientApp()


@app.query()
def hello(message: Message, context: Context) -> Message:
    """Say who this site is and whether it would take part."""
    site, code = None, ""
    about: dict[str, str | int] = {}
    try:
        site = _site(context)
        request = _request(message)
        study = request.parse_study()
        about = {"study": study.digest, "round": request.round}
        readiness(site, study, request.round)
    except Exception as error:
        code = _record(site, "not-ready", error, **about)
    answer = Hello(site=_name(site), release=VERSION, ready=not code, code=code)
    return _reply(message, answer, None)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round on the site's patients and send the update."""
    return _take_part(message, context, training=True)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the received model on the site's held-out patients."""
    return _take_part(message, context, training=False)


def refuse(message: Message, context: Context, refusal: FedctError) -> Message:
    """Answer a message that is refused before the app is asked; the cause goes to the audit log."""
    site, study, round_ = None, "0" * 64, 1
    with contextlib.suppress(Exception):  # the refusal stands, whatever message and site folder hold
        site = _site(context)
        request = _request(message)
        study, round_ = request.parse_study().digest, request.round
    code = _record(site, "refused-or-failed", refusal, study=study, round=round_)
    if message.metadata.message_type == MessageType.QUERY:
        return _reply(message, Hello(site=_name(site), release=VERSION, ready=False, code=code), None)
    return _reply(message, _refusal(site, study, round_, refusal, code), None)


def _take_part(message: Message, context: Context, *, training: bool) -> Message:
    site, digest, round_ = None, "0" * 64, 1
    try:
        site = _site(context)
        request = _request(message)
        study = request.parse_study()
        digest, round_ = study.digest, request.round
        answer = participate(site, study, request, _received(message, request, study), training=training)
    except Exception as error:
        code = _record(site, "refused-or-failed", error, study=digest, round=round_)
        answer = Answer(_refusal(site, digest, round_, error, code), None)
    return _reply(message, answer.reply, answer)


def _refusal(site: Site | None, study: str, round_: int, error: Exception, code: str) -> Reply:
    status: Literal["refused", "failed"] = "refused" if isinstance(error, PolicyRefusal) else "failed"
    return Reply(site=_name(site), study_digest=study, round=round_, status=status, code=code)


def _site(context: Context) -> Site:
    """The site of this node: ``site`` of the node's own settings, or in simulation the n-th folder."""
    folder = context.node_config.get("site")
    if isinstance(folder, str):
        return load_site(Path(folder))
    root, position = os.environ.get(SITES_VARIABLE), context.node_config.get("partition-id")
    if root is None or not isinstance(position, int):
        raise SiteError("the node names no site", "Start the node with --node-config 'site=\"/path/of/site\"'")
    return load_sites(Path(root))[position]


def _name(site: Site | None) -> str:
    """The site's name; a site folder that can't be opened has none to give."""
    return site.name if site else "unknown"


def _request(message: Message) -> Request:
    return Request.from_config(dict(message.content[messages.CONFIG]))


def _received(message: Message, request: Request, study: Study) -> Received:
    record = message.content[messages.MODEL]
    if not isinstance(record, ArrayRecord):
        raise DataError("the message received holds no model")
    model, wire = build_model(study, device="meta"), study.federation.wire
    shared, base = parts.size(parts.shared(model, study)), parts.size(parts.base(model, study))
    weights = _array(record, messages.ARRAY, request.exponent, wire, shared)
    if weights is None:
        raise DataError("the message received holds no weights")
    return Received(
        weights,
        request.base,
        base=_array(record, messages.BASE, 0, "float32", base),
        correction=_array(record, messages.CORRECTION, request.correction_exponent, wire, shared),
    )


def _array(record: ArrayRecord, name: str, exponent: int, wire: Wire, length: int) -> Vector | None:
    """One array of the model, or None when the message has none of this name."""
    if name not in record:
        return None
    try:
        return unpack(record[name].numpy(), exponent, wire, length)
    except ValueError as error:
        raise DataError(f"the received model does not fit its study: {name}: {error}") from None


def _reply(message: Message, answer: Hello | Reply, full: Answer | None) -> Message:
    content = RecordDict({messages.CONFIG: ConfigRecord(answer.to_config())})
    if full is not None and full.update is not None:
        content[messages.UPDATE] = ArrayRecord({messages.ARRAY: Array(full.update)})
    return Message(content, reply_to=message)


def _record(site: Site | None, kind: str, error: Exception, **details: str | int) -> str:
    """Write the error to the site's audit log; return the code that may leave."""
    code = error.code if isinstance(error, FedctError) else "internal-error"
    with contextlib.suppress(Exception):  # a full disk must not turn a refusal into a leak
        if site is None:
            return code
        AuditLog(site.audit_file).append(kind, {"code": code, "error": f"{type(error).__name__}: {error}", **details})
    return code
