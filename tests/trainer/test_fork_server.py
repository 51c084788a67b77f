"""Forked agents are as fresh ones: their own arguments, environment, folder, streams, chance, errors and end."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest
from msgspec import ValidationError, convert
from runner_world import job, runner

from nexrl.errors import ConfigError, RunError
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.rollouts.runners.fork_server import HEAD, SCRIPT, ForkServer

WAITS = "import time\nprint('here', flush=True)\ntime.sleep(60)"


@contextlib.asynccontextmanager
async def serving(*modules):
    server = await ForkServer.start(sys.executable, modules, Path.cwd())
    try:
        yield server
    finally:
        await server.close()


async def output(server, folder, source, *arguments, environment=None):
    """Run a script to its end; return its exit code and what it printed to either stream."""
    script = folder / "agent.py"
    script.write_text(source)
    out = folder / "out.txt"
    with out.open("wb") as file, Path(os.devnull).open("rb") as nothing:  # noqa: ASYNC230 - no time
        streams = (nothing.fileno(), file.fileno(), file.fileno())
        command = [str(script), *arguments]
        forked = await server.fork(command, environment=environment or {}, folder=folder, streams=streams)
    return await forked.ended, out.read_text()


async def said(folder):
    while not (folder / "out.txt").exists() or not (folder / "out.txt").read_text():  # noqa: ASYNC110 - a file
        await asyncio.sleep(0.01)


async def test_an_agent_finds_its_own_arguments_environment_and_folder(tmp_path):
    source = "import os, sys\nprint(sys.argv[1:], dict(os.environ), os.getcwd(), sys.path[0], __name__)"
    async with serving() as server:
        code, said = await output(server, tmp_path, source, "one", environment={"HERE": "yes"})
    assert (code, said) == (0, f"['one'] {{'HERE': 'yes'}} {tmp_path} {tmp_path} __main__\n")


async def test_an_agent_finds_its_modules_loaded_and_nothing_of_nexrl(tmp_path):
    source = "import sys\nprint('colorsys' in sys.modules, [name for name in sys.modules if 'nexrl' in name])"
    async with serving("colorsys") as server:
        assert await output(server, tmp_path, source) == (0, "True []\n")


async def test_a_module_runs_as_python_dash_m_does(tmp_path):
    (tmp_path / "mine.py").write_text("import sys; print(__name__, sys.argv[1:])")
    async with serving() as server:
        read_end, write_end = os.pipe()
        forked = await server.fork(
            ["-m", "mine", "x"], environment={}, folder=tmp_path, streams=(read_end, write_end, write_end)
        )
        assert await forked.ended == 0
        os.close(write_end)
        assert os.read(read_end, 100) == b"__main__ ['x']\n"
        os.close(read_end)


async def test_an_error_reads_as_in_a_python_of_its_own(tmp_path):
    async with serving() as server:
        code, said = await output(server, tmp_path, "def work():\n    raise ValueError('no')\nwork()")
    fresh = await asyncio.create_subprocess_exec(
        sys.executable, str(tmp_path / "agent.py"), cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, expected = await fresh.communicate()
    assert (code, said) == (fresh.returncode, expected.decode())


@pytest.mark.parametrize(
    ("source", "code"),
    [("import sys; sys.exit(3)", 3), ("import sys; sys.exit('bad')", 1), ("import os; os.kill(os.getpid(), 9)", -9)],
    ids=["exit code", "message", "signal"],
)
async def test_its_exit_code_is_told(tmp_path, source, code):
    async with serving() as server:
        assert (await output(server, tmp_path, source))[0] == code


async def test_two_agents_draw_other_numbers(tmp_path):
    source = "import random, numpy\nprint(random.random(), numpy.random.rand())"
    async with serving("random", "numpy") as server:
        [_, first], [_, second] = [await output(server, tmp_path, source) for _ in range(2)]
    assert not set(first.split()) & set(second.split())


async def test_what_an_agent_leaves_in_its_group_ends_with_it(tmp_path):
    source = "import subprocess\nprint(subprocess.Popen(['sleep', '60']).pid)"
    async with serving() as server:
        _, pid = await output(server, tmp_path, source)
        while psutil.pid_exists(int(pid)):  # noqa: ASYNC110 - a process tells nobody but its parent
            await asyncio.sleep(0.01)


async def test_closing_ends_what_runs(tmp_path):
    async with serving() as server:
        running = asyncio.create_task(output(server, tmp_path, WAITS))
        await said(tmp_path)
    assert await running == (-signal.SIGKILL, "here\n")


async def test_many_at_once_are_kept_apart(tmp_path):
    async with serving() as server:
        folders = [tmp_path / str(number) for number in range(30)]
        for folder in folders:
            folder.mkdir()
        ended = await asyncio.gather(
            *(
                output(server, folder, "import sys; print(sys.argv[1]); sys.exit(int(sys.argv[1]))", folder.name)
                for folder in folders
            )
        )
    assert ended == [(number, f"{number}\n") for number in range(30)]


async def test_a_module_that_starts_threads_is_refused(tmp_path, monkeypatch):
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RunError, match=r"'threaded' starts threads.*leave it out"):
        await ForkServer.start(sys.executable, ["threaded"], tmp_path)


async def test_a_module_that_reads_the_environment_when_imported_finds_the_recipes(tmp_path, monkeypatch):
    (tmp_path / "early.py").write_text("import os\nSEEN = os.environ.get('EARLY')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "agent.py").write_text("import early\nprint(early.SEEN)")
    agent = {"command": ["python", "agent.py"], "preload": ["early"], "env": {"EARLY": "yes"}}
    async with runner(tmp_path, **agent) as started:
        assert (await started.run(job(), 20)).answer == "yes"


async def test_a_module_finds_nothing_of_the_trainer_in_the_environment(tmp_path, monkeypatch):
    (tmp_path / "early.py").write_text("import os\nSEEN = [name for name in os.environ if name.startswith('NEXRL_')]")
    (tmp_path / "agent.py").write_text("import early\nprint(early.SEEN)")
    for name, value in (("PYTHONPATH", str(tmp_path)), ("NEXRL_ADMIN_KEY", "secret"), ("NEXRL_ATTEMPT", "outer")):
        monkeypatch.setenv(name, value)
    async with runner(tmp_path, command=["python", "agent.py"], preload=["early"]) as started:
        assert (await started.run(job(), 20)).answer == "[]"


async def test_a_module_that_fails_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("raise ValueError('no such luck')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RunError, match="no such luck"):
        await ForkServer.start(sys.executable, ["broken"], tmp_path)


async def test_a_module_that_talks_much_while_it_is_imported_holds_nobody_up(tmp_path, monkeypatch):
    (tmp_path / "chatty.py").write_text("import sys\nsys.stderr.write('warning ' * 100_000)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with asyncio.timeout(10), serving("chatty") as server:
        assert (await output(server, tmp_path, "pass"))[0] == 0


async def test_an_agent_that_was_just_begun_is_killed(tmp_path):
    (tmp_path / "agent.py").write_text(WAITS)
    async with serving() as server:
        with Path(os.devnull).open("r+b") as nothing:  # noqa: ASYNC230 - no time
            streams = (nothing.fileno(),) * 3
            async with asyncio.timeout(10):
                for _ in range(20):
                    forked = await server.fork(["agent.py"], environment={}, folder=tmp_path, streams=streams)
                    forked.kill()
                    assert await forked.ended == -signal.SIGKILL


async def test_a_process_more_than_the_machine_has_room_for_is_that_agents_failure_alone(tmp_path):
    script = "import os\ndef refused():\n    if refuse.pop():\n        raise OSError(11, 'no room')\n    return fork()"
    script += "\nfork, refuse, os.fork = os.fork, [False, True, False], refused"
    (tmp_path / "crowded.py").write_text(script)
    async with asyncio.timeout(10):
        server = await ForkServer.start(sys.executable, ["crowded"], tmp_path, {"PYTHONPATH": str(tmp_path)})
        assert (await output(server, tmp_path, "pass"))[0] == 0
        with pytest.raises(OSError, match="no room"):
            await output(server, tmp_path, "pass")
        assert (await output(server, tmp_path, "pass"))[0] == 0
        await server.close()


async def test_a_python_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match=r"\./python9 cannot be started"):
        await ForkServer.start("./python9", ["json"], tmp_path)


async def test_where_the_server_dies_its_agents_are_told_ended_and_more_are_refused(tmp_path):
    async with serving() as server:
        running = asyncio.create_task(output(server, tmp_path, WAITS))
        await said(tmp_path)
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(RunError, match="fork server"):
            await running
        with pytest.raises(RunError, match="fork server"):
            await output(server, tmp_path, "pass")


async def test_it_ends_also_where_its_owner_is_killed_in_the_midst_of_a_request(tmp_path):
    ours, theirs = socket.socketpair()
    read_end, write_end = os.pipe()
    passed = (theirs.fileno(), write_end)
    with ours, theirs, Path(os.devnull).open("r+b") as nothing:  # noqa: ASYNC230 - no time
        command = [sys.executable, str(SCRIPT), *map(str, passed)]
        process = await asyncio.create_subprocess_exec(*command, pass_fds=passed)
        socket.send_fds(ours, [(100).to_bytes(HEAD, "big")], (nothing.fileno(),) * 3)
        ours.sendall(b"{")
    os.close(write_end)
    try:
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    finally:
        os.close(read_end)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_an_agent_whose_server_dies_before_it_has_begun_never_begins(tmp_path):
    script = "import os, time\nfork = os.fork\n\ndef last():\n    server, pid = os.getpid(), fork()\n    if not pid:\n"
    script += "        os.kill(server, 9)\n        while os.getppid() == server:\n            time.sleep(0.001)\n"
    (tmp_path / "mortal.py").write_text(script + "    return pid\n\nos.fork = last")
    (tmp_path / "agent.py").write_text("print('begun', flush=True)")
    server = await ForkServer.start(sys.executable, ["mortal"], tmp_path, {"PYTHONPATH": str(tmp_path)})
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as said:
        with os.fdopen(write_end, "wb") as into, contextlib.suppress(RunError):
            streams = (said.fileno(), into.fileno(), into.fileno())
            await (await server.fork(["agent.py"], environment={}, folder=tmp_path, streams=streams)).ended
        assert await asyncio.to_thread(said.read) == b""
    await server.close()


@pytest.fixture
def agent(tmp_path):
    """Write a script; return a recipe's agent that runs it in a fork with `colorsys` loaded."""

    def written(source):
        (tmp_path / "agent.py").write_text("import os, sys, time\n" + source)
        return {"command": ["python", "agent.py", "{question}"], "preload": ["colorsys"]}

    return written


async def test_a_preloaded_agent_is_told_what_every_agent_is(tmp_path, agent):
    source = "print('colorsys' in sys.modules, sys.argv[1], os.environ['OPENAI_BASE_URL'], sys.stdin.read())"
    async with runner(tmp_path, **agent(source), stdin="in: {question}") as started:
        ended = await started.run(job(question="why"), 20)
    assert (ended.exit_code, ended.answer) == (0, "True why http://127.0.0.1:1/v1 in: why")


async def test_another_python_is_found_from_the_recipes_folder(tmp_path, agent):
    (tmp_path / "python3").symlink_to(sys.executable)
    about = {**agent("print(sys.executable)"), "command": ["./python3", "agent.py"]}
    async with runner(tmp_path, **about) as started:
        assert (await started.run(job(), 20)).answer == str(tmp_path / "python3")


async def test_a_preloaded_agent_ends_when_its_time_is_up_with_what_it_said_so_far(tmp_path, agent):
    async with runner(tmp_path, **agent("print('here', flush=True)\ntime.sleep(60)")) as started:
        ended = await started.run(job(question=""), 0.5)
    assert (ended.timed_out, ended.exit_code, ended.stdout) == (True, -signal.SIGKILL, "here\n")


async def test_only_the_newest_megabyte_of_a_preloaded_agent_is_kept(tmp_path, agent):
    async with runner(tmp_path, **agent("print('a' * 5_000_000 + 'z')")) as started:
        ended = await started.run(job(question=""), 20)
    assert (len(ended.stdout), ended.stdout[-2:]) == (1 << 20, "z\n")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"command": ["node", "agent.js"]}, r"has to begin with \[python, SCRIPT\]"),
        ({"command": ["python", "-c", "print()"]}, r"has to begin with \[python, SCRIPT\]"),
        ({"command": ["python", "agent.py"], "network": "services"}, r"under agent\.network"),
        ({"command": ["python", "agent.py"], "limits": {"cpu_s": 1}}, r"under agent\.limits"),
        ({"command": ["python", "agent.py"], "env": {"PYTHONPATH": "x"}}, r"agent\.env\.PYTHONPATH"),
        ({"callable": "agent.py:work"}, r"agent\.preload is about commands"),
    ],
    ids=["another program", "no file", "network", "limits", "too late", "callable"],
)
def test_what_a_fork_cannot_do_is_refused(about, message):
    with pytest.raises(ValidationError, match=message):
        convert({**about, "preload": ["json"]}, Agent)


def test_a_module_that_is_not_there_is_refused_before_the_start(tmp_path):
    given = convert({"command": ["python", "agent.py"], "preload": ["no_such_module.inner"]}, Agent)
    with pytest.raises(ConfigError, match=r"no module 'no_such_module\.inner'"):
        given.check(lambda path: tmp_path / path)
