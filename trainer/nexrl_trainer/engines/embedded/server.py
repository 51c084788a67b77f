"""The routes: decode, act, reply. The subset of SGLang's native API that ARCHITECTURE.md lists under "Engine".

`scheduler.py` does the work in its own thread; here are HTTP, request ids, and clients that leave.
"""

import asyncio
import contextlib
import sys
import traceback
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web
from torch import Tensor

from nexrl.errors import ConfigError
from nexrl_trainer.engines.embedded import wire
from nexrl_trainer.engines.embedded.generation import Generation
from nexrl_trainer.engines.embedded.model import SlotModel
from nexrl_trainer.engines.embedded.scheduler import Scheduler
from nexrl_trainer.engines.embedded.stopping import stop_rule
from nexrl_trainer.engines.embedded.weights import CheckpointError, read_checkpoint

_LARGEST_BODY = 64 * 2**20


class Engine:
    """What the handlers share: the model, its scheduler, and the requests that are under way."""

    def __init__(self, model: SlotModel, scheduler: Scheduler, model_path: Path) -> None:
        self.model = model
        self.scheduler = scheduler
        self.model_path = model_path
        self.live: dict[str, Generation] = {}
        self._updates: set[asyncio.Task[None]] = set()
        self._updating = asyncio.Lock()

    def update_weights(self, directory: Path, version: int) -> asyncio.Task[None]:
        """Start an update; updates apply in the order in which they came."""
        task = asyncio.create_task(self._update_weights(directory, version))
        self._updates.add(task)
        task.add_done_callback(self._updates.discard)
        return task

    async def _update_weights(self, directory: Path, version: int) -> None:
        async with self._updating:
            # Read beside the running steps: only the copy needs the scheduler's thread.
            tensors = await asyncio.to_thread(self._read_and_check, directory)
            await asyncio.wrap_future(self.scheduler.adopt(tensors, version))
            self.model_path = directory

    async def checksums(self) -> dict[str, str]:
        """Return the checksum of each tensor, under all its names; no update comes in between."""
        async with self._updating:
            return await asyncio.to_thread(self.model.checksums)

    def _read_and_check(self, directory: Path) -> list[Tensor]:
        return self.model.check(read_checkpoint(directory))


ENGINE = web.AppKey("engine", Engine)


def make_app(engine: Engine) -> web.Application:
    """Return the application; run it with `handler_cancellation`, or clients that leave go unnoticed."""
    app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[_errors])
    app[ENGINE] = engine
    app.add_routes(
        [
            web.post("/generate", generate),
            web.post("/abort_request", abort_request),
            web.post("/update_weights_from_disk", update_weights_from_disk),
            web.post("/weights_checker", weights_checker),
            web.get("/health", health),
            web.get("/model_info", model_info),
        ]
    )
    return app


@contextlib.asynccontextmanager
async def serving(engine: Engine, host: str, port: int) -> AsyncGenerator[int, None]:
    """Serve while the block runs; yields the port. Requests that are under way at its end are answered as aborted.

    Raises ConfigError where it cannot listen there.
    """
    engine.scheduler.start()
    runner = web.AppRunner(make_app(engine), handler_cancellation=True, access_log=None, shutdown_timeout=2.0)
    try:
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error}; use another --port, or 0 for a free one"
            ) from error
        yield runner.addresses[0][1]
        await site.stop()
    finally:
        await asyncio.to_thread(engine.scheduler.stop)
        await runner.cleanup()


async def generate(request: web.Request) -> web.StreamResponse:
    engine = request.app[ENGINE]
    body: wire.GenerateRequest = wire.decode(await request.read(), wire.GenerateRequest)
    wire.check(body, engine.model.limits)
    rid = body.rid or uuid.uuid4().hex
    if rid in engine.live:
        raise wire.RequestError(f"rid {rid!r} is under way: give each request an id of its own, or none")
    news = asyncio.Event()
    loop = asyncio.get_running_loop()
    room = engine.model.limits.max_length - len(body.input_ids)
    rule = stop_rule(body.sampling_params, eos=engine.model.eos, room=room)
    generation = Generation(rid, body, rule, notify=lambda: loop.call_soon_threadsafe(news.set))
    engine.live[rid] = generation
    engine.scheduler.submit(generation)
    try:
        if body.stream:
            return await _stream(request, engine, generation, news)
        await news.wait()
        if generation.error:
            return _failure(500, generation.error, "engine_error")
        return _json(generation.reply(engine.scheduler.weight_version))
    finally:
        del engine.live[rid]
        if not generation.done:
            engine.scheduler.abort(generation, "the client left")


async def _stream(
    request: web.Request, engine: Engine, generation: Generation, news: asyncio.Event
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    async for event in _events(engine, generation, news):
        await response.write(b"data: " + event + b"\n\n")
    await response.write_eof()
    return response


async def _events(engine: Engine, generation: Generation, news: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield everything so far whenever there is news; a slow client gets fewer, longer events."""
    done = False
    while not done:
        await news.wait()
        news.clear()
        done = generation.done
        if generation.error:
            yield msgspec.json.encode({"error": {"message": generation.error, "type": "engine_error"}})
        else:
            yield msgspec.json.encode(generation.reply(engine.scheduler.weight_version))
    yield b"[DONE]"


async def abort_request(request: web.Request) -> web.Response:
    """End a request with what it has; one that is unknown has ended already."""
    engine = request.app[ENGINE]
    body: wire.AbortRequest = wire.decode(await request.read(), wire.AbortRequest)
    generation = engine.live.get(body.rid)
    if generation:
        engine.scheduler.abort(generation, "aborted by request")
    return web.Response()


async def update_weights_from_disk(request: web.Request) -> web.Response:
    try:
        body: wire.UpdateWeightsRequest = wire.decode(await request.read(), wire.UpdateWeightsRequest)
        # An update that has begun is carried through, whether or not its client stays.
        await asyncio.shield(request.app[ENGINE].update_weights(Path(body.model_path), int(body.weight_version)))
    except (CheckpointError, wire.RequestError) as error:
        return _json({"success": False, "message": str(error)}, status=400)
    return _json({"success": True, "message": f"weight version {body.weight_version} is live"})


async def weights_checker(request: web.Request) -> web.Response:
    """Say what the engine holds: a checksum for each tensor."""
    wire.decode(await request.read(), wire.CheckWeightsRequest)
    checksums = await request.app[ENGINE].checksums()
    return _json({"success": True, "message": "", "ranks": [{"checksums": checksums}]})


async def health(request: web.Request) -> web.Response:
    if not request.app[ENGINE].scheduler.alive:
        return _failure(503, "the scheduler's thread has ended: restart the engine", "engine_error")
    return web.Response()


async def model_info(request: web.Request) -> web.Response:
    engine = request.app[ENGINE]
    return _json({"model_path": str(engine.model_path), "weight_version": str(engine.scheduler.weight_version)})


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except wire.RequestError as error:
        return _failure(400, str(error), "invalid_request_error")
    except web.HTTPException as error:
        return _failure(error.status, f"{request.method} {request.path}: {error.reason}", "invalid_request_error")
    except ConnectionResetError:
        raise  # the client left in the middle of a stream
    except Exception as error:  # noqa: BLE001 - answered, logged, and the next request is served
        traceback.print_exc(file=sys.stderr)
        return _failure(500, f"{type(error).__name__}: {error}", "engine_error")


def _failure(status: int, message: str, kind: str) -> web.Response:
    return _json({"error": {"message": message, "type": kind}}, status=status)


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
