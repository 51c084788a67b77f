"""Rewards from inside an agent or from an application; one that cannot be delivered harms nobody."""

import asyncio
import logging
import math
import socket

import pytest
from aiohttp import web

import nexrl
from nexrl import emitting
from nexrl.errors import AccessError, ConfigError, ServiceError
from nexrl.keys import attempt_key, reward_grant

ADMIN = "an-admin-key-for-tests"


class Ingest:
    """Answers with these statuses in turn, the last one for ever."""

    def __init__(self):
        self.statuses = [200]
        self.got = []
        self.url = ""

    async def answer(self, request):
        key = request.headers["authorization"].removeprefix("Bearer ")
        self.got.append((request.path, key, await request.json()))
        return web.json_response({}, status=self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "NEXRL_ADMIN_KEY", "NEXRL_INGEST_URL", "BAGGAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(emitting, "PAUSES_S", (0.0, 0.0))
    emitting._said.clear()


@pytest.fixture
async def ingest(monkeypatch):
    ingest = Ingest()
    app = web.Application()
    app.router.add_post("/{path:.*}", ingest.answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    ingest.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setenv("NEXRL_INGEST_URL", ingest.url)
    yield ingest
    await runner.cleanup()


@pytest.fixture
def nobody():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


async def test_an_agent_rewards_its_own_session_with_its_own_key(ingest, monkeypatch):
    key = attempt_key("run:1-r00", ADMIN)
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    monkeypatch.setenv("NEXRL_ADMIN_KEY", ADMIN)
    assert await nexrl.emit_reward_async("sure", True, call="c-1", explanation="it compiles", required=True)
    [(path, sent, body)] = ingest.got
    assert (path, sent) == ("/api/sessions/run:1-r00/rewards", key)
    assert len(body.pop("id")) == 32
    assert body == {"name": "sure", "value": 1.0, "call": "c-1", "explanation": "it compiles"}


async def test_an_application_sends_a_grant_for_the_one_session_and_never_its_admin_key(ingest, monkeypatch):
    monkeypatch.setenv("NEXRL_ADMIN_KEY", ADMIN)
    with nexrl.session("ticket-1"):
        await nexrl.emit_reward_async("thumb", -1, by="user-7", id="click-1", required=True)
    await nexrl.emit_reward_async("thumb", 1, session="ticket-2", required=True)
    await nexrl.emit_reward_async("thumb", 1, session="ticket-3", key="given", at_ns=7, url=ingest.url + "/")
    assert [key for _, key, _ in ingest.got] == [*(reward_grant(f"ticket-{n}", ADMIN) for n in (1, 2)), "given"]
    assert ingest.got[0][2] == {"name": "thumb", "value": -1.0, "by": "user-7", "id": "click-1"}
    assert ingest.got[2][0] == "/api/sessions/ticket-3/rewards"
    assert ingest.got[2][2]["at_ns"] == 7


async def test_an_outage_that_passes_is_waited_for_and_the_reward_has_one_id(ingest):
    ingest.statuses = [503, 429, 200]
    assert await nexrl.emit_reward_async("thumb", 1, session="s", key="k", required=True)
    assert len(ingest.got) == 3
    assert len({body["id"] for _, _, body in ingest.got}) == 1


@pytest.mark.parametrize(
    ("status", "kind", "tries"),
    [(500, ServiceError, 3), (403, AccessError, 1), (401, AccessError, 1), (404, ConfigError, 1)],
)
async def test_a_refusal_raises_where_the_reward_is_required(ingest, status, kind, tries):
    ingest.statuses = [status]
    with pytest.raises(kind, match=str(status)):
        await nexrl.emit_reward_async("thumb", 1, session="s", key="k", required=True)
    assert len(ingest.got) == tries


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"session": None}, AccessError, "whose reward"),
        ({"key": None}, AccessError, "no key that reaches session 's'"),
        ({"url": "ftp://h"}, ConfigError, "no address of ingest"),
        ({"value": math.nan}, ConfigError, "'thumb' is nan"),
        ({"value": "good"}, ConfigError, "'thumb' is 'good'"),
        ({"explanation": "\ud800"}, ConfigError, "surrogates not allowed"),
        ({"url": "http://h:99999"}, ServiceError, "99999"),
        ({}, ServiceError, "refused"),
    ],
)
def test_what_cannot_be_delivered_raises_where_it_is_required_and_harms_nobody_else(nobody, given, kind, said, caplog):
    options = {"name": "thumb", "value": 1.0, "session": "s", "key": "k", "url": nobody} | given
    with pytest.raises(kind, match=said):
        nexrl.emit_reward(**options, required=True)
    with caplog.at_level(logging.WARNING):
        assert [nexrl.emit_reward(**options) for _ in range(3)] == [False] * 3
    [record] = [record for record in caplog.records if record.name == "nexrl.emitting"]
    assert said in record.getMessage()


async def test_the_event_loop_goes_on_while_a_reward_is_on_its_way(ingest):
    turns = []

    async def others():
        while True:
            turns.append(len(ingest.got))
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    await nexrl.emit_reward_async("thumb", 1, session="s", key="k", required=True)
    beside.cancel()
    assert turns[0] == 0
    assert turns[-1] == 1
