"""The callable runner, with real worker processes: what functions are given, and what one of them can do to others."""

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from runner_world import alive, gone, job, runner

from nexrl.errors import ConfigError
from nexrl.testing import Endpoint
from nexrl_trainer.rollouts.runners.callable_worker import Function
from nexrl_trainer.rollouts.runners.runner import DisturbedError, Services

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("callable-runner")]
AGENT = """
import asyncio, os, subprocess, sys, time

async def act(task, session, base_url, api_key, model, more="default"):
    print("heard of", task)
    match task["do"]:
        case "sleep":
            await asyncio.sleep(task["s"])
            return f"{os.getpid()}"
        case "block":
            time.sleep(60)
        case "die":
            await asyncio.sleep(0.2)
            os._exit(3)
        case "raise":
            raise KeyError("price")
        case "exit":
            sys.exit("no more")
        case "object":
            return object()
        case "tell":
            return {"session": session.id, "url": base_url, "key": api_key, "model": model, "more": more}

def wait(task):
    if "next" in task:
        return next(iter(()))
    if "s" in task:
        time.sleep(task["s"])
        return "woke"
    return f"{subprocess.Popen(['sleep', '60'], start_new_session=True).pid}"

def strange(question): ...
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("callable")
    (made / "agent.py").write_text(AGENT)
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agents(folder):
    """An async function, in one worker for all its calls."""
    async with runner(folder, callable="agent.py:act", workers=1) as started:
        yield started


async def test_a_function_gets_what_it_asks_for_and_what_is_no_text_is_answered_as_json(agents):
    ended = await agents.run(job("a-1", do="tell"), 20)
    url, key = "http://127.0.0.1:1/s/a-1/v1", "nxr-a-1.s"
    assert ended.answer == f'{{"session":"a-1","url":"{url}","key":"{key}","model":"m","more":"default"}}'
    assert (ended.problem, ended.exit_code, ended.timed_out) == ("", 0, False)


@pytest.mark.parametrize(
    ("do", "problem"),
    [
        ("raise", "raise KeyError(\"price\") | KeyError: 'price'"),
        ("exit", "SystemExit: no more"),
        ("object", "Encoding objects of type object is unsupported"),
    ],
)
async def test_whatever_a_function_does_is_its_own_failure(agents, do, problem):
    ended = await agents.run(job(do=do), 20)
    assert ended.answer == ""
    assert ended.problem.endswith(problem)
    assert (await agents.run(job(do="sleep", s=0), 20)).answer


async def test_a_function_that_returns_nothing_answers_nothing_and_what_it_prints_is_in_the_log(agents, folder):
    ended = await agents.run(job(do="nothing", n=7), 20)
    assert (ended.answer, ended.problem) == ("", "")
    assert "heard of {'do': 'nothing', 'n': 7}" in (folder / "agents.log").read_text()


async def test_calls_share_a_worker_and_one_whose_time_is_up_harms_nobody(agents):
    work = [agents.run(job(f"a-{n}", do="sleep", s=0.3), 20) for n in range(20)]
    late, *others = await asyncio.gather(agents.run(job("late", do="sleep", s=60), 0.1), *work)
    assert late.timed_out
    assert len({ended.answer for ended in others}) == 1


async def test_cancelling_a_call_ends_it_and_not_its_worker(agents):
    first = await agents.run(job("first", do="sleep", s=0), 20)
    call = asyncio.create_task(agents.run(job("given-up", do="sleep", s=60), 60))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await agents.run(job("next", do="sleep", s=0), 20)).answer == first.answer


async def test_one_that_cannot_be_cancelled_is_killed_and_the_others_are_made_again(agents, monkeypatch):
    monkeypatch.setattr("nexrl_trainer.rollouts.runners.callable.CANCEL_S", 0.1)
    other = asyncio.create_task(agents.run(job("other", do="sleep", s=60), 20))
    await asyncio.sleep(0.1)
    assert (await agents.run(job("stuck", do="block"), 0.2)).timed_out
    with pytest.raises(DisturbedError, match="another call in it did not end") as disturbed:
        await other
    assert not disturbed.value.suspect
    assert (await agents.run(job("other-2", do="sleep", s=0), 20)).answer


async def test_a_crash_makes_all_of_its_process_suspects_and_alone_the_one_is_found(agents):
    both = [agents.run(job("a", do="die"), 20), agents.run(job("b", do="sleep", s=60), 20)]
    for error in await asyncio.gather(*both, return_exceptions=True):
        assert isinstance(error, DisturbedError)
        assert error.suspect
    again = [agents.run(job("a-2", alone=True, do="die"), 20), agents.run(job("b-2", alone=True, do="sleep", s=0), 20)]
    guilty, innocent = await asyncio.gather(*again)
    assert guilty.problem.startswith("its process ended with exit code 3")
    assert innocent.answer


async def test_a_function_that_is_not_async_runs_in_a_thread_and_what_it_left_behind_ends_with_the_run(
    folder, monkeypatch
):
    monkeypatch.setattr("nexrl_trainer.rollouts.runners.callable.CANCEL_S", 0.1)
    async with runner(folder, callable="agent.py:wait", workers=1) as agents:
        other = agents.run(job("a", s=0.2), 20)
        slept, left = await asyncio.gather(other, agents.run(job("b"), 20))
        assert slept.answer == "woke"
        assert "raised StopIteration" in (await agents.run(job("n", next=1), 20)).problem
        pid = int(left.answer)
        assert alive(pid)
        assert (await agents.run(job("c", s=60), 0.2)).timed_out
        assert await gone(pid)


async def test_a_worker_that_dies_idle_takes_along_what_it_started(folder):
    async with runner(folder, callable="agent.py:wait", workers=1) as agents:
        left = psutil.Process(int((await agents.run(job("a"), 20)).answer))
        os.kill(left.ppid(), signal.SIGKILL)
        assert await gone(left.pid)


async def test_one_that_hangs_is_killed_also_where_nobody_waits_for_its_end_any_more(folder, monkeypatch):
    monkeypatch.setattr("nexrl_trainer.rollouts.runners.callable.CANCEL_S", 0.3)
    async with runner(folder, callable="agent.py:wait", workers=1) as agents:
        other = asyncio.create_task(agents.run(job("other", s=60), 10))
        hangs = asyncio.create_task(agents.run(job("hangs", s=60), 0.1))
        await asyncio.sleep(0.2)
        hangs.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hangs
        with pytest.raises(DisturbedError):
            await other


async def test_a_result_that_comes_while_its_process_is_killed_harms_nobody(folder):
    async with runner(folder, callable="agent.py:wait", workers=1) as agents:
        call = asyncio.create_task(agents.run(job(s=0.1), 20))
        await asyncio.sleep(0.05)
        time.sleep(0.3)  # noqa: ASYNC251 - what comes meanwhile is read after the kill has begun
    with pytest.raises(DisturbedError, match="the run ended"):
        await call


async def test_a_worker_that_cannot_have_its_function_is_refused_before_anything_runs(folder):
    with pytest.raises(ConfigError, match="no function 'nobody'"):
        await runner(folder, callable="agent.py:nobody").__aenter__()


@pytest.mark.parametrize(
    ("file", "function", "said"),
    [
        ("agent.py", "strange", "agent 'strange' asks for 'question': it can have task, session"),
        ("broken.py", "act", "does not import: ModuleNotFoundError"),
        ("nowhere.py", "act", r"nowhere\.py: no such file"),
    ],
)
async def test_a_function_that_cannot_be_called_is_named(folder, file, function, said):
    (folder / "broken.py").write_text("import nothing_of_that_name")
    with pytest.raises(ConfigError, match=said):
        Function.loaded(str(folder / file), function)


SAY = """
import nexrl
from openai import OpenAI

def solve(task):
    with OpenAI() as client:
        messages = [{"role": "user", "content": task["question"]}]
        said = client.chat.completions.create(model="m", messages=messages)
    nexrl.emit_reward("brief", 1.0, required=True)
    return said.choices[0].message.content
"""
PAGE = (Path(__file__).parents[2] / "docs/agents.md").read_text()
[SOLVER] = re.findall(r"^```python solver\.py\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("program", [SOLVER, pytest.param(SAY, marks=pytest.mark.soak)], ids=["page", "sync"])
async def test_clients_and_rewards_of_concurrent_calls_belong_to_their_attempts(tmp_path, program):
    (tmp_path / "solver.py").write_text(program)
    with Endpoint(*["fine"] * 3) as model:
        services = Services(proxy=model.url, ingest=model.url, model="m")
        async with runner(tmp_path, services=services, callable="solver.py:solve", workers=1) as agents:
            ended = await asyncio.gather(*(agents.run(job(f"run-{n}", question="1+1?"), 60) for n in range(3)))
    assert [(item.answer, item.problem) for item in ended] == [("fine", "")] * 3
    assert sorted(asked.session for asked in model.requests) == ["run-0", "run-1", "run-2"]
    assert sorted(reward.session for reward in model.rewards) == ["run-0", "run-1", "run-2"]
