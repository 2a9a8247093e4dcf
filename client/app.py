"""The Flower ClientApp of a site: parse, check policy, reserve budget, train or evaluate, release.

Thin by intent: every rule lives in a module of its own. Nothing of an exception but its constant
code crosses to the coordinator; the text stays on the site's audit log.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.audit_log import AuditLog
from client.participation import Answer, participate, readiness
from client.site import Site, load_site, load_sites
from common import messages
from common.errors import DataError, FedctError, PolicyRefusal, SiteError
from common.messages import Hello, Reply, Request
from common.models.weights import Vector
from common.version import VERSION

SITES_VARIABLE = "FEDCT_SITES"  # simulation: the folder of all site folders

app = ClientApp()


@app.query()
def hello(message: Message, context: Context) -> Message:
    """Say who this site is and whether it would take part."""
    site, code = None, ""
    try:
        site = _site(context)
        readiness(site, _request(message).parse_study())
    except Exception as error:
        code = _record(site, "not-ready", error)
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


def _take_part(message: Message, context: Context, *, training: bool) -> Message:
    site, digest, round_ = None, "0" * 64, 1
    try:
        site = _site(context)
        request = _request(message)
        study = request.parse_study()
        digest, round_ = study.digest, request.round
        weights = _weights(message)
        answer = participate(site, study, request, weights, training=training)
    except Exception as error:
        code = _record(site, "refused-or-failed", error, study=digest, round=round_)
        status: Literal["refused", "failed"] = "refused" if isinstance(error, PolicyRefusal) else "failed"
        answer = Answer(Reply(site=_name(site), study_digest=digest, round=round_, status=status, code=code), None)
    return _reply(message, answer.reply, answer)


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


def _weights(message: Message) -> Vector:
    record = message.content[messages.MODEL]
    if not isinstance(record, ArrayRecord):
        raise DataError("the message received holds no model")
    return record[messages.ARRAY].numpy()


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
