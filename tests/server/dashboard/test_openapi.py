"""Requests made from the OpenAPI: whatever is sent, nothing breaks."""

from __future__ import annotations

import re

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

EXAMPLES = 12


@pytest.mark.slow
def test_no_request_that_the_openapi_allows_or_forbids_breaks_the_page(page, fresh):
    served = page(fresh)
    browser = served.browser()
    token = re.search(r'name="csrf" value="([^"]+)"', browser.get("/compare").text)[1]
    cookie = browser.client.cookies["fedct-8460"]
    headers = {"origin": "http://127.0.0.1:8460", "host": "127.0.0.1:8460", "x-csrf-token": token}
    content = served.app.openapi()
    for path in ("/live", "/studies/{name}/live", "/logout"):  # the first two have no end; the last is one
        del content["paths"][path]
    schema = schemathesis.openapi.from_dict(content)
    schema.app = served.app
    tried = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def send(case):
            response = case.call(headers=headers, cookies={"fedct-8460": cookie})
            tried.add((case.method, case.path, response.status_code))

        send()
    assert {status for _, _, status in tried if status >= 500} == set()
    assert len({(method, path) for method, path, _ in tried}) >= 20
