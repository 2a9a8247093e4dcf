from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from client.contact import FILE, Contact, ContactBook, problem_of, problem_of_status, read_contact, shared_mode

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def book(tmp_path, clock):
    return ContactBook(tmp_path, 9101, clock)


def test_a_node_that_never_ran_has_no_contact(tmp_path):
    assert read_contact(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"port": 1, "heard": "yesterday"}', '{"port": 1, "more": 2}'])
def test_a_file_that_is_not_the_nodes_is_none(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert read_contact(tmp_path) is None


def test_an_accepted_request_is_contact_and_two_minutes_of_silence_are_none(book, tmp_path):
    book.note("")
    found = read_contact(tmp_path)
    assert (found.port, found.trouble(NOW), found.silence(NOW)) == (9101, "", 0)
    assert found.trouble(NOW + timedelta(seconds=119)) == ""
    assert found.trouble(NOW + timedelta(seconds=120)) == "contact-lost"


def test_a_clock_set_back_does_not_make_an_old_contact_a_fresh_one(book, tmp_path):
    book.note("")
    assert read_contact(tmp_path).trouble(NOW - timedelta(days=1)) == "contact-lost"


def test_a_node_in_a_certificate_error_loop_has_no_contact_however_long_it_loops(book, clock, tmp_path):
    assert Contact(1).trouble(NOW) == "no-contact-yet"
    for hour in range(500):
        clock.now = NOW + timedelta(hours=hour)
        book.note("certificate")
        assert read_contact(tmp_path).trouble(clock.now) == "certificate"
    assert read_contact(tmp_path).heard == ""


def test_one_failed_request_after_a_good_one_is_trouble_until_the_next_good_one(book, clock, tmp_path):
    for problem in ("", "unreachable", ""):
        clock.now += timedelta(seconds=3)
        book.note(problem)
        assert read_contact(tmp_path).trouble(clock.now) == problem


def test_the_file_is_written_at_a_change_and_else_every_ten_seconds(book, clock, tmp_path):
    book.note("")
    (tmp_path / FILE).unlink()
    clock.now += timedelta(seconds=9)
    book.note("")
    assert not (tmp_path / FILE).exists()
    clock.now += timedelta(seconds=1)
    book.note("")
    assert read_contact(tmp_path).silence(clock.now) == 0
    assert json.loads((tmp_path / FILE).read_text())["since"] == NOW.isoformat()


@pytest.mark.parametrize(("folder", "file"), [(0o700, 0o600), (0o710, 0o640), (0o750, 0o640), (0o755, 0o640)])
def test_it_is_the_owners_alone_unless_the_folder_was_opened_to_a_group(book, tmp_path, folder, file):
    tmp_path.chmod(folder)
    book.note("")
    assert (tmp_path / FILE).stat().st_mode & 0o777 == file == shared_mode(tmp_path)


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx.ConnectError("DOE^JANE"), "unreachable"),
        (httpx.ReadTimeout("x"), "unreachable"),
        (httpx.ProxyError("407 x"), "proxy"),
        (caused(httpx.ConnectError("x"), ssl.SSLCertVerificationError("x")), "certificate"),
        (caused(httpx.ConnectError("x"), caused(OSError(), ssl.SSLCertVerificationError("x"))), "certificate"),
        (caused(httpx.ConnectError("x"), ssl.SSLError("x")), "tls"),
        (httpx.HTTPStatusError("x", request=None, response=httpx.Response(401)), "not-accepted"),
    ],
)
def test_of_an_error_only_its_kind_is_noted(error, code):
    assert problem_of(error) == code


@pytest.mark.parametrize(("status", "code"), [(200, ""), (302, ""), (401, "not-accepted"), (503, "answer-503")])
def test_of_an_answer_only_its_status_is_noted(status, code):
    assert problem_of_status(status) == code
