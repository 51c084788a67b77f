"""Requests to the proxy say whose they are, whichever client makes them; all others stay as they were."""

import inspect
import logging

import aiohttp
import anthropic
import httpx
import httpx2
import openai
import pytest
import requests
from opentelemetry.sdk.trace import TracerProvider

import nexrl
from nexrl.errors import ConfigError
from nexrl.instrumenting import origin_of
from nexrl.testing import Endpoint

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
METHODS = [
    (httpx.Client, "send"),
    (httpx.AsyncClient, "send"),
    (httpx2.Client, "send"),
    (httpx2.AsyncClient, "send"),
    (requests.Session, "send"),
    (aiohttp.ClientSession, "__init__"),
]
ADDED = {"x-nexrl-session", "x-nexrl-group", "x-nexrl-agent"}


@pytest.fixture(autouse=True)
def undone():
    yield
    nexrl.uninstrument()


@pytest.fixture
def model():
    with Endpoint(*["four"] * 12) as endpoint:
        yield endpoint


async def by_httpx(url, headers):
    with httpx.Client() as client:
        client.post(url, json=CHAT, headers=headers)  # noqa: ASYNC212 - the endpoint has a thread of its own


async def by_httpx_async(url, headers):
    async with httpx.AsyncClient() as client:
        await client.post(url, json=CHAT, headers=headers)


async def by_httpx2(url, headers):
    async with httpx2.AsyncClient() as client:
        await client.post(url, json=CHAT, headers=headers)


async def by_requests(url, headers):
    requests.post(url, json=CHAT, headers=headers, timeout=5).close()  # noqa: ASYNC210 - the endpoint has a thread of its own


async def by_aiohttp(url, headers):
    async with aiohttp.ClientSession() as client, client.post(url, json=CHAT, headers=headers) as reply:
        await reply.read()


async def by_openai(url, headers):
    with openai.OpenAI(base_url=url.removesuffix("/chat/completions"), api_key="k") as client:
        reply = client.chat.completions.create(**CHAT, extra_headers=headers)
    assert reply.choices[0].message.content == "four"


async def by_openai_async(url, headers):
    async with openai.AsyncOpenAI(base_url=url.removesuffix("/chat/completions"), api_key="k") as client:
        stream = await client.chat.completions.create(**CHAT, stream=True, extra_headers=headers)
        assert [chunk.choices[0].delta.content async for chunk in stream] == ["four"]


@pytest.mark.parametrize(
    "post", [by_httpx, by_httpx_async, by_httpx2, by_requests, by_aiohttp, by_openai, by_openai_async]
)
async def test_a_client_says_whose_calls_it_makes_and_nothing_else_changes(model, post):
    url = f"{model.url}/v1/chat/completions"
    await post(url, {})
    nexrl.instrument(model.url)
    await post(url, {})
    with nexrl.session("s-1", group="größe"), nexrl.agent("critic"):
        await post(url, {})
        await post(url, {"X-Nexrl-Agent": "own"})
    plain, outside, inside, own = model.requests
    assert plain.headers == outside.headers
    # http.server reads headers as Latin-1.
    said = {"x-nexrl-session": "s-1", "x-nexrl-group": "größe".encode().decode("latin-1"), "x-nexrl-agent": "critic"}
    assert inside.headers == plain.headers | said
    assert own.headers == plain.headers | said | {"x-nexrl-agent": "own"}
    assert inside.body == plain.body


@pytest.mark.parametrize("post", [by_httpx, by_requests, by_aiohttp])
async def test_calls_are_in_the_trace_of_the_span_that_made_them(model, post):
    nexrl.instrument(model.url)
    url = f"{model.url}/v1/chat/completions"
    with TracerProvider().get_tracer("agent").start_as_current_span("plan") as span:
        await post(url, {})
        await post(url, {"traceparent": "own"})
    await post(url, {})
    context = span.get_span_context()
    sent = [asked.headers.get("traceparent") for asked in model.requests]
    assert sent == [f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}", "own", None]


async def test_the_anthropic_client_says_whose_calls_it_makes(model):
    nexrl.instrument(model.url)
    seen = []

    def answer(request):
        seen.append(dict(request.headers))
        return httpx2.Response(400, json={"type": "error", "error": {"type": "invalid", "message": "no"}})

    with (
        anthropic.Anthropic(
            base_url=model.url, api_key="k", http_client=httpx2.Client(transport=httpx2.MockTransport(answer))
        ) as client,
        nexrl.session("s-1"),
        pytest.raises(anthropic.BadRequestError),
    ):
        client.messages.create(model="m", max_tokens=1, messages=CHAT["messages"])
    assert seen[0]["x-nexrl-session"] == "s-1"


async def test_requests_to_anywhere_else_stay_as_they_are(model):
    nexrl.instrument("http://127.0.0.1:1/v1")
    with nexrl.session("s-1"):
        for post in (by_httpx, by_httpx_async, by_requests, by_aiohttp, by_openai):
            await post(f"{model.url}/v1/chat/completions", {})
    assert len(model.requests) == 5
    assert all(not ADDED & asked.headers.keys() for asked in model.requests)


async def test_what_was_instrumented_is_said_and_can_be_undone(model, monkeypatch):
    before = [getattr(owner, name) for owner, name in METHODS]
    monkeypatch.setenv("OPENAI_BASE_URL", f"{model.url}/v1")
    monkeypatch.setenv("OPENAI_API_BASE", f"{model.url}/v1")
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    for _ in range(2):
        assert nexrl.instrument() == nexrl.Instrumented(
            libraries=("httpx", "httpx2", "requests", "aiohttp"), addresses=(f"{model.url}/v1",)
        )
    patched = [getattr(owner, name) for owner, name in METHODS]
    assert all(one is not other for one, other in zip(before, patched, strict=True))
    assert [inspect.iscoroutinefunction(one) for one in patched] == [inspect.iscoroutinefunction(one) for one in before]
    nexrl.uninstrument()
    nexrl.uninstrument()
    assert [getattr(owner, name) for owner, name in METHODS] == before


async def test_a_patch_that_somebody_laid_over_ours_survives_and_ours_does_nothing(model, monkeypatch):
    nexrl.instrument(model.url)
    ours = httpx.Client.send

    def theirs(self, request, **options):
        return ours(self, request, **options)

    monkeypatch.setattr(httpx.Client, "send", theirs)
    nexrl.uninstrument()
    assert httpx.Client.send is theirs
    with nexrl.session("s-1"):
        await by_httpx(f"{model.url}/v1/chat/completions", {})
    assert not ADDED & model.requests[0].headers.keys()
    monkeypatch.undo()
    httpx.Client.send = inspect.unwrap(ours)


def test_a_library_that_is_not_installed_is_left_alone(monkeypatch):
    monkeypatch.setattr("nexrl.instrumenting.find_spec", lambda name: None if name == "httpx2" else True)
    assert nexrl.instrument("http://h").libraries == ("httpx", "requests", "aiohttp")


def test_without_an_address_nothing_is_patched_and_the_log_says_so(monkeypatch, caplog):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    before = [getattr(owner, name) for owner, name in METHODS]
    with caplog.at_level(logging.WARNING):
        assert nexrl.instrument() == nexrl.Instrumented()
    assert "set OPENAI_BASE_URL" in caplog.text
    assert [getattr(owner, name) for owner, name in METHODS] == before


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://h", "http://h:99999", ""])
def test_an_address_that_is_none_is_refused_and_what_was_instrumented_stays(address):
    nexrl.instrument("http://h")
    before = httpx.Client.send
    with pytest.raises(ConfigError, match="address"):
        nexrl.instrument(address)
    assert httpx.Client.send is before


def test_an_origin_is_scheme_host_and_port():
    assert origin_of("http://H/v1") == origin_of("http://h:80") == ("http", "h", 80)
    assert len({origin_of(url) for url in ("https://h", "http://h", "http://h:81", "http://i")}) == 4
