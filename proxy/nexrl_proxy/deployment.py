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
from nexrl_proxy.deleted import NAME, Deleted
from nexrl_proxy.draining import DRAIN_S
from nexrl_proxy.engines.kinds import Serving, engines_of
from nexrl_proxy.engines.pool import Pool
from nexrl_proxy.limits import BODY_MB, Limits
from nexrl_proxy.models import Model, Models, Other, other_model
from nexrl_proxy.operating import Access
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.planning import Planner
from nexrl_proxy.policies import Policy
from nexrl_proxy.policy import SamplingPolicy
from nexrl_proxy.prompting import HistoryPolicy
from nexrl_proxy.recorder import Recorder
from nexrl_proxy.render import Renderer
from nexrl_proxy.restoring import Restorer
from nexrl_proxy.sampling import Reading, Sampler
from nexrl_proxy.spoken_planning import SpokenPlanner
from nexrl_proxy.spool import Spool
from nexrl_proxy.template import refuse_no_model, template_of


class Settings(Struct, frozen=True, kw_only=True):
    """Everything the proxy is started with."""

    engine: str
    serving: Serving
    model: Path | None
    ingest: str
    data: Path
    access: Access
    served_model: str
    policies: dict[str, Policy] = {}
    """Models beside it that learn too, by their names."""
    others: dict[str, Other] = {}
    """Models beside it that do not."""
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


Readings = dict[str, Reading]
"""What completions of each model that learns are read with, by `Call.policy`; empty for engines that return text."""


def app_of(settings: Settings, readings: Readings, http: aiohttp.ClientSession) -> web.Application:
    """Return the proxy; `http` reaches ingest. Raises ConfigError."""
    key = settings.access.admin_key
    recorder = Recorder(Spool(settings.data / settings.spool), ingest=settings.ingest, admin_key=key, http=http)
    deleted = Deleted(settings.data / NAME)

    def made(engine: str, of: str = "") -> Model:
        sessions, reading = Sessions(), readings.get(of)
        pool = Pool(engines_of(engine, settings.serving))
        sampler = Sampler(pool=pool, reading=reading, recorder=recorder, sessions=sessions)
        if reading is None:
            return Model(SpokenPlanner(sessions=sessions, policy=settings.policy), sampler)
        restorer = Restorer(
            ingest=settings.ingest,
            admin_key=key,
            renderer=reading.renderer,
            http=http,
            deleted=deleted,
            delivered=recorder.flush,
            of=of,
        )
        planner = Planner(
            renderer=reading.renderer,
            parsers=reading.parsers,
            sessions=sessions,
            restorer=restorer,
            policy=settings.policy,
            history=settings.history,
            of=of,
        )
        return Model(planner, sampler)

    policies = {name: made(policy.engine, of=name) for name, policy in settings.policies.items()}
    others = {name: other_model(name, other, recorder) for name, other in settings.others.items()}
    return make_app(
        models=Models(made(settings.engine), others, policies),
        recorder=recorder,
        access=settings.access,
        model=settings.served_model,
        limits=Limits(body_mb=settings.body_mb, per_minute=settings.per_minute),
    )


def readings_of(settings: Settings) -> Readings:
    """Load what completions are read with; raises ConfigError."""
    if settings.serving.kind == "openai":
        if settings.policies:
            raise ConfigError("--policies: what an OpenAI upstream says is not trained; name it in --models")
        return {}
    if settings.model is None:
        raise ConfigError("--model is missing: give the directory of the model the engine serves")
    folders = {"": settings.model, **{name: Path(policy.model) for name, policy in settings.policies.items()}}
    return {name: _reading(settings, folder) for name, folder in folders.items()}


def _reading(settings: Settings, model: Path) -> Reading:
    refuse_no_model(model)
    parsers = Parsers(tools=settings.tool_parser, reasoning=settings.reasoning_parser, template=template_of(model))
    return Reading(Renderer(model, markers=parsers.markers, endings=parsers.endings), parsers)
