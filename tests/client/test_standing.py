from __future__ import annotations

import os
import subprocess
import sys

from client.standing import hold, is_held

HOLD = "import sys, pathlib; from client.standing import hold\nwith hold(pathlib.Path(sys.argv[1])) as alone:\n    print(alone, flush=True); sys.stdin.read()"


def test_without_a_runner_nobody_holds_it(tmp_path):
    assert not is_held(tmp_path)
    with hold(tmp_path) as alone:
        assert alone
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_there_is_one_runner_a_site_and_a_killed_one_is_not_there_any_more(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ) as other:
        assert other.stdout.readline() == b"True\n"
        assert is_held(tmp_path)
        with hold(tmp_path) as alone:
            assert not alone
        other.kill()
        other.wait()
        assert not is_held(tmp_path)
