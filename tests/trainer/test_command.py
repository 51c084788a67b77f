import asyncio
import os
import sys
import time

import psutil
import pytest

from nexrl.errors import ConfigError
from nexrl_trainer.rollouts.command import agent_environment, fill, run_command


async def run(tmp_path, code, *, timeout_s=20.0, stdin=None, environment=None):
    command = [sys.executable, "-c", code]
    environment = {**os.environ, **(environment or {})}
    return await run_command(command, stdin=stdin, environment=environment, folder=tmp_path, timeout_s=timeout_s)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def gone(pid):
    for _ in range(100):
        if not alive(pid):
            return True
        await asyncio.sleep(0.02)
    return False


SPAWN = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
"""


async def test_an_agent_gets_its_input_and_gives_its_output_and_exit_code(tmp_path):
    ended = await run(tmp_path, "import sys; print(sys.stdin.read().upper()); sys.exit(3)", stdin="hello")
    assert (ended.stdout, ended.exit_code, ended.timed_out) == ("HELLO\n", 3, False)


async def test_an_agent_that_hangs_is_killed_with_its_children(tmp_path):
    ended = await run(tmp_path, SPAWN + "time.sleep(60)", timeout_s=1.5)
    assert ended.timed_out
    assert await gone(int(ended.stdout))


async def test_children_that_an_agent_leaves_behind_end_with_it(tmp_path):
    ended = await run(tmp_path, SPAWN)
    assert ended.exit_code == 0
    assert await gone(int(ended.stdout))


DAEMON = SPAWN.replace('time.sleep(60)"]', 'time.sleep(5)"], start_new_session=True')


async def test_a_daemon_that_holds_the_agents_pipes_delays_nobody(tmp_path):
    started = time.monotonic()
    ended = await run(tmp_path, DAEMON + "print('done')")
    assert (ended.exit_code, ended.timed_out) == (0, False)
    assert ended.stdout.endswith("done\n")
    assert ended.duration_s < 2
    assert time.monotonic() - started < 4.5
    assert alive(int(ended.stdout.split()[0])), "the daemon is meant to have outlived the agent here"


async def test_cancelling_kills_the_agent(tmp_path):
    pid_file = tmp_path / "pid"
    code = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    task = asyncio.create_task(run(tmp_path, code))
    while not pid_file.exists() or not pid_file.read_text():  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(int(pid_file.read_text()))


async def test_an_agent_that_prints_without_end_keeps_its_newest_megabyte(tmp_path):
    ended = await run(tmp_path, "import sys; sys.stdout.write('x' * 3_000_000 + 'end')")
    assert len(ended.stdout) == 1 << 20
    assert ended.stdout.endswith("end")


async def test_an_agent_that_never_reads_its_input_is_no_trouble(tmp_path):
    assert (await run(tmp_path, "print('done')", stdin="x" * 1_000_000)).stdout == "done\n"


def test_an_agent_never_sees_the_admin_key(monkeypatch):
    monkeypatch.setenv("NEXRL_ADMIN_KEY", "secret-secret-secret")
    environment = agent_environment("http://h:1", "http://i:2", "nxr-a:0.s", "m", {"MORE": "1"})
    assert "secret-secret-secret" not in environment.values()
    assert environment["OPENAI_BASE_URL"] == environment["OPENAI_API_BASE"] == "http://h:1/v1"
    assert (environment["OPENAI_API_KEY"], environment["MORE"]) == ("nxr-a:0.s", "1")


def test_an_agents_own_spans_go_to_its_session_unless_the_user_sends_them_elsewhere(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    told = agent_environment("http://h:1", "http://i:2", "nxr-a:0.s", "m", {})
    assert {name: value for name, value in told.items() if name.startswith("OTEL_EXPORTER_OTLP_")} == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://i:2",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20nxr-a%3A0.s",
    }
    assert told["NEXRL_INGEST_URL"] == "http://i:2"
    assert told["NO_PROXY"].endswith("h,i,localhost")
    own = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://phoenix:6006/v1/traces"}
    theirs = agent_environment("http://h:1", "http://i:2", "nxr-a:0.s", "m", own)
    assert {name for name in theirs if name.startswith("OTEL_EXPORTER_OTLP_")} == own.keys()


def test_fields_of_the_task_fill_the_command_and_other_braces_stay():
    assert fill('{question} {"json": 1}', {"question": "why?"}) == 'why? {"json": 1}'
    with pytest.raises(ConfigError, match="asks for 'answr', the task has question"):
        fill("{answr}", {"question": "why?"})


async def test_time_is_measured(tmp_path):
    started = time.monotonic()
    ended = await run(tmp_path, "import time; time.sleep(0.3)")
    assert 0.3 <= ended.duration_s <= time.monotonic() - started
