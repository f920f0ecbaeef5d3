"""Commands and sessions over HTTP."""

from __future__ import annotations

import http.client
import json

import httpx
import pytest

from bandsox import MicroVM
from tests.server.servers import Server


def test_a_command_and_its_end(http: httpx.Client, path: str) -> None:
    ran = http.post(f"{path}/exec", json={"command": "echo out; echo err >&2; exit 3"}).json()
    assert (ran["exit_code"], ran["stdout"], ran["stderr"]) == (3, "out\n", "err\n")
    ran = http.post(f"{path}/exec", json={"argv": ["cat"], "stdin": "grüß\n", "cwd": "/tmp", "env": {"A": "b"}}).json()
    assert ran["stdout"] == "grüß\n"


def test_a_timeout_is_an_error_that_has_what_was_printed(http: httpx.Client, path: str) -> None:
    for timeout in (1, 4, 16, 64):  # until the machine had the time to say something
        answer = http.post(f"{path}/exec", json={"command": "echo early; sleep 1000", "timeout": timeout})
        assert (answer.status_code, answer.json()["code"]) == (504, "command_timeout")
        if answer.json()["detail"]["stdout"]:
            break
    assert answer.json()["detail"]["stdout"] == "early\n"


def test_a_command_ends_with_its_client(server: Server, path: str, vm: MicroVM) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    body = json.dumps({"command": "echo $$ > /tmp/alive; exec sleep 10000", "timeout": None})
    connection.request("POST", f"{path}/exec", body, {"content-type": "application/json"})
    pid = vm.run("while [ ! -s /tmp/alive ]; do sleep 0.1; done; cat /tmp/alive", timeout=60).text.strip()
    connection.close()
    assert vm.run(f"while kill -0 {pid} 2>/dev/null; do sleep 0.1; done", timeout=60).exit_code == 0


def test_commands_that_cannot_be(http: httpx.Client, path: str) -> None:
    assert http.post(f"{path}/exec", json={"argv": ["no-such-program"]}).json()["code"] == "command_not_found"
    assert http.post(f"{path}/exec", json={"command": "a", "argv": ["b"]}).status_code == 400
    assert http.post(f"{path}/exec", json={}).status_code == 400
    assert http.post(f"{path}/exec", json={"command": "true", "timeout": -1}).status_code == 422
    assert http.post(f"{path}/exec", json={"command": "nul\0byte"}).status_code == 400
    assert http.post(f"{path}/exec", content='{"command": "\\ud800"}', headers={"content-type": "application/json"}).status_code in {
        400,
        422,
    }


@pytest.mark.parametrize("route", ["exec", "exec-python"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"command": "echo out; exit 3", "timeout": 20.5, "cwd": "/tmp", "env": {"A": "b"}, "code": "print(1)"}',
        b'{"argv": ["sh", "-c", "echo $A"], "env": {"A": "\xc3\xbc"}, "code": "", "unknown": [1]}',
        b'{"command": "true", "code": "", "timeout": NaN}',
        b'{"command": "true", "code": "", "timeout": "soon"}',
        b'{"command": "true", "code": 1, "timeout": -1}',
        b'{"argv": "sh", "env": {"A": 1}}',
        b'{"command": "\\ud800", "code": "\\ud800"}',
        b'{"command": "\xff", "code": "\xff"}',
        b'{"command": "echo 1", "command": "echo 2", "code": "print(1)", "code": "print(2)"}',
        b'{"command": "true", "code": "' + b"#" * 70_000 + b'"}',
        b'{"command": "' + b"#" * (17 << 20) + b'"}',
        b"[" * 100_000,
        b"[]",
        b"null",
        b"{ no json",
        b"",
    ],
    ids=lambda body: body[:60].decode(errors="replace"),
)
def test_the_short_way_answers_as_the_long_one(http: httpx.Client, path: str, route: str, body: bytes) -> None:
    def ask(kind: str) -> tuple[int, dict[str, str], object]:
        answer = http.post(f"{path}/{route}", content=body, headers={"content-type": kind})
        facts = {key: value for key, value in answer.json().items() if key not in {"cpu_ms", "max_rss"}}
        return answer.status_code, {key: value for key, value in answer.headers.items() if key not in {"date", "content-length"}}, facts

    assert ask("application/json") == ask("application/json; charset=utf-8")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
def test_a_machine_is_found_by_its_name_and_not_found_by_another(http: httpx.Client, vm: MicroVM, kind: str) -> None:
    def ask(name: str) -> httpx.Response:
        return http.post(f"/api/vms/{name}/exec", content=b'{"command": "true"}', headers={"content-type": kind})

    assert ask(vm.name).json()["exit_code"] == 0
    for wrong in ("none", "a%2Fb", "..", "%2e%2e", "a%0Ab"):
        assert ask(wrong).status_code == 404


def test_python_code(http: httpx.Client, path: str) -> None:
    ran = http.post(f"{path}/exec-python", json={"code": "import sys; print(6 * 7); sys.exit(2)"}).json()
    assert (ran["exit_code"], ran["stdout"], ran["success"]) == (2, "42\n", False)


def test_a_session_goes_on_between_requests(http: httpx.Client, path: str) -> None:
    started = http.post(f"{path}/sessions", json={"command": "read line; echo $line > /tmp/said", "id": "mine"}).json()
    assert started["id"] == "mine"
    assert [each["id"] for each in http.get(f"{path}/sessions").json() if each["running"]] == ["mine"]
    assert http.delete(f"{path}/sessions/mine").status_code == 422
    assert http.post(f"{path}/sessions/mine/input", content=b"hello\n").json() == {"written": 6}
    assert (
        http.post(f"{path}/exec", json={"command": "while [ ! -s /tmp/said ]; do sleep 0.1; done; cat /tmp/said"}).json()["stdout"]
        == "hello\n"
    )
    assert http.post(f"{path}/sessions/none/input", content=b"x").json()["code"] == "session_not_found"


def test_a_session_is_killed(http: httpx.Client, path: str) -> None:
    session = http.post(f"{path}/sessions", json={"argv": ["sleep", "1000"], "tty": {"cols": 100, "rows": 30}}).json()
    assert http.post(f"{path}/sessions/{session['id']}/resize", json={"cols": 120, "rows": 40}).status_code == 200
    assert http.post(f"{path}/sessions/{session['id']}/signal", json={"signal": 9}).status_code == 200
