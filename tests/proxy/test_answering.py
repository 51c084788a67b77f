"""A streamed reply while it is made: what is sent when, an error in the middle, a client that reads slowly."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from proxy_world import served, until

from nexrl_proxy import answering
from nexrl_proxy.answering import Reply
from nexrl_proxy.dialects import Opening
from nexrl_proxy.dialects.chat import ChatDialect
from nexrl_proxy.dialects.chat import decode as decoded
from nexrl_proxy.errors import unavailable
from nexrl_proxy.parsers import Content

ASK = decoded(b'{"messages": [{"role": "user", "content": "hello"}], "stream": true}')
OPENING = Opening(response="chatcmpl-1", model="m", created=5, prompt_tokens=3)


def app_of(answer: Callable[[Reply], Awaitable[web.StreamResponse]]) -> web.Application:
    async def handle(request: web.Request) -> web.StreamResponse:
        reply = Reply(ChatDialect().answer(ASK, OPENING), stream=True)
        reply.attach(request)
        return await answer(reply)

    app = web.Application()
    app.router.add_get("/", handle)
    return app


async def test_an_error_behind_something_that_was_told_ends_the_stream_although_nothing_was_sent_yet():
    async def breaks_off(reply: Reply) -> web.StreamResponse:
        reply.emit(0, [Content("hel")], None)
        return await reply.fail(unavailable("the engine went away"))

    async with served(app_of(breaks_off)) as url, aiohttp.ClientSession() as http, http.get(url) as got:
        opened, told, failed, _ = (await got.text()).split("\n\n")
    assert got.status == 200
    assert '"role":"assistant"' in opened
    assert '"content":"hel"' in told
    assert "the engine went away" in failed


async def test_a_client_that_reads_slowly_is_waited_for_and_gets_everything(monkeypatch):
    monkeypatch.setattr(answering, "MOST_UNREAD", 2**16)
    monkeypatch.setattr(answering, "READ_AGAIN_S", 0.001)
    behind, piece = asyncio.Event(), Content("x" * 2**20)

    async def says_much(reply: Reply) -> web.StreamResponse:
        while not reply.behind:
            reply.emit(0, [piece], None)
            reply.flush()
            await asyncio.sleep(0)
        behind.set()
        await reply.caught_up()
        return await reply.fail(unavailable("that was all"))

    async with (
        served(app_of(says_much)) as url,
        aiohttp.ClientSession(read_bufsize=2**12) as http,
        http.get(url) as got,
    ):
        await asyncio.wait_for(behind.wait(), 5)
        text = await got.text()
    assert "that was all" in text
    assert text.count("x" * 2**20) == text.count('"content":"x')


@pytest.mark.parametrize("gone", [False, True])
async def test_what_nobody_reads_is_kept_for_the_next_try_unless_delivery_has_begun(gone):
    seen: list[bytes] = []

    async def leaves(reply: Reply) -> web.StreamResponse:
        if gone:
            reply.emit(0, [Content("a")], None)
            reply.flush()
            await until(lambda: reply.delivered)
        reply.detach()
        reply.emit(0, [Content("b")], None)
        reply.flush()
        seen.extend(reply._pieces)
        return web.Response()

    async with served(app_of(leaves)) as url, aiohttp.ClientSession() as http:
        request = asyncio.create_task(http.get(url))
        await until(lambda: bool(seen) or gone)
        if gone:
            await asyncio.wait([request])
        (await request).close()
    assert bool(seen) is not gone
