"""Engines and a proxy that answer from a script over real HTTP, in one journal of what they were asked."""

import contextlib

import aiohttp
from aiohttp import web

from nexrl_trainer.engines.client import EngineClient
from nexrl_trainer.engines.door import Door
from nexrl_trainer.engines.fleet import Fleet, Member, Weights
from nexrl_trainer.engines.generations import EMBEDDED
from nexrl_trainer.rollouts.proxy import ProxyClient


class ScriptedServer:
    """Serves on a port of its own, which it keeps over restarts."""

    def __init__(self, name, journal):
        self.name, self.journal = name, journal
        self.port = 0
        self.runner = None

    async def serve(self, routes):
        app = web.Application(client_max_size=64 * 2**20)
        app.add_routes(routes)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def close(self):
        if self.runner:
            await self.runner.cleanup()
        self.runner = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


class ScriptedEngine(ScriptedServer):
    """An engine, and the process it runs in: `die` ends it, `start` begins again."""

    def __init__(self, name, journal):
        super().__init__(name, journal)
        self.version = "0"
        self.refuses = set()
        self.dies_at = set()
        self.restarts_fail = False
        self.forgets = False
        self.ranks = []
        """What it answers when it is asked for checksums."""

    async def begin(self):
        posts = (
            *("/pause_generation", "/update_weights_from_disk", "/continue_generation"),
            *("/begin_weight_update", "/update_weights_from_tensor", "/end_weight_update", "/weights_checker"),
            *("/release_memory_occupation", "/resume_memory_occupation"),
            *("/init_weights_update_group", "/update_weights_from_distributed", "/destroy_weights_update_group"),
        )
        await self.serve([*(web.post(route, self.answer) for route in posts), web.get("/model_info", self.info)])

    async def answer(self, request):
        route = request.path.strip("/")
        body = await request.json()
        self.journal.append(" ".join([f"{self.name} {route}", *body.get("tags", ())]))
        if route in self.dies_at:
            self.dies_at.discard(route)
            request.transport.abort()
            await self.runner.sites.copy().pop().stop()
            self.runner = None
            return web.Response()
        if route in self.refuses:
            return self.refusal(f"no {route} today")
        if route.startswith("update_weights") and not self.forgets:
            self.version = body.get("weight_version", self.version)
        if route == "weights_checker":
            return web.json_response({"success": True, "message": "", "ranks": self.ranks})
        return web.json_response({"success": True, "message": "well"})

    def refusal(self, message):
        return web.json_response({"success": False, "message": message}, status=400)

    async def info(self, _):
        return web.json_response({"weight_version": self.version})

    async def ended(self):
        return None if self.runner else "exit code -9\n    a long log"

    async def start(self, weights):
        self.journal.append(f"{self.name} starts with {weights.version}")
        if not self.restarts_fail:
            self.version = str(weights.version)
            await self.begin()
        return self.url


class ScriptedProxy(ScriptedServer):
    def __init__(self, journal):
        super().__init__("proxy", journal)
        self.running = 0

    async def begin(self):
        await self.serve([web.post("/api/{what}", self.answer)])

    async def answer(self, request):
        assert request.headers["Authorization"] == "Bearer key"
        self.journal.append(" ".join(["proxy", request.match_info["what"], *request.query.values()]))
        return web.json_response({"running": self.running})


@contextlib.asynccontextmanager
async def fleet_of(tmp_path, *, engines=2, generation=EMBEDDED, started=True, drain_s=5.0, kind=ScriptedEngine):
    """Yield a fleet, its engines, its proxy, the journal, and what people were told."""
    journal, said = [], []
    servers = [kind(f"engine-{index + 1}", journal) for index in range(engines)]
    proxy = ScriptedProxy(journal)
    async with contextlib.AsyncExitStack() as stack, aiohttp.ClientSession() as http:
        for server in (*servers, proxy):
            await server.begin()
            stack.push_async_callback(server.close)
        members = [Member(EngineClient(one.url, http), generation, one if started else None) for one in servers]
        door = Door(ProxyClient(proxy.url, "key", http), drain_s=drain_s)
        yield Fleet(members, Weights(tmp_path, 0), door, said.append), servers, proxy, journal, said
