"""Requests made from the OpenAPI: whatever is sent, nothing breaks."""

from __future__ import annotations

import re

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

EXAMPLES = 12


@pytest.mark.slow
def test_no_request_that_the_openapi_allows_or_forbids_breaks_the_page(page, waiting, monkeypatch):
    monkeypatch.setattr("common.web.throttle.FREE", 10**6)  # logins that fail are tried here too
    browser = page.browser("approver")
    token = re.search(r'name="csrf" value="([^"]+)"', browser.get("/studies").text)[1]
    cookie = browser.cookies["fedct-8461"]
    headers = {"origin": "http://127.0.0.1:8461", "host": "127.0.0.1:8461", "x-csrf-token": token}
    content = page.app.openapi()
    for path in ("/cohorts/live", "/logout"):  # the first has no end, the second is one
        del content["paths"][path]
    schema = schemathesis.openapi.from_dict(content)
    schema.app = page.app
    tried = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def send(case):
            if "digest" in (case.path_parameters or {}):
                case.path_parameters["digest"] = waiting.digest
            response = case.call(headers=headers, cookies={"fedct-8461": cookie})
            tried.add((case.method, case.path, response.status_code))

        send()
    assert {one for one in tried if one[2] >= 500} == set()
    assert len({(method, path) for method, path, _ in tried}) >= 20
    page.app.state.desk.scan.stop(60)
