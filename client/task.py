"""One task, in a process of its own: pull it from the node, check its bundle, run the installed app, answer.

The process is forked from one that has imported torch and this module and has one thread (``client.runner``).
Whatever goes wrong, the coordinator gets a constant code and never the text of an exception, which may hold a
patient's name; the text goes to the site's audit log.
"""

from __future__ import annotations

import signal

from flwr.app import Context, Error, Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import message_to_proto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_push_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import push_objects
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_task_output

from client import app as installed
from client.bundle import check_bundle
from client.order import Order
from client.site import load_site
from common import messages
from common.children import begin_child
from common.errors import FedctError

SITE_KEY = "site"
INTERNAL = "internal-error"


def run_task(order: Order) -> dict[str, str | int]:
    """Do one task; what to say of it on the runner's log (``result_of``).

    Errors of the connection to the node pass through and end the process. So does a node that was started again and does not know the task any more: it answers a heartbeat with 401, and
    Flower's retries then interrupt the process. What the task reserved on the ledger stays charged.
    """
    begin_child()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Flower's heartbeat says so that a task was stopped
    client = RuntimeHttpClient.from_server_address(
        server_address=order.address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(order.token),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    status = SubStatus.FAILED
    try:
        message, context, run, fab = pull_task_input(client)
        reply = answer(message, context, run, fab, order)
        push_reply(client, reply, context)
        status = SubStatus.COMPLETED
        return result_of(message, reply)
    finally:
        push_task_output(client, None, status, "")
        if heartbeat.is_running:
            heartbeat.stop()
        client.close()


def push_reply(client: RuntimeHttpClient, reply: Message, context: Context) -> None:
    """Hand the reply to the node. Flower's ``push_message`` does the same, and digests an update three times over."""
    with no_object_id_recompute():
        reply.metadata.__dict__["_message_id"] = reply.object_id
        request = PushAppMessagesRequest(
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
        )
        answered = client.PushMessages(request)
        push_objects(
            get_all_nested_objects(reply),
            make_push_object_fn_protobuf(
                client.PushObject, Node(node_id=context.node_id), context.run_id, answered.session_id
            ),
            object_ids_to_push=set(answered.objects_to_push),
        )


def answer(message: Message, context: Context, run: Run, fab: Fab, order: Order) -> Message:
    """The reply to ``message``: the installed app's, or a refusal, or an error with a constant text."""
    try:
        context.node_config = {SITE_KEY: str(order.site)}  # which site this is the runner knows, not the node
        try:
            site = load_site(order.site)
            check_bundle(fab.content, order.task_type, (fab.hash_str, run.fab_hash), site.has_approved)
        except FedctError as refusal:
            return installed.refuse(message, context, refusal)
        return installed.app(message, context)
    except Exception:
        return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=INTERNAL), reply_to=message)


def result_of(message: Message, reply: Message) -> dict[str, str | int]:
    """Kind, study, round, status and code of an answered message: what also went to the coordinator, and no more."""
    kind = message.metadata.message_type
    if reply.has_error():
        return {"kind": kind, "status": "failed", "code": INTERNAL}
    config = dict(reply.content[messages.CONFIG])
    if "ready" in config:
        return {"kind": kind, "status": "ready" if config["ready"] else "not-ready", "code": str(config["code"])}
    names = {"study": "study_digest", "status": "status", "code": "code"}
    texts = {name: str(config[key]) for name, key in names.items()}
    return {"kind": kind, "round": int(str(config["round"])), **texts}
