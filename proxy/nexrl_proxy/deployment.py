"""What a proxy is started with, and the app that makes of it: the one place where all collaborators meet.

Flags are `serve`'s; processes and sockets are `listening`'s and `workers`'.
"""

from pathlib import Path

import aiohttp
from aiohttp import web
from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl_proxy.app import make_app
from nexrl_proxy.conversation import Sessions
from nexrl_proxy.draining import DRAIN_S
from nexrl_proxy.engines.kinds import Serving, engines_of
from nexrl_proxy.engines.pool import Pool
from nexrl_proxy.limits import BODY_MB, Limits
from nexrl_proxy.models import Model, Models, Other, other_model
from nexrl_proxy.operating import Access
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.planning import Planner, Plans
from nexrl_proxy.policy import SamplingPolicy
from nexrl_proxy.prompting import HistoryPolicy
from nexrl_proxy.recorder import Recorder
from nexrl_proxy.render import Renderer
from nexrl_proxy.restoring import Restorer
from nexrl_proxy.sampling import Reading, Sampler
from nexrl_proxy.spoken_planning import SpokenPlanner
from nexrl_proxy.spool import Spool
from nexrl_proxy.template import template_of


class Settings(Struct, frozen=True, kw_only=True):
    """Everything the proxy is started with."""

    engine: str
    serving: Serving
    model: Path | None
    ingest: str
    data: Path
    access: Access
    served_model: str
    others: dict[str, Other] = {}
    """Models beside it, by their names."""
    tool_parser: str = "auto"
    reasoning_parser: str = "auto"
    policy: SamplingPolicy = SamplingPolicy()
    history: HistoryPolicy = "append"
    body_mb: int = BODY_MB
    per_minute: int | None = None
    workers: int = 1
    drain_s: float = DRAIN_S
    spool: str = "spool"
    """Its directory in `data`."""


def app_of(settings: Settings, reading: Reading | None, http: aiohttp.ClientSession) -> web.Application:
    """Return the proxy; `http` reaches ingest. Raises ConfigError."""
    key, sessions = settings.access.admin_key, Sessions()
    pool = Pool(engines_of(settings.engine, settings.serving))
    recorder = Recorder(Spool(settings.data / settings.spool), ingest=settings.ingest, admin_key=key, http=http)
    sampler = Sampler(pool=pool, reading=reading, recorder=recorder, sessions=sessions)
    planner: Plans = SpokenPlanner(sessions=sessions, policy=settings.policy)
    if reading:
        planner = Planner(
            renderer=reading.renderer,
            parsers=reading.parsers,
            sessions=sessions,
            restorer=Restorer(
                ingest=settings.ingest,
                admin_key=key,
                renderer=reading.renderer,
                http=http,
                delivered=recorder.flush,
            ),
            policy=settings.policy,
            history=settings.history,
        )
    others = {name: other_model(name, other, recorder) for name, other in settings.others.items()}
    return make_app(
        models=Models(Model(planner, sampler), others),
        recorder=recorder,
        access=settings.access,
        model=settings.served_model,
        limits=Limits(body_mb=settings.body_mb, per_minute=settings.per_minute),
    )


def reading_of(settings: Settings) -> Reading | None:
    """Load what completions are read with, None for engines that return text; raises ConfigError."""
    if settings.serving.kind == "openai":
        return None
    if settings.model is None:
        raise ConfigError("--model is missing: give the directory of the model the engine serves")
    parsers = Parsers(
        tools=settings.tool_parser, reasoning=settings.reasoning_parser, template=template_of(settings.model)
    )
    return Reading(Renderer(settings.model, markers=parsers.markers, endings=parsers.endings), parsers)
