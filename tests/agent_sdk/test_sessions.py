"""Whose calls these are: in one context, across tasks, threads and processes."""

import asyncio
import contextvars
import json
import subprocess
import sys
import threading

import pytest

import nexrl
from nexrl.errors import AccessError, ConfigError
from nexrl.keys import attempt_key
from nexrl.sessions import BASE_URLS, attempt_named_by, process_session, with_session

CHILD = "import json, nexrl; s = nexrl.current_session(); print(json.dumps([s.id, s.group, s.agent]))"


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    for name in (*BASE_URLS, "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "BAGGAGE"):
        monkeypatch.delenv(name, raising=False)


def now():
    session = nexrl.current_session()
    return session.id, session.group, session.agent


def test_a_session_holds_inside_and_ends_with_its_block():
    assert now() == (None, None, None)
    with nexrl.session("s-1", group="g", agent="planner") as session:
        assert now() == (session.id, session.group, session.agent) == ("s-1", "g", "planner")
        with nexrl.agent("critic"):
            assert now() == ("s-1", "g", "critic")
        assert now() == ("s-1", "g", "planner")
    assert now() == (None, None, None)


def test_a_session_without_a_name_is_new_each_time_within_another_too():
    with nexrl.session(group="g") as outer, nexrl.session() as inner:
        assert len({outer.id, inner.id, None}) == 3
        assert inner.group is None
        assert len(outer.id) == len("session-") + 16


def test_a_session_ends_when_its_block_raises():
    with pytest.raises(ZeroDivisionError), nexrl.session("s-1"):
        _ = 1 / 0
    assert nexrl.current_session().id is None


async def test_tasks_that_run_at_once_keep_their_own_sessions():
    async def serve(name):
        async with nexrl.session(name):
            await asyncio.sleep(0)
            inner = await asyncio.create_task(asyncio.sleep(0, result=now()))
            return inner, await asyncio.to_thread(now), now()

    for name, seen in zip("abc", await asyncio.gather(*map(serve, "abc")), strict=True):
        assert seen == ((name, None, None),) * 3


def test_a_thread_is_in_the_session_where_it_runs_in_a_copied_context():
    seen = []
    with nexrl.session("s-1"):
        for target in (contextvars.copy_context().run, lambda function: function()):
            thread = threading.Thread(target=target, args=(lambda: seen.append(now()[0]),))
            thread.start()
            thread.join()
    assert seen == ["s-1", None]


def test_a_subprocess_belongs_to_the_session_and_other_baggage_stays(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://h:8000/v1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://h:8000")
    monkeypatch.setenv("BAGGAGE", "tenant=7;p=1,nexrl.session=before")
    monkeypatch.setenv("NEXRL_UNRELATED", "kept")
    with nexrl.session("before", group="größe 1,2", agent="critic") as session:
        environment = session.environment()
    assert environment["OPENAI_BASE_URL"] == "http://h:8000/s/before/v1"
    assert environment["ANTHROPIC_BASE_URL"] == "http://h:8000/s/before"
    assert environment["BAGGAGE"].startswith("tenant=7;p=1,nexrl.session=before,nexrl.group=gr%C3%B6")
    assert environment["NEXRL_UNRELATED"] == "kept"
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["before", "größe 1,2", "critic"]


@pytest.mark.parametrize(
    "environment",
    [
        {"OPENAI_API_KEY": attempt_key("own:1", "k" * 20), "BAGGAGE": "nexrl.session=other"},
        {"ANTHROPIC_API_KEY": attempt_key("own:1", "k" * 20)},
        {"OPENAI_BASE_URL": "http://h/s/own%3A1/v1"},
        {"BAGGAGE": "a=b, nexrl.session = own%3A1;note=x"},
    ],
)
def test_a_process_that_belongs_to_a_session_has_no_other(monkeypatch, environment):
    assert process_session(environment).id == "own:1"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with nexrl.session(group="g") as session:
        assert (session.id, session.group) == ("own:1", "g")
    with nexrl.session("own:1"), nexrl.agent("critic"):
        assert now() == ("own:1", None, "critic")
    with pytest.raises(AccessError, match="session 'mine': all calls of this process belong to 'own:1'"):
        nexrl.session("mine")


def test_a_key_names_its_session_and_is_no_other_sessions(monkeypatch):
    key = attempt_key("own:1", "k" * 20)
    with nexrl.session("own:1", key=key) as named, nexrl.session(key=key) as unnamed:
        assert (named.id, named.key) == (unnamed.id, unnamed.key) == ("own:1", key)
    with pytest.raises(AccessError, match="session 'mine': the key given is that of 'own:1'") as refused:
        nexrl.session("mine", key=key)
    assert key not in str(refused.value)
    with pytest.raises(AccessError, match="session 'mine': the key given is no attempt key"):
        nexrl.session("mine", key="k" * 20)
    monkeypatch.setenv("OPENAI_API_KEY", attempt_key("the-process", "k" * 20))
    with pytest.raises(AccessError, match="session 'the-process': the key given is that of 'own:1'"):
        nexrl.session(key=key)


def test_other_keys_and_addresses_name_nobody():
    assert process_session({"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "http://h/v1"}) == nexrl.Session()
    assert [attempt_named_by(key) for key in ("", "nxr-", "nxr-.x", "nxk-read.s", "nxr-a.b.sig")] == [None] * 4 + [
        "a.b"
    ]


def test_an_address_names_one_session():
    assert with_session("http://h:1/v1", "a") == "http://h:1/s/a/v1"
    assert with_session("http://h:1/s/b/v1", "a@eval") == "http://h:1/s/a%40eval/v1"
    assert with_session("http://h:1", "a") == "http://h:1/s/a"


@pytest.mark.parametrize("name", ["a b", "x" * 201, "a/b", "a\n"])
def test_a_name_that_cannot_be_a_session_is_refused(name):
    with pytest.raises(AccessError, match="use 1 to 200 letters"):
        nexrl.session(name)


@pytest.mark.parametrize("name", ["a\r\nx-evil: 1", "", "x" * 201])
def test_a_group_or_agent_that_cannot_stand_in_a_header_is_refused(name):
    with pytest.raises(ConfigError, match="printable"):
        nexrl.session(group=name)
    with pytest.raises(ConfigError, match="printable"):
        nexrl.agent(name)
