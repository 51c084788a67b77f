"""What an agent finds in its environment: where to call the model and report, and nothing it must not see."""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from nexrl.emitting import INGEST_VARIABLE
from nexrl.errors import ConfigError
from nexrl.sessions import BAGGAGE
from nexrl_trainer import templates
from nexrl_trainer.rollouts.runners.runner import Services

ATTEMPT_VARIABLE = "NEXRL_ATTEMPT"
"""Whose process this is; what a process starts inherits it, wherever it hides (`survivors.py`)."""
_OTLP = "OTEL_EXPORTER_OTLP_"
"""https://opentelemetry.io/docs/specs/otel/protocol/exporter/; values of headers are percent-encoded."""


def fill(template: str, fields: Mapping[str, Any]) -> str:
    """Put a task's fields in place of their `{name}`s; raises ConfigError naming one that the task lacks."""
    try:
        return templates.fill(template, fields)
    except KeyError as error:
        name, has = error.args[0], ", ".join(fields)
        meant = f"${{{name}}}" if f"${{{name}}}" in template else f"{{{name}}}"
        kept = meant.replace("{", "{{").replace("}", "}}")
        raise ConfigError(
            f"agent: {template!r} asks for {name!r}, the task has {has}; where {meant} is no field, write {kept}"
        ) from error


def agent_environment(
    services: Services, key: str, extra: Mapping[str, str], inherited: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of an agent whose process is one attempt, which its key names.

    OpenTelemetry SDKs send to ingest, into the attempt's session, unless the user's environment sends them elsewhere.
    `inherited` is this process's own where nothing is said.
    """
    environment = shared_environment(services, key, extra, inherited)
    if not any(name.startswith(_OTLP) for name in environment):
        environment |= {f"{_OTLP}ENDPOINT": services.ingest, f"{_OTLP}PROTOCOL": "http/protobuf"}
        environment |= {f"{_OTLP}HEADERS": f"authorization=Bearer%20{quote(key)}"}
    return environment


def shared_environment(
    services: Services, key: str, extra: Mapping[str, str], inherited: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return what agents inherit (of ours where nothing is said), plus where to call and report.

    The admin key never gets here. All names of the base URL are set, since frameworks differ in which they read; NexAU
    takes the key from LLM_API_KEY, were it somebody else's, before OPENAI_API_KEY.
    """
    known = inherited_environment() if inherited is None else inherited
    inherited = {name: value for name, value in known.items() if name not in services.secrets}
    base, model = f"{services.proxy}/v1", services.model
    ours = {"OPENAI_BASE_URL": base, "OPENAI_API_BASE": base, "OPENAI_API_KEY": key, "OPENAI_MODEL": model}
    ours |= {"ANTHROPIC_BASE_URL": services.proxy, "ANTHROPIC_API_KEY": key, "ANTHROPIC_MODEL": model}
    ours |= {"LLM_BASE_URL": base, "LLM_API_KEY": key, "LLM_MODEL": model}
    # A company's HTTP proxy does not know the way back to this machine.
    hosts = dict.fromkeys([urlsplit(services.proxy).hostname, urlsplit(services.ingest).hostname, "localhost"])
    direct = ",".join(filter(None, [inherited.get("NO_PROXY"), *hosts]))
    ours |= {"NO_PROXY": direct, "no_proxy": direct, INGEST_VARIABLE: services.ingest}
    return {**inherited, **ours, **extra}


def inherited_environment() -> dict[str, str]:
    """Return ours, less every NEXRL_* variable and whose session it is in, for one core."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEXRL_") and name != BAGGAGE}
    return {**kept, "OMP_NUM_THREADS": "1"}
