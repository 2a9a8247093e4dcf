import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client import app as site_app
from client.audit_log import AuditLog
from client.bundle import BundleWithCode
from client.ingest.build import ingest
from client.site import load_site
from common import messages
from common.messages import Hello, Reply, Request
from common.models import parts
from common.models.weights import initial_model, to_vector

PLANTED = "DOE^JANE 1970-01-01"


@pytest.fixture
def call(monkeypatch):
    """Send one message to a handler as the node of a site."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)

    def send(handler, site, kind, config, model=None):
        content = RecordDict()
        if model is not None:
            arrays, base = model
            content[messages.MODEL] = ArrayRecord({name: Array(array) for name, array in arrays.items()})
            config = {**config, "base": base}
        content[messages.CONFIG] = ConfigRecord(config)
        message = Message(content, 5, kind)
        context = Context(1, 5, {"site": str(site.folder)}, RecordDict(), {})
        return handler(message, context).content

    return send


def sent(study):
    """The arrays of a first message, and the digest of its base."""
    model = initial_model(study, 0)
    base = parts.read(parts.base(model, study))
    return {
        messages.ARRAY: parts.read(parts.shared(model, study)),
        messages.BASE: base,
    }, parts.digest(base)


@pytest.fixture
def ready(make_sites, small_study):
    study = small_study()
    site = load_site(make_sites(1) / "site-1")
    ingest(site, study)
    site.approve(study)
    return site, study, Request(study=study.canonical_json(), round=1, seed=0).to_config()


def test_a_ready_site_says_so(call, ready):
    site, _, config = ready
    hello = Hello.from_config(dict(call(site_app.hello, site, "query", config)[messages.CONFIG]))
    assert (hello.site, hello.ready, hello.code) == ("site-1", True, "")


def test_training_sends_a_reply_and_one_flat_update(call, ready):
    site, study, config = ready
    content = call(site_app.train, site, "train", config, sent(study))
    reply = Reply.from_config(dict(content[messages.CONFIG]))
    assert reply.status == "ok"
    assert set(content) == {messages.CONFIG, messages.UPDATE}
    assert (
        content[messages.UPDATE][messages.ARRAY].numpy().size
        == to_vector(initial_model(study, 0), trainable_only=True).size
    )


def test_evaluating_sends_counts_and_no_update(call, ready):
    site, study, config = ready
    content = call(site_app.evaluate, site, "evaluate", config, sent(study))
    assert set(content) == {messages.CONFIG}
    assert Reply.from_config(dict(content[messages.CONFIG])).evaluation == "exact"


def test_an_exception_crosses_as_a_code_and_its_text_stays_on_the_audit_log(call, ready, monkeypatch):
    site, study, config = ready

    def fail(*args, **kwargs):
        raise RuntimeError(f"cannot read {PLANTED}")

    monkeypatch.setattr(site_app, "participate", fail)
    content = call(site_app.train, site, "train", config, sent(study))
    reply = Reply.from_config(dict(content[messages.CONFIG]))
    assert (reply.status, reply.code) == ("failed", "internal-error")
    assert PLANTED not in repr(content)
    assert PLANTED in AuditLog(site.audit_file).read()[-1].details["error"]


@pytest.mark.parametrize(
    ("change", "weights", "code"),
    [
        ({"study": "{}"}, True, "study-invalid"),
        ({"extra": 1}, True, "run-failed"),
        ({"round": 99}, True, "policy-5-round"),
        ({}, False, "internal-error"),
    ],
)
def test_a_hostile_message_gets_a_code(call, ready, change, weights, code):
    site, study, config = ready
    content = call(site_app.train, site, "train", {**config, **change}, sent(study) if weights else None)
    reply = Reply.from_config(dict(content[messages.CONFIG]))
    assert reply.status in {"failed", "refused"}
    assert reply.code == code


def test_an_unapproved_study_is_answered_not_ready(call, ready):
    site, study, _ = ready
    other = study.model_copy(update={"name": "other"})
    config = Request(study=other.canonical_json(), round=1, seed=0).to_config()
    hello = Hello.from_config(dict(call(site_app.hello, site, "query", config)[messages.CONFIG]))
    assert (hello.ready, hello.code) == (False, "policy-1-not-approved")
    told = AuditLog(site.audit_file).read()[-1]
    assert (told.kind, told.details["study"], told.details["round"]) == ("not-ready", other.digest, 1)


def test_nothing_but_the_schema_leaves(call, ready):
    """Every byte of a reply is the update, the released counts, or a field named in the schema."""
    site, study, config = ready
    content = call(site_app.train, site, "train", {**config, "round": 2}, sent(study))
    fields = dict(content[messages.CONFIG])
    assert set(fields) == set(Reply.model_fields)
    counts = np.frombuffer(fields["counts"], dtype="<f8")
    held_out = counts[:4].sum()
    assert held_out == round(held_out)


def test_a_site_folder_that_can_t_be_opened_crosses_as_a_code_too(call, ready):
    site, study, config = ready
    (site.folder / "site.toml").write_text(f'name = "{PLANTED}"\n')
    hello = call(site_app.hello, site, "query", config)
    answer = Hello.from_config(dict(hello[messages.CONFIG]))
    assert (answer.site, answer.ready, answer.code) == ("unknown", False, "site-invalid")
    content = call(site_app.train, site, "train", config, sent(study))
    assert Reply.from_config(dict(content[messages.CONFIG])).code == "site-invalid"
    assert PLANTED not in repr(hello) + repr(content)


def test_what_is_refused_before_the_app_is_asked_is_answered_with_the_code_and_logged(call, ready):
    site, study, config = ready
    refusal = BundleWithCode(f"the bundle holds {PLANTED}")

    def refuse(message, context):
        return site_app.refuse(message, context, refusal)

    hello = call(refuse, site, "query", config)
    answer = Hello.from_config(dict(hello[messages.CONFIG]))
    assert (answer.site, answer.ready, answer.code) == ("site-1", False, "bundle-holds-code")
    content = call(refuse, site, "train", config)
    reply = Reply.from_config(dict(content[messages.CONFIG]))
    assert (reply.site, reply.study_digest, reply.round) == ("site-1", study.digest, 1)
    assert (reply.status, reply.code) == ("refused", "bundle-holds-code")
    assert PLANTED not in repr(hello) + repr(content)
    assert PLANTED in AuditLog(site.audit_file).read()[-1].details["error"]


@pytest.mark.parametrize("config", [{}, {"study": "{}"}, {"round": "x"}])
def test_a_refusal_stands_whatever_the_message_holds(call, ready, config):
    site, _, _ = ready
    content = call(lambda m, c: site_app.refuse(m, c, BundleWithCode("no")), site, "train", config)
    assert Reply.from_config(dict(content[messages.CONFIG])).code == "bundle-holds-code"
