from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request

from common.flower_env import LOOPBACK, TRAINING, flower_environment, free_port


def test_nothing_of_flower_phones_home_or_installs(tmp_path):
    found = flower_environment(tmp_path)
    assert found["FLWR_HOME"] == str(tmp_path / "flwr")
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert found["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert found["FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"] == "5242880"


def test_flower_talks_to_loopback_without_the_proxy_and_to_others_as_before(tmp_path, monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "pacs.example")
    assert flower_environment(tmp_path)["NO_PROXY"].split(",") == [LOOPBACK, "localhost", "pacs.example"]
    monkeypatch.delenv("NO_PROXY")
    assert flower_environment(tmp_path)["NO_PROXY"].split(",") == [LOOPBACK, "localhost"]


def test_a_lower_case_variable_does_not_send_loopback_through_a_proxy(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "pacs.example")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    with monkeypatch.context() as started:
        for name, value in flower_environment(tmp_path).items():
            started.setenv(name, value)
        assert urllib.request.proxy_bypass_environment(LOOPBACK)
        assert urllib.request.proxy_bypass_environment("pacs.example")
        assert not urllib.request.proxy_bypass_environment("elsewhere.example")


def test_a_process_that_trains_uses_freed_memory_again_without_asking_the_system():
    code = """
import resource, torch
for _ in range(5): [torch.ones(4 << 20) for _ in range(8)]  # 16 MB each
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): [torch.ones(4 << 20) for _ in range(8)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **TRAINING}, check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 1000  # pages; by default, most often 160,000


def test_a_port_is_free_on_loopback():
    with socket.socket() as sock:
        sock.bind((LOOPBACK, free_port()))
