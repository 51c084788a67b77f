"""The command runner, with real processes: what goes in, what comes out, and what is left when an agent ended."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest
from msgspec import ValidationError, convert
from runner_world import ATTEMPT, SERVICES, alive, gone, job, run, runner

from nexrl.errors import ConfigError
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.rollouts.runners.environment import agent_environment, fill

SPAWN = """
import subprocess, sys, time
def spawn(**options):
    pid = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], **options).pid
    print(pid, flush=True)
"""


async def test_an_agent_gets_its_input_and_gives_its_output_and_exit_code(tmp_path):
    code = "import sys; print(sys.stdin.read().upper()); sys.exit(3)"
    ended = await run(tmp_path, code, stdin="{word} there", task={"word": "hello"})
    assert (ended.answer, ended.stdout, ended.exit_code, ended.timed_out) == ("HELLO THERE", "HELLO THERE\n", 3, False)


async def test_it_runs_where_the_recipe_lies_or_in_the_folder_named(tmp_path):
    (tmp_path / "inner").mkdir()
    code = "import os; print(os.getcwd())"
    assert (await run(tmp_path, code)).answer == str(tmp_path)
    assert (await run(tmp_path, code, cwd="inner")).answer == str(tmp_path / "inner")


async def test_the_tasks_files_lie_in_a_fresh_folder_that_is_removed(tmp_path):
    code = "import os; print(os.getcwd(), open('a/tests.py').read(), open('two').read(), sorted(os.listdir()))"
    files = {"a/tests.py": "{tests}", "{name}": "2"}
    ended = await run(tmp_path, code, files=files, task={"tests": "assert 1", "name": "two"})
    folder, said = ended.answer.split(" ", 1)
    assert folder == str(tmp_path / f"workspaces/{ATTEMPT}")
    assert said == "assert 1 2 ['a', 'two']"
    assert not (tmp_path / f"workspaces/{ATTEMPT}").exists()


@pytest.mark.parametrize(("keep", "kept"), [("never", []), ("failed", ["bad"]), ("always", ["bad", "good"])])
async def test_the_folder_is_kept_where_asked(tmp_path, keep, kept):
    program = [sys.executable, "-c", "import sys; open('out', 'w'); sys.exit({code})"]
    async with runner(tmp_path, command=program, files={}, keep_files=keep) as started:
        await started.run(job("good", code=0), 20)
        await started.run(job("bad", code=1), 20)
    assert sorted(path.parent.name for path in (tmp_path / "workspaces").glob("*/out")) == kept


async def test_folders_that_a_killed_run_left_go_at_the_next_start(tmp_path):
    (tmp_path / "workspaces/old").mkdir(parents=True)
    async with runner(tmp_path, command=["true"], files={}):
        assert not (tmp_path / "workspaces").exists()


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ({"files": {"a": "", "{name}": ""}, "keep_files": "always"}, r"\.\./x: give a path inside"),
        ({"files": {}, "answer": "file:{name}", "keep_files": "never"}, r"\.\./x: give a path inside"),
        ({"files": {"a": "", "a/b": ""}, "keep_files": "always"}, "exists"),
    ],
    ids=["file", "answer", "no place"],
)
async def test_files_that_cannot_lie_in_the_folder_are_refused_and_leave_none(tmp_path, agent, said):
    with pytest.raises((ValueError, OSError), match=said):
        await run(tmp_path, "open('ran', 'w')", **agent, task={"name": "../x"})
    assert not list(tmp_path.rglob(ATTEMPT))


def test_the_tasks_files_are_utf_8_whatever_the_machine_speaks(tmp_path):
    code = "from pathlib import Path\nfrom nexrl_trainer.rollouts.runners.workspace import Workspace\n"
    code += f"Workspace.made(Path({str(tmp_path)!r}) / 'w', {{'a': chr(233)}})"
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code], env=ascii_only, check=True)
    assert (tmp_path / "w/a").read_bytes() == b"\xc3\xa9"


async def test_while_a_large_folder_is_removed_everything_else_goes_on(tmp_path, monkeypatch):
    removing, going_on = threading.Event(), threading.Event()

    def slowly(*_, **__):
        removing.set()
        assert going_on.wait(10)

    async with runner(tmp_path, command=["true"], files={}) as started:
        monkeypatch.setattr("shutil.rmtree", slowly)
        attempt = asyncio.create_task(started.run(job(), 20))
        assert await asyncio.to_thread(removing.wait, 10)
        going_on.set()
        assert (await attempt).exit_code == 0


@pytest.mark.parametrize(
    ("answer", "said"), [("stdout", "printed"), ("file:out/{id}.txt", "written"), ("message", None)]
)
async def test_the_answer_stands_where_the_recipe_says(tmp_path, answer, said):
    code = "import os; os.mkdir('out'); open('out/7.txt', 'w').write('written '); print('printed')"
    assert (await run(tmp_path, code, files={}, answer=answer, task={"id": 7})).answer == said


async def test_an_agent_that_writes_no_answer_gives_an_empty_one(tmp_path):
    assert (await run(tmp_path, "print('printed')", files={}, answer="file:out.txt")).answer == ""


async def test_an_agent_that_hangs_is_killed_with_its_children(tmp_path):
    code = SPAWN + "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); spawn(); time.sleep(60)"
    ended = await run(tmp_path, code, timeout_s=0.6)
    assert ended.timed_out
    assert await gone(int(ended.stdout))


@pytest.mark.parametrize("options", ["", "start_new_session=True, stdout=subprocess.DEVNULL", "start_new_session=True"])
async def test_children_that_an_agent_leaves_behind_end_with_it_wherever_they_hide(tmp_path, options):
    ended = await run(tmp_path, SPAWN + f"spawn({options}); spawn({options})")
    assert (ended.exit_code, ended.timed_out) == (0, False)
    first, second = map(int, ended.stdout.split())
    assert await gone(first)
    assert await gone(second)


async def test_another_attempts_processes_are_left_alone(tmp_path):
    async with runner(tmp_path, command=[sys.executable, "-c", "import os; print(os.getpid()); {more}"]) as started:
        long = asyncio.create_task(started.run(job("a", more="import time; open('there', 'w'); time.sleep(0.5)"), 20))
        while not (tmp_path / "there").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
        await started.run(job("b", more=""), 20)
        assert (await long).exit_code == 0


async def test_cancelling_kills_the_agent(tmp_path):
    pid_file = tmp_path / "pid"
    code = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    task = asyncio.create_task(run(tmp_path, code))
    while not pid_file.exists() or not pid_file.read_text():  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(int(pid_file.read_text()))


async def test_an_agent_that_prints_without_end_keeps_its_newest_megabyte(tmp_path):
    ended = await run(tmp_path, "import sys; sys.stdout.write('x' * 3_000_000 + 'end')")
    assert len(ended.stdout) == 1 << 20
    assert ended.stdout.endswith("end")


async def test_an_agent_that_never_reads_its_input_is_no_trouble(tmp_path):
    assert (await run(tmp_path, "print('done')", stdin="x" * 1_000_000)).stdout == "done\n"


@pytest.mark.parametrize(
    ("limits", "code", "said"),
    [
        ({"memory_mib": 200}, "b'x' * (300 << 20)", "MemoryError"),
        ({"file_mib": 1}, "open('big', 'wb').write(b'x' * (2 << 20))", "File too large"),
        ({"open_files": 20}, "x = [open('/dev/null') for _ in range(30)]", "Too many open files"),
    ],
)
async def test_limits_are_the_kernels(tmp_path, limits, code, said):
    ended = await run(tmp_path, code, limits=limits)
    assert ended.exit_code == 1
    assert said in ended.stderr
    assert (await run(tmp_path, code.replace("3", "1").replace("2 <<", "0 <<"), limits=limits)).exit_code == 0


async def test_a_program_that_is_not_there_is_named_behind_limits_too(tmp_path):
    for limits in ({}, {"cpu_s": 5}):
        async with runner(tmp_path, command=["no-such-agent"], limits=limits) as started:
            with pytest.raises(FileNotFoundError, match="no-such-agent"):
                await started.run(job(), 20)


def test_an_agent_never_sees_the_admin_key(monkeypatch):
    monkeypatch.setenv("NEXRL_ADMIN_KEY", "secret-secret-secret")
    monkeypatch.setenv("LLM_API_KEY", "somebody else's")
    environment = agent_environment(SERVICES, "nxr-a:0.s", {"MORE": "1"})
    assert "secret-secret-secret" not in environment.values()
    assert environment["OPENAI_BASE_URL"] == environment["OPENAI_API_BASE"] == "http://127.0.0.1:1/v1"
    assert environment["LLM_BASE_URL"] == environment["OPENAI_BASE_URL"]
    keys = [environment[name] for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "LLM_API_KEY", "MORE")]
    assert keys == ["nxr-a:0.s"] * 3 + ["1"]


def test_an_agents_own_spans_go_to_its_session_unless_the_user_sends_them_elsewhere(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    told = agent_environment(SERVICES, "nxr-a:0.s", {})
    assert {name: value for name, value in told.items() if name.startswith("OTEL_EXPORTER_OTLP_")} == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:2",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20nxr-a%3A0.s",
    }
    assert told["NEXRL_INGEST_URL"] == "http://127.0.0.1:2"
    assert told["NO_PROXY"].endswith("127.0.0.1,localhost")
    own = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://phoenix:6006/v1/traces"}
    theirs = agent_environment(SERVICES, "nxr-a:0.s", own)
    assert {name for name in theirs if name.startswith("OTEL_EXPORTER_OTLP_")} == own.keys()


def test_fields_of_the_task_fill_the_command_and_other_braces_stay():
    assert fill('{question} {"json": 1}', {"question": "why?"}) == 'why? {"json": 1}'
    with pytest.raises(ConfigError, match="asks for 'answr', the task has question"):
        fill("{answr}", {"question": "why?"})


def test_a_field_in_the_answers_path_is_looked_for_in_every_task():
    assert "{nmae}.txt" in convert({"command": ["a"], "files": {}, "answer": "file:{nmae}.txt"}, Agent).templates


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ({}, "give one of `command`, `callable`, `environment`"),
        ({"command": ["a"], "callable": "a.py:f"}, "give one of"),
        ({"callable": "a.py:f", "environment": "a.py:E"}, "give one of"),
        ({"environment": "a.py:E", "stdin": "x"}, "agent.stdin is about commands"),
        ({"callable": "a.py:f", "max_turns": 2}, "agent.max_turns is about environments"),
        ({"command": ["a"], "max_tokens": 2}, "agent.max_tokens is about environments"),
        ({"command": ["a"], "workers": 2}, "agent.workers is about agent.callable"),
        ({"callable": "a.py:f", "stdin": "x"}, "agent.stdin is about commands"),
        ({"callable": "a.py:f", "limits": {"cpu_s": 1}}, "agent.limits is about commands"),
        ({"callable": "a.f"}, "matching regex"),
        ({"command": ["a"], "answer": "stderr"}, "matching regex"),
        ({"command": ["a"], "keep_files": "always"}, "there are no files of its own"),
        ({"command": ["a"], "files": {}, "cwd": "x"}, "agent.cwd=x: with agent.files"),
        ({"command": ["a"], "answer": "file:{id}"}, r"agent.answer=file:\{id\}: .*set agent.files: \{\}"),
        ({"command": ["a"], "files": {"a/../../b": ""}}, "agent.files: a/../../b: give a path inside"),
        ({"command": ["a"], "files": {}, "answer": "file:/tmp/x"}, "agent.answer: /tmp/x: give a path inside"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(agent, said):
    with pytest.raises(ValidationError, match=said):
        convert(agent, Agent)
