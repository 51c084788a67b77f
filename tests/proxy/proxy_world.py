"""A proxy with everything real but the model: its own engine from a script, its own ingest."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from scripted_engine import Line, ScriptedEngine
from stub_ingest import StubIngest

from nexrl.keys import attempt_key
from nexrl.records import Call
from nexrl_proxy.app import make_app
from nexrl_proxy.conversation import MOST_BYTES, Sessions
from nexrl_proxy.deleted import NAME, Deleted
from nexrl_proxy.engines.kinds import Serving, engines_of
from nexrl_proxy.engines.pool import Pool
from nexrl_proxy.limits import Limits
from nexrl_proxy.listening import listen, runner_of
from nexrl_proxy.models import Model, Models, Other, other_model
from nexrl_proxy.operating import Access
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.planning import Planner
from nexrl_proxy.policy import SamplingPolicy
from nexrl_proxy.prompting import HistoryPolicy
from nexrl_proxy.recorder import Recorder
from nexrl_proxy.render import Renderer
from nexrl_proxy.restoring import Restorer
from nexrl_proxy.sampling import Reading, Sampler
from nexrl_proxy.spool import Spool
from nexrl_proxy.template import template_of

ADMIN = "an-admin-key-for-tests"


@contextlib.asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    """Serve an app on a free port, as `nexrl proxy` does."""
    runner = runner_of(app)
    await runner.setup()
    port = await listen(runner, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


class World:
    """One proxy, its engine, its ingest, and a client."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self.engine = ScriptedEngine()
        self.ingest = StubIngest()
        self.url = ""
        self.http: aiohttp.ClientSession
        self.sampler: Sampler
        self.planner: Planner
        self.app: web.Application
        self.recorder: Recorder

    def says(self, *texts: str, eos: bool = True, **line: Any) -> None:
        """Make the engine answer with these texts, one per request, the last one for ever."""
        replies = [self.ids(text, eos=eos) for text in texts]
        self.engine.script = lambda _: Line(ids=replies.pop(0) if len(replies) > 1 else replies[0], **line)

    def breaks_off(self, text: str, *, before: int) -> list[int]:
        """Make the engine break off before a token of a text, and refuse to go on; returns the text's tokens."""
        ids = self.ids(text)
        lines = iter([Line(ids=ids, break_before=before)])
        self.engine.script = lambda _: next(lines, Line(ids=[], status=400, message="it is gone"))
        return ids

    def ids(self, text: str, *, eos: bool = True) -> list[int]:
        return [*self.renderer.encode(text), *(sorted(self.renderer.eos) if eos else [])]

    async def post(
        self, body: Any, *, path: str = "/v1/chat/completions", attempt: str = "a-1", **headers: str
    ) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("authorization", f"Bearer {attempt_key(attempt, ADMIN)}")
        data = {"data": io.BytesIO(body)} if isinstance(body, bytes) else {"json": body}
        async with self.http.post(self.url + path, headers=named, **data) as reply:
            return reply.status, await reply.json()

    async def chat(self, messages: list[dict[str, Any]], *, attempt: str = "a-1", **options: Any) -> Any:
        """Return the reply to a chat request that must succeed."""
        status, reply = await self.post({"model": "m", "messages": messages, **options}, attempt=attempt)
        assert status == 200, reply
        return reply

    async def flush(self, attempt: str = "a-1") -> int:
        status, reply = await self.post({}, path=f"/api/sessions/{attempt}/flush", authorization=f"Bearer {ADMIN}")
        assert status == 200, reply
        return reply["calls"]

    async def recorded(self, attempt: str = "a-1") -> list[Call]:
        """Return what ingest got of an attempt, after a flush."""
        await self.flush(attempt)
        return [call for call in self.ingest.calls if call.session == attempt]

    async def restart(self) -> None:
        """Forget everything that is in memory, as a new process would, once ingest has what was recorded."""
        async with asyncio.timeout(5):
            while self.recorder.pending():  # noqa: ASYNC110 - what is waited for is not ours to signal
                await asyncio.sleep(0.002)
        for attempt in list(self.sampler.sessions._sessions):
            self.sampler.forget(attempt)

    async def stats(self) -> dict[str, int]:
        async with self.http.get(self.url + "/api/stats", headers={"authorization": f"Bearer {ADMIN}"}) as reply:
            return await reply.json()

    def key(self, attempt: str = "a-1") -> str:
        return attempt_key(attempt, ADMIN)


@contextlib.asynccontextmanager
async def world_of(
    model: Path,
    data: Path,
    *,
    reasoning: str = "none",
    tools: str = "auto",
    require_session: bool = False,
    policy: SamplingPolicy | None = None,
    history: HistoryPolicy = "append",
    limits: Limits | None = None,
    most_bytes: int = MOST_BYTES,
    others: dict[str, Other] | None = None,
) -> AsyncIterator[World]:
    parsers = Parsers(tools=tools, reasoning=reasoning, template=template_of(model))
    world = World(Renderer(model, markers=parsers.markers, endings=parsers.endings))
    sessions = Sessions(most_bytes)
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        engine_url, ingest_url = await enter(served(world.engine.app)), await enter(served(world.ingest.app))
        world.http = await enter(aiohttp.ClientSession())
        http = await enter(aiohttp.ClientSession())
        world.recorder = Recorder(Spool(data), ingest=ingest_url, admin_key=ADMIN, http=http)
        world.sampler = Sampler(
            pool=Pool(engines_of(engine_url, Serving())),
            reading=Reading(world.renderer, parsers),
            recorder=world.recorder,
            sessions=sessions,
        )
        planner = world.planner = Planner(
            renderer=world.renderer,
            parsers=parsers,
            sessions=sessions,
            restorer=Restorer(
                ingest=ingest_url,
                admin_key=ADMIN,
                renderer=world.renderer,
                http=http,
                deleted=Deleted(data / NAME),
                delivered=world.recorder.flush,
            ),
            policy=policy,
            history=history,
        )
        beside = {name: other_model(name, other, world.recorder) for name, other in (others or {}).items()}
        app = world.app = make_app(
            models=Models(Model(planner, world.sampler), beside),
            recorder=world.recorder,
            access=Access(ADMIN, require_session),
            model="tiny",
            limits=limits,
        )
        world.url = await enter(served(app))
        yield world


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must happen soon."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for is not ours to signal
            await asyncio.sleep(0.005)
