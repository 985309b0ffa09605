"""`specd serve` as its user meets it: it comes up, outlives its worker, says what is wrong, leaves nothing behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from models.folders import DEMO_FOLDER
from service.main import free_port

needs_demo = pytest.mark.skipif(not (DEMO_FOLDER / "target" / "model.safetensors").is_file(), reason="no demo model")
READY_S = 60.0


class Server:
    def __init__(self, *flags):
        self.port = free_port("127.0.0.1")
        command = [sys.executable, "-m", "cli.main", "serve", "--port", str(self.port), *flags]
        environ = os.environ | {"SPECD_QUEUE__LEASE_MS": "1500", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def wait_until_ready(self):
        for line in self.process.stdout:
            if line.startswith("specd is ready"):
                return
        raise AssertionError("ended before it was ready")

    def open(self, **body):
        data = json.dumps({"prompt": "1 + 1 =", "temperature": 0, "ignore_eos": True} | body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions", data, {"Content-Type": "application/json"}
        )
        return urllib.request.urlopen(request, timeout=60)

    def ask(self, **body):
        with self.open(**body) as response:
            return json.load(response)

    def ask_until_answered(self, **body):
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.ask(**body)
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def child(self, role):
        return next(pid for pid in descendants(self.process.pid) if f"--role\0{role}\0".encode() in command_line(pid))


@contextmanager
def serving(*flags):
    server = Server(*flags)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.process.terminate()
        server.process.communicate(timeout=30)


def descendants(root):
    """Return the processes below `root`, read from /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [root]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def are_gone(pids, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while any(command_line(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@needs_demo
def test_it_answers_and_outlives_its_worker():
    with serving() as server:
        whole = server.ask(max_tokens=24)
        assert whole["usage"]["completion_tokens"] == 24
        engines = [
            pid for pid in descendants(server.process.pid) if b"service.engine_process.main" in command_line(pid)
        ]
        os.kill(server.child("worker"), signal.SIGKILL)
        assert len(engines) == 1
        assert are_gone(engines)
        assert server.ask_until_answered(max_tokens=24)["choices"][0]["text"] == whole["choices"][0]["text"]
        expected = server.ask(max_tokens=250)["choices"][0]["text"]
        with server.open(max_tokens=250, stream=True) as response:
            first = response.readline()
            os.kill(server.child("worker"), signal.SIGKILL)
            lines = [first, *response]
    assert lines[-2] == b"data: [DONE]\n"
    assert text_of(lines) == expected


def text_of(lines):
    events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    return "".join(choice["text"] for event in events for choice in event["choices"])


@needs_demo
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_its_end_leaves_no_process_behind(number):
    server = Server()
    server.wait_until_ready()
    children = descendants(server.process.pid)
    server.process.send_signal(number)
    output, _ = server.process.communicate(timeout=30)
    assert len(children) >= 3
    assert server.process.returncode == (0 if number == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in output
    assert are_gone(children)


def broken_checkpoint(folder):
    folder.mkdir()
    (folder / "config.json").write_text("{")
    return folder


@pytest.mark.parametrize(
    ("make_flags", "message"),
    [
        (lambda path: ("--target", str(path / "none")), "none"),
        (lambda path: ("--target", str(broken_checkpoint(path / "bad"))), "bad"),
        (lambda path: ("--redis-url", f"unix://{path}/no.sock"), "Redis is out of reach"),
        (lambda path: ("--redis-url", "http://x"), "must begin with one of"),
    ],
    ids=["missing checkpoint", "broken checkpoint", "Redis out of reach", "wrong Redis URL"],
)
def test_what_is_wrong_is_said_and_ends_it(tmp_path, make_flags, message):
    assert_it_fails(Server(*make_flags(tmp_path)), message)


def test_a_port_that_is_taken_is_said_and_ends_it():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert_it_fails(Server("--port", str(port)), f"cannot listen on 127.0.0.1:{port}")


def assert_it_fails(server, message):
    output, _ = server.process.communicate(timeout=READY_S)
    assert server.process.returncode in (1, 2)
    assert re.search(rf"^specd: .*{re.escape(message)}", output, re.MULTILINE)
    assert "Traceback" not in output
