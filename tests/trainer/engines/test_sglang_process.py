"""SGLang's server as one of our services; what is started here has its name and its manners, and takes no GPU."""

import os
import signal
import sys
import time
import urllib.request

import psutil
import pytest

from nexrl.errors import ServiceError
from nexrl_trainer.services.process import ServiceProcess

pytestmark = pytest.mark.slow
FLAGS = ["--model-path", "m", "--weight-version", "3"]
SERVER = """
import argparse, http.server, os, subprocess, sys, time
given = argparse.ArgumentParser()
for name in ("--host", "--port", "--model-path", "--weight-version"):
    given.add_argument(name)
given = given.parse_args()
began = time.monotonic()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("loading", given.model_path)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/exit":
            os._exit(7)
        self.send_response(200 if time.monotonic() - began > 0.5 else 503)
        self.end_headers()

http.server.HTTPServer((given.host, int(given.port)), Handler).serve_forever()
"""


@pytest.fixture
def start(tmp_path):
    """Start the service; whatever became of it, nothing is left of it afterwards."""
    services = []

    def started(*flags):
        folder = tmp_path / "site/sglang"
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "launch_server.py").write_text(SERVER)
        command = [sys.executable, "-m", "nexrl_trainer.engines.servers", "--exit-with-parent", "--", *flags]
        environment = {"PYTHONPATH": str(folder.parent)}
        services.append(ServiceProcess("engine", command, str(tmp_path / "engine.log"), environment))
        return services[-1]

    yield started
    for service in services:
        service.stop()


def family(started):
    """The server, and what it started itself."""
    return psutil.Process(started._process.pid).children(recursive=True)


def lives(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(processes):
    deadline = time.monotonic() + 10
    while living := [one for one in processes if lives(one)]:
        assert time.monotonic() < deadline, living
        time.sleep(0.02)


def test_it_is_ready_once_the_server_is_healthy_and_stops_with_all_it_started(start):
    started = start(*FLAGS)
    with urllib.request.urlopen(started.url(), timeout=10) as reply:
        assert reply.status == 200
    server, child = family(started)
    assert server.cmdline()[-4:] == FLAGS
    started.stop()
    assert started.ended().startswith("exit code 0")
    gone([server, child])


def test_a_server_that_dies_ends_the_service_with_its_code_and_what_it_had_started(start):
    started = start(*FLAGS)
    started.url()
    service = psutil.Process(started._process.pid)
    server, child = family(started)
    server.send_signal(signal.SIGKILL)
    gone([server, child, service])
    assert not started.ended().startswith("exit code 0")


def test_a_server_that_does_not_start_says_why(start):
    started = start("--mode-path", "m")
    with pytest.raises(ServiceError, match=r"(?s)did not start: exit code 2.*unrecognized arguments: --mode-path"):
        started.url()


def test_a_service_that_is_killed_takes_the_server_along(start):
    started = start(*FLAGS)
    started.url()
    server, _ = family(started)
    os.kill(started._process.pid, signal.SIGKILL)
    gone([server])
