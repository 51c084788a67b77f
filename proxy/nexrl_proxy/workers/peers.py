"""What concerns all workers: hold and release, counters; and how a worker that starts learns what the others were told.

A worker that is asked on the public port asks every worker, itself too, on their private sockets, and adds up.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from msgspec import Struct

from nexrl_proxy import operating
from nexrl_proxy.answering import json_response
from nexrl_proxy.app import errors_as_answers
from nexrl_proxy.attribution import require_admin
from nexrl_proxy.errors import ApiError, unavailable
from nexrl_proxy.operating import ACCESS, LONGEST_TIMEOUT_S, MODELS, RECORDER, RETRIES

OK = 200
PATIENCE_S = 30.0
"""How long a worker that does not answer is awaited: it may just be starting again."""
PAUSE_S = 0.05
STANDING_TIMEOUT_S = 2.0
OF_ONE = dict.fromkeys(("pid", "engines"))
OF_EACH = dict.fromkeys(("calls", "sessions", "running", "pending", "held", "waiting"))


class Standing(Struct):
    """What operators told a worker, and those who start later must know."""

    weight_version: int | None = None
    changes: int = 0


STANDING: web.AppKey[Standing] = web.AppKey("standing", Standing)


class Answer(Struct, frozen=True):
    """What a worker said."""

    status: int
    body: bytes


class Peers:
    """The private sockets of all workers. Close it."""

    def __init__(self, directory: Path, workers: int, admin_key: str) -> None:
        self._headers = {"authorization": f"Bearer {admin_key}"}
        timeout = aiohttp.ClientTimeout(total=LONGEST_TIMEOUT_S + PATIENCE_S)
        self._clients = [
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(private_path(directory, index))), timeout=timeout)
            for index in range(workers)
        ]

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def all(self, method: str, path: str, *, patience_s: float = PATIENCE_S) -> list[Answer]:
        """Ask every worker, those that are starting as soon as they answer; raises ApiError where one does not."""
        return await asyncio.gather(
            *(self._patiently(index, method, path, patience_s) for index in range(len(self._clients)))
        )

    async def standing(self, index: int) -> dict[str, Any] | None:
        """Return what a worker was told, None where it does not answer now."""
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError):
            async with asyncio.timeout(STANDING_TIMEOUT_S):
                return msgspec.json.decode((await self._ask(index, "GET", "/standing")).body)
        return None

    async def _patiently(self, index: int, method: str, path: str, patience_s: float) -> Answer:
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        while True:
            try:
                return await self._ask(index, method, path)
            except (aiohttp.ClientError, OSError) as error:
                if loop.time() > until:
                    raise unavailable(f"worker {index} does not answer: {error}; ask again") from error
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, index: int, method: str, path: str) -> Answer:
        async with self._clients[index].request(method, f"http://worker{path}", headers=self._headers) as reply:
            return Answer(reply.status, await reply.read())


def private_path(directory: Path, index: int) -> Path:
    """Return the path of a worker's private socket."""
    return directory / f"{index}.http"


def private_app(app: web.Application) -> web.Application:
    """Return what a worker answers to the others: what it would answer if it were the only one."""
    private = web.Application(middlewares=[errors_as_answers])
    private[MODELS], private[RECORDER], private[RETRIES] = app[MODELS], app[RECORDER], app[RETRIES]
    private[ACCESS], private[STANDING] = app[ACCESS], Standing()
    private.router.add_post("/api/hold", _hold)
    private.router.add_post("/api/release", _release)
    private.router.add_get("/api/stats", _stats)
    private.router.add_get("/standing", _standing)
    return private


async def learn(private: web.Application, peers: Peers, others: Sequence[int]) -> None:
    """Let a worker that starts stand where the others do, unless it is told something newer meanwhile."""
    told, pools = private[STANDING], private[MODELS].pools
    before = told.changes
    found = [standing for standing in await asyncio.gather(*map(peers.standing, others)) if standing]
    if told.changes != before:
        return
    versions = [standing["weight_version"] for standing in found if standing["weight_version"] is not None]
    if versions:
        told.weight_version = max(versions)
        pools.release(weight_version=told.weight_version)
    if any(standing["held"] for standing in found):
        pools.hold()


def for_all(peers: Peers) -> Middleware:
    """Return the middleware that answers for all workers what concerns them all."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = _ROUTES.get((request.method, request.path))
        return await (answer(request, peers) if answer else handler(request))

    return middleware


async def _hold(request: web.Request) -> web.StreamResponse:
    request.app[STANDING].changes += 1
    return await operating.hold(request)


async def _release(request: web.Request) -> web.StreamResponse:
    standing = request.app[STANDING]
    response = await operating.release(request)
    standing.changes += 1
    if given := request.query.get("weight_version"):
        standing.weight_version = int(given)
    return response


async def _stats(request: web.Request) -> web.StreamResponse:
    require_admin(request.headers, request.app[ACCESS].admin_key)
    pools = request.app[MODELS].pools.describe()
    return json_response({**operating.figures(request.app), **pools, "pid": os.getpid()})


async def _standing(request: web.Request) -> web.StreamResponse:
    require_admin(request.headers, request.app[ACCESS].admin_key)
    held = request.app[MODELS].pools.describe()["held"]
    return json_response({"held": held, "weight_version": request.app[STANDING].weight_version})


async def _all_hold(request: web.Request, peers: Peers) -> web.StreamResponse:
    said = await _said(request, peers)
    drained, running = all(one["drained"] for one in said), sum(one["running"] for one in said)
    return json_response({"held": True, "drained": drained, "running": running})


async def _all_release(request: web.Request, peers: Peers) -> web.StreamResponse:
    await _said(request, peers)
    return json_response({"held": False})


async def _all_stats(request: web.Request, peers: Peers) -> web.StreamResponse:
    return json_response(added(await _said(request, peers)))


async def _all_metrics(_: web.Request, peers: Peers) -> web.StreamResponse:
    said = [msgspec.json.decode(answer.body) for answer in await peers.all("GET", "/api/stats", patience_s=1.0)]
    figures = {name: int(value) for name, value in added(said).items() if isinstance(value, int)}
    return operating.as_metrics(figures)


_ROUTES = {
    ("POST", "/api/hold"): _all_hold,
    ("POST", "/api/release"): _all_release,
    ("GET", "/api/stats"): _all_stats,
    ("GET", "/metrics"): _all_metrics,
}


async def _said(request: web.Request, peers: Peers) -> list[dict[str, Any]]:
    """Return what every worker answers to a request; raises ApiError with what one of them objects to."""
    require_admin(request.headers, request.app[ACCESS].admin_key)
    answers = await peers.all(request.method, request.path_qs)
    for answer in answers:
        if answer.status != OK:
            error = msgspec.json.decode(answer.body)["error"]
            raise ApiError(error["message"], status=answer.status, kind=error["type"], param=error.get("param"))
    return [msgspec.json.decode(answer.body) for answer in answers]


def added(stats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the counters of all workers together, and what each says of itself.

    An engine counts as healthy where every worker finds it so.
    """
    names = dict.fromkeys(name for one in stats for name, value in one.items() if isinstance(value, int))
    together: dict[str, Any] = {name: sum(one.get(name, 0) for one in stats) for name in names if name not in OF_ONE}
    together["healthy_engines"] = min(one["healthy_engines"] for one in stats)
    together["held"] = any(one["held"] for one in stats)
    return together | {"workers": [{name: one[name] for name in OF_ONE | OF_EACH} for one in stats]}
