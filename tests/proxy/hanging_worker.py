"""A proxy of one worker that hangs when it is told to: `python hanging_worker.py DIRECTORY HUNG_S`."""

import sys
import time
from pathlib import Path

import aiohttp
from aiohttp import web
from proxy_world import ADMIN

from nexrl.service import announce, run_loop
from nexrl_proxy.deployment import Settings, app_of
from nexrl_proxy.engines.kinds import Serving
from nexrl_proxy.listening import bound
from nexrl_proxy.operating import Access
from nexrl_proxy.workers.supervisor import Place, Supervisor
from nexrl_proxy.workers.worker import Shared, work

NOBODY = "http://127.0.0.1:1"


def make(_: int, http: aiohttp.ClientSession) -> web.Application:
    settings = Settings(
        engine=NOBODY,
        serving=Serving(kind="openai"),
        model=None,
        ingest=NOBODY,
        data=directory,
        access=Access(ADMIN),
        served_model="m",
    )
    app = app_of(settings, {}, http)
    app.router.add_post("/hang", hang)
    return app


async def hang(_: web.Request) -> web.Response:
    time.sleep(600)  # noqa: ASYNC251 - this is what it is about
    return web.Response()


def worker(place: Place) -> None:
    run_loop(work(shared, place))


directory, hung_s = Path(sys.argv[1]), float(sys.argv[2])
sockets = bound("127.0.0.1", 0)
shared = Shared(1, sockets, directory, make, 0.0)
port = sockets[0].getsockname()[1]
supervisor = Supervisor(
    1, worker, announce=lambda: announce("127.0.0.1", port), listeners=sockets, drain_s=0, hung_s=hung_s
)
sys.exit(supervisor.run(exit_with_parent=True))
