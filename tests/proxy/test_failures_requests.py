"""Requests that are wrong: refused in their dialect's shape, never sampled for, never a burden to others."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
import zstandard
from aiohttp import web
from failure_clients import DIALECTS, Dialect
from failure_posts import body_of, keyed, post
from failure_world import key_of, new_attempt
from proxy_world import served

from nexrl_proxy.app import errors_as_answers

pytestmark = pytest.mark.slow

pytest_plugins = ["failure_fixtures"]
DEEP = "[" * 100_000 + "]" * 100_000
MEGABYTE = 2**20


def with_raw(dialect: Dialect, name: str, raw: str) -> bytes:
    """Return a request with a field as it could not be encoded."""
    return (body_of(dialect)[:-1] + f', "{name}": {raw}}}').encode()


def said(dialect: Dialect, raw: bytes) -> bytes:
    """Return a request in which the user says these very bytes."""
    return body_of(dialect).encode().replace(b"hello", raw)


MALFORMED = {
    "nothing": lambda _: b"",
    "cut off": lambda dialect: body_of(dialect)[:-5].encode(),
    "not an object": lambda _: b"[]",
    "bytes that are not UTF-8": lambda dialect: said(dialect, b"h\xff\xfe"),
    "UTF-16": lambda dialect: body_of(dialect).encode("utf-16"),
    "a lone surrogate": lambda dialect: said(dialect, b"\\ud800 x"),
    "swapped surrogates": lambda dialect: said(dialect, b"\\udc00\\ud800"),
    "an encoded surrogate": lambda dialect: said(dialect, b"\xed\xa0\x80"),
    "NaN": lambda dialect: with_raw(dialect, "temperature", "NaN"),
    "Infinity": lambda dialect: with_raw(dialect, "temperature", "Infinity"),
    "more than a float holds": lambda dialect: with_raw(dialect, "top_p", "1e999"),
    "100,000 brackets": lambda _: DEEP.encode(),
    "100,000 brackets in the text": lambda dialect: said(dialect, b"x").replace(b'"x"', DEEP.encode()),
    "100,000 brackets in what is ignored": lambda dialect: with_raw(dialect, "metadata", '{"a": ' + DEEP + "}"),
    "a tool of bytes that are not UTF-8": lambda dialect: with_raw(dialect, "tools", '[{"name": "@"}]').replace(
        b"@", b"\xff"
    ),
}  # fmt: skip


@pytest.mark.parametrize("malformed", MALFORMED)
@pytest.mark.parametrize("name", DIALECTS)
async def test_a_malformed_request_is_a_400_in_its_dialects_shape(deployment, name, malformed):
    dialect, mark, attempt = DIALECTS[name], deployment.mark(), new_attempt()
    status, body = await post(deployment.proxy, dialect.path, MALFORMED[malformed](dialect), keyed(attempt))
    assert status == 400, body
    assert dialect.described(body)["message"]
    assert deployment.mark() == mark


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_body_of_50_mb_is_a_413_that_takes_no_memory(deployment, name):
    dialect, attempt = DIALECTS[name], new_attempt()
    huge = body_of(dialect).encode() + b" " * (50 * MEGABYTE)
    before = deployment.proxy.resident()
    answers = await asyncio.gather(*(post(deployment.proxy, dialect.path, huge, keyed(attempt)) for _ in range(3)))
    for status, body in answers:
        assert status == 413
        assert "--max-body-mb" in dialect.described(body)["message"]
    assert deployment.proxy.peak() - before < 20 * MEGABYTE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chat", "messages"])
async def test_the_official_clients_raise_the_413(deployment, name):
    dialect = DIALECTS[name]
    async with dialect.client(deployment.proxy.url, key_of(new_attempt())) as client:
        huge = [{"role": "user", "content": "a" * (50 * MEGABYTE)}]
        with pytest.raises(dialect.sdk.APIStatusError, match="larger than 32 MiB") as raised:
            await dialect.create(client)(**{**dialect.request, "messages": huge})
    assert raised.value.status_code == 413


async def test_a_body_sent_in_chunks_is_read_and_a_huge_one_refused(deployment):
    async def chunks(size: int) -> AsyncIterator[bytes]:
        yield body_of(chat).encode()
        for _ in range(size // MEGABYTE):
            yield b" " * MEGABYTE

    chat, attempt = DIALECTS["chat"], new_attempt()
    status, _ = await post(deployment.proxy, chat.path, chunks(0), keyed(attempt))
    assert status == 200
    assert len(await deployment.kept(attempt)) == 1
    status, body = await post(deployment.proxy, chat.path, chunks(40 * MEGABYTE), keyed(attempt))
    assert status == 413, chat.described(body)


async def test_a_packed_body_is_unpacked_only_as_far_as_the_limit_allows(deployment):
    chat, attempt = DIALECTS["chat"], new_attempt()
    headers = keyed(attempt, **{"content-encoding": "gzip"})
    status, _ = await post(deployment.proxy, chat.path, gzip.compress(body_of(chat).encode()), headers)
    assert status == 200
    bomb = gzip.compress(b" " * (150 * MEGABYTE), 1)
    before = deployment.proxy.resident()
    status, body = await post(deployment.proxy, chat.path, bomb, headers)
    assert status == 413, chat.described(body)
    assert deployment.proxy.peak() - before < 100 * MEGABYTE


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [("gzip", b"not packed", 400), ("gzip", gzip.compress(b"{}" * 50)[:-9], 400), ("deflate", b"{}", 400),
     ("zstd", b"not packed", 400), ("br", b"{}", 415)],
)  # fmt: skip
async def test_a_body_that_cannot_be_unpacked_is_refused(deployment, encoding, body, status):
    chat = DIALECTS["chat"]
    got, told = await post(deployment.proxy, chat.path, body, keyed(new_attempt(), **{"content-encoding": encoding}))
    assert got == status
    assert f"content-encoding '{encoding}'" in chat.described(told)["message"]


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstandard.compress)]
)
async def test_bodies_are_unpacked(deployment, encoding, pack):
    headers = keyed(new_attempt(), **{"content-encoding": encoding})
    chat = DIALECTS["chat"]
    status, _ = await post(deployment.proxy, chat.path, pack(body_of(chat).encode()), headers)
    assert status == 200


@pytest.mark.parametrize("name", DIALECTS)
async def test_the_content_type_does_not_matter(deployment, name):
    dialect, attempt = DIALECTS[name], new_attempt()
    headers = keyed(attempt, **{"content-type": "application/x-www-form-urlencoded"})
    status, _ = await post(deployment.proxy, dialect.path, body_of(dialect), headers)
    assert status == 200


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_wrong_method_is_a_405_in_the_dialects_shape(deployment, name, method):
    dialect = DIALECTS[name]
    status, body = await post(deployment.proxy, dialect.path, None, keyed(new_attempt()), method)
    assert status == 405
    assert f"{method} {dialect.path}" in dialect.described(body)["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/", "/s/a-1/v1/files", "/v1/%FF", "/v2/chat/completions"])
async def test_an_unknown_path_is_a_404_that_names_it(deployment, path):
    status, body = await post(deployment.proxy, path, b"{}", keyed(new_attempt()))
    assert status == 404
    assert DIALECTS["chat"].described(body)["message"].startswith("POST /")


async def test_a_bug_is_a_500_in_the_dialects_shape_and_shows_nothing_of_itself(caplog):
    async def fails(_: web.Request) -> web.StreamResponse:
        raise ZeroDivisionError("a secret")

    app = web.Application(middlewares=[errors_as_answers])
    for dialect in DIALECTS.values():
        app.router.add_post(dialect.path, fails)
    async with served(app) as url, aiohttp.ClientSession() as http:
        for dialect in DIALECTS.values():
            async with http.post(url + dialect.path, data=b"{}") as reply:
                assert reply.status == 500
                assert "secret" not in dialect.described(await reply.json())["message"]
    assert caplog.text.count("ZeroDivisionError: a secret") == len(DIALECTS)


async def test_what_is_sent_half_and_then_dropped_leaves_nothing_behind(deployment):
    attempt, mark = new_attempt(), deployment.mark()
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key_of(attempt)}\r\n"
        "content-length: 1000\r\n\r\n{"
    ).encode()
    for cut in (1, 20, request.index(b"\r\n\r\n"), len(request) - 1, len(request)):
        _, writer = await asyncio.open_connection("127.0.0.1", deployment.proxy.port)
        writer.write(request[:cut])
        await writer.drain()
        writer.close()
    await deployment.quiet()
    assert deployment.mark() == mark
    assert await deployment.flush(attempt) == 0
