"""A server of a policy process's own, as real processes; a real vLLM is in `tests/engines`."""

import pathlib
import sys
import urllib.request

import psutil
import pytest
from tests import timing

from trimtab.core import errors
from trimtab.policy import beside

_SERVER = """
import http.server, json, sys
told = dict(one.removeprefix("--").split("=", 1) for one in sys.argv[2:])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps([sys.argv[1], told["name"]]).encode())
http.server.HTTPServer(("127.0.0.1", int(told["port"])), Handler).serve_forever()
"""


def says(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def answers(url: str) -> bool:
    try:
        return bool(says(url))
    except OSError:
        return False


def test_it_is_told_the_folder_the_name_and_the_address_and_ends_with_its_process(tmp_path: pathlib.Path) -> None:
    (tmp_path / "server.py").write_text(_SERVER)
    server = beside.Started(f"{sys.executable} {tmp_path / 'server.py'} {{folder}} --name={{model_id}} --port={{port}}")
    with server.running(tmp_path, "policy-1"):
        timing.until(lambda: answers(server.url), "the server to answer")
        assert says(server.url) == f'["{tmp_path}", "policy-1"]'
        server.check()
    assert not answers(server.url)


def test_one_that_ends_by_itself_is_said_with_its_exit_code(tmp_path: pathlib.Path) -> None:
    server = beside.Started(f"{sys.executable} -c 'raise SystemExit(3)'")

    def ended() -> bool:
        try:
            server.check()
        except errors.WrongState as problem:
            assert "ended with exit code 3" in str(problem)
            return True
        return False

    with server.running(tmp_path, "policy-1"):
        timing.until(ended, "its end to be seen")


def test_what_a_killed_server_has_started_ends_as_well(tmp_path: pathlib.Path) -> None:
    (tmp_path / "server.py").write_text("import subprocess; subprocess.run(['sleep', '1000'])")
    server = beside.Started(f"{sys.executable} {tmp_path / 'server.py'} {{folder}} {{port}}")
    with server.running(tmp_path, "policy-1"):
        [found] = [one for one in psutil.Process().children() if str(tmp_path) in " ".join(one.cmdline())]
        timing.until(lambda: bool(found.children()), "its own process")
        below = found.children()
        server.check()
        found.kill()
        timing.until(lambda: found.status() == psutil.STATUS_ZOMBIE, "its end")
        with pytest.raises(errors.WrongState, match="signal 9"):
            server.check()
    assert not psutil.wait_procs(below, timing.PATIENCE_S)[1]


def test_a_program_that_is_not_there_is_refused(tmp_path: pathlib.Path) -> None:
    server = beside.Started("/no/such/vllm serve")
    with (
        pytest.raises(errors.InvalidField, match="`engine_command` cannot be started"),
        server.running(tmp_path, "one"),
    ):
        pass
