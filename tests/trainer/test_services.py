"""Processes that announce themselves, seen from the trainer."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nexrl.errors import ConfigError, ServiceError
from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.recipe import load_recipe
from nexrl_trainer.recipe.proxy import OtherModel, Proxy
from nexrl_trainer.services import commands
from nexrl_trainer.services.process import ServiceProcess
from nexrl_trainer.services.running import from_here, refuse_taken

SERVICE = """
import asyncio
from nexrl.service import serve_until_stopped
asyncio.run(serve_until_stopped("127.0.0.1", 7, exit_with_parent=True))
print("stopped cleanly", flush=True)
"""


def start(tmp_path, code, **environment):
    return ServiceProcess("thing", [sys.executable, "-c", code], str(tmp_path / "thing.log"), environment)


def test_a_service_tells_its_address_and_stops_when_asked(tmp_path):
    service = start(tmp_path, SERVICE)
    assert service.url() == "http://127.0.0.1:7"
    assert service.ended() is None
    service.stop()
    assert service.ended().startswith("exit code 0")


def test_a_service_that_dies_at_the_start_shows_the_end_of_its_log(tmp_path):
    service = start(tmp_path, "raise SystemExit('port 80 is in use: choose another')")
    with pytest.raises(ServiceError, match=r"(?s)thing did not start: exit code 1.*port 80 is in use"):
        service.url()
    service.stop()


def test_a_port_that_is_taken_is_told_by_the_recipes_name_for_it():
    refuse_taken("proxy.port", "127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^proxy\.port={port}: Address already in use; set another, or 0"):
            refuse_taken("proxy.port", "127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"^proxy\.host=192\.0\.2\.1: no address of this machine"):
        refuse_taken("proxy.port", "192.0.2.1", 0)


def test_a_service_that_stays_silent_is_given_up_and_killed(tmp_path):
    service = start(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(ServiceError, match="not ready within"):
        service.url(timeout_s=0.3)
    assert service.ended()


def test_a_service_that_will_not_stop_is_killed(tmp_path):
    service = start(
        tmp_path,
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready http://h:1', flush=True)\n"
        "time.sleep(60)",
    )
    service.url()
    service.stop(timeout_s=0.2)
    assert service.ended().startswith("exit code -9")


def test_killing_the_parent_ends_the_service(tmp_path):
    code = f"""
import sys, time
from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.recipe import load_recipe
from nexrl_trainer.recipe.proxy import OtherModel, Proxy
from nexrl_trainer.services import commands
from nexrl_trainer.services.process import ServiceProcess
service = ServiceProcess("thing", [sys.executable, "-c", {SERVICE!r}], {str(tmp_path / "log")!r}, {{}})
service.url()
print(service._process.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the service outlived its parent"
        time.sleep(0.02)


def test_the_key_of_another_model_is_missed_before_anything_starts(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    recipe = Proxy(models={"judge": OtherModel(url="10.0.0.7:8000")})
    with pytest.raises(ConfigError, match=r"^proxy\.models\.judge\.url=10\.0\.0\.7:8000: give http://HOST:PORT/v1"):
        recipe.check()
    recipe = Proxy(models={"judge": OtherModel(url="http://h", key_variable="JUDGE_KEY")})
    with pytest.raises(ConfigError, match=r"^proxy\.models\.judge\.key_variable=JUDGE_KEY: it is not set"):
        recipe.check()


@pytest.mark.parametrize(("host", "required"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_a_proxy_that_others_reach_serves_nobody_without_a_key(tmp_path, host, required):
    (tmp_path / "recipe.yaml").write_text(
        "{name: r, steps: 1, model: {path: m}, tasks: {train: t.jsonl}, reward: r.py, agent: {command: [a]}, "
        f"proxy: {{host: {host}}}}}"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    told = commands.proxy(recipe, Path("m"), RunDirectory(tmp_path), "http://e", "http://i")
    assert ("--require-key" in told, "--require-session" in told) == (required, True)


def test_this_machine_reaches_what_listens_everywhere():
    assert from_here("http://0.0.0.0:80") == "http://127.0.0.1:80"
    assert from_here("http://[::]:80") == "http://[::1]:80"
    assert from_here("http://10.0.0.5:80") == "http://10.0.0.5:80"
