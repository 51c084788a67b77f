"""Keys and names: who is let in, as whom, and what anybody else is told."""

import asyncio
import json

import pytest
from failure_clients import DIALECTS
from failure_posts import body_of, keyed, post
from failure_world import Deployment, key_of, new_attempt
from proxy_world import ADMIN

from nexrl_proxy.attribution import UNATTRIBUTED

pytestmark = pytest.mark.slow

pytest_plugins = ["failure_fixtures"]


def forged(attempt: str) -> str:
    return key_of(attempt)[:-1] + ("a" if key_of(attempt)[-1] != "a" else "b")


@pytest.mark.parametrize("name", DIALECTS)
async def test_keys_open_what_they_are_for_and_nothing_else(deployment, name):
    dialect, mine, other = DIALECTS[name], new_attempt(), new_attempt()

    async def refused(key: str, path: str = dialect.path, **headers: str) -> int:
        status, body = await post(
            deployment.proxy, path, body_of(dialect), {"authorization": f"Bearer {key}", **headers}
        )
        assert dialect.described(body)["message"]
        return status

    mark = deployment.mark()
    assert await refused(forged(mine)) == 401
    assert await refused("nxr-") == 401
    assert await refused(key_of(mine), f"/s/{other}{dialect.path}") == 403
    assert await refused(key_of(mine), **{"x-nexrl-session": other}) == 403
    assert await refused(key_of(mine), **{"x-api-key": key_of(other)}) == 403
    assert await refused(ADMIN) == 403  # an agent that holds it shall not find that it works
    assert deployment.mark() == mark
    async with dialect.client(deployment.proxy.url, forged(mine)) as client:
        with pytest.raises(dialect.sdk.AuthenticationError):
            await dialect.create(client)(**dialect.request)


async def test_the_admin_key_speaks_for_an_attempt_only_where_it_names_one(deployment):
    chat, attempt = DIALECTS["chat"], new_attempt()
    headers = {"authorization": f"Bearer {ADMIN}"}
    status, body = await post(deployment.proxy, chat.path, body_of(chat), headers)
    assert status == 403
    assert "nexrl key ATTEMPT" in chat.described(body)["message"]
    assert ADMIN not in json.dumps(body)
    status, _ = await post(deployment.proxy, f"/s/{attempt}{chat.path}", body_of(chat), headers)
    assert status == 200
    assert len(await deployment.kept(attempt)) == 1


async def raw(deployment: Deployment, path: bytes, *headers: bytes) -> bytes:
    """Send bytes that no client library would; returns the status line."""
    body = body_of(DIALECTS["chat"]).encode()
    head = [b"POST " + path + b" HTTP/1.1", b"host: x", b"connection: close", b"content-length: %d" % len(body)]
    reader, writer = await asyncio.open_connection("127.0.0.1", deployment.proxy.port)
    writer.write(b"\r\n".join([*head, *headers, b"", body]))
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer.partition(b"\r\n")[0]


async def test_headers_and_paths_of_any_bytes_are_answered(deployment):
    chat, key = b"/v1/chat/completions", f"authorization: Bearer {key_of(new_attempt())}".encode()
    assert b" 401 " in await raw(deployment, chat, b"authorization: Bearer nxr-\xff.\xfe")
    assert b" 401 " in await raw(deployment, chat, b"x-api-key: \xff")
    assert b" 400 " in await raw(deployment, chat, b"x-nexrl-session: \xff\xfe")
    assert b" 200 " in await raw(deployment, chat, key, b"x-stainless-retry-count: \xff")
    assert b" 200 " in await raw(deployment, chat, key, b"baggage: nexrl.session\xff=%FF", b"traceparent: \xff")
    assert b" 400 " in await raw(deployment, b"/v1/\xff\xfe", key)
    assert b" 404 " in await raw(deployment, b"/v1/%ff%fe", key)
    assert b" 400 " in await raw(deployment, b"/s/%ff%fe/v1/chat/completions")


async def test_a_name_that_is_not_text_loses_no_call(deployment):
    attempt = new_attempt()
    key = f"authorization: Bearer {key_of(attempt)}".encode()
    assert b" 200 " in await raw(deployment, b"/v1/chat/completions", key, b"x-nexrl-agent: search\xff")
    [call] = await deployment.kept(attempt)
    assert call.agent == "search\ufffd"


@pytest.mark.slow
async def test_where_a_session_or_a_key_is_required_a_request_without_a_key_is_a_401(deployment):
    unnamed = await post(deployment.proxy, "/v1/chat/completions", body_of(DIALECTS["chat"]), {})
    assert unnamed[0] == 200
    assert [call.session for call in await deployment.kept(UNATTRIBUTED)] == [UNATTRIBUTED]
    deployment.proxy.end()
    await asyncio.to_thread(deployment.proxy.start, "--require-session")
    for dialect in DIALECTS.values():
        status, body = await post(deployment.proxy, dialect.path, body_of(dialect), {"authorization": "Bearer sk-1"})
        assert status == 401
        assert "nexrl key ATTEMPT" in dialect.described(body)["message"]
        status, _ = await post(deployment.proxy, dialect.path, body_of(dialect), keyed(new_attempt()))
        assert status == 200
    deployment.proxy.end()
    await asyncio.to_thread(deployment.proxy.start, "--require-key")
    for headers, expected in (({"x-nexrl-session": "a-1"}, 401), (keyed(new_attempt()), 200)):
        assert (await post(deployment.proxy, "/v1/chat/completions", body_of(DIALECTS["chat"]), headers))[0] == expected
    deployment.proxy.end()


def test_logs_hold_no_key(deployment: Deployment):
    assert "nxr-" not in deployment.proxy.log()
    assert ADMIN not in deployment.proxy.log()
