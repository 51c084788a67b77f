"""Engines by the name of their kind, from what `nexrl proxy` is told: URLs, a kind, and what only that kind needs."""

from collections.abc import Sequence
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl_proxy.engines import Engine
from nexrl_proxy.engines.http import Upstream
from nexrl_proxy.engines.openai import OpenAIEngine
from nexrl_proxy.engines.sglang import SglangEngine
from nexrl_proxy.engines.vllm import VllmEngine

Kind = Literal["sglang", "vllm", "openai"]
KINDS: tuple[Kind, ...] = ("sglang", "vllm", "openai")
API = "/v1"


class Serving(Struct, frozen=True, kw_only=True):
    """How engines are reached, and what they do not tell themselves."""

    kind: str = "sglang"
    key: str | None = None
    """The engine's own API key."""
    model: str | None = None
    """The name an OpenAI upstream has for the model; else the client's."""
    processed_logprobs: bool = False
    """vLLM was started with `--logprobs-mode processed_logprobs`."""


def engines_of(urls: str, serving: Serving) -> list[Engine]:
    """Return the engines of a comma-separated list of URLs; raises ConfigError."""
    places = [url.strip() for url in urls.split(",") if url.strip()]
    if not places:
        raise ConfigError(f"--engine {urls!r}: give at least one URL like http://127.0.0.1:30000")
    if twice := repeated(places):
        raise ConfigError(f"--engine names {twice} twice: give each engine once")
    return [_engine(url, serving) for url in places]


def repeated(places: Sequence[str]) -> str | None:
    """Return the first place that stands there twice."""
    seen: set[str] = set()
    for place in places:
        if place.rstrip("/") in seen:
            return place
        seen.add(place.rstrip("/"))
    return None


def _engine(url: str, serving: Serving) -> Engine:
    headers = {"authorization": f"Bearer {serving.key}"} if serving.key else {}
    match serving.kind:
        case "sglang":
            return SglangEngine(Upstream(url, headers=headers))
        case "vllm":
            return VllmEngine(Upstream(url, headers=headers), processed_logprobs=serving.processed_logprobs)
        case "openai":
            return OpenAIEngine(Upstream(with_api(url), headers=headers), model=serving.model)
        case kind:
            raise ConfigError(f"--engine-kind {kind}: use one of {', '.join(KINDS)}")


def with_api(url: str) -> str:
    """Return an OpenAI base URL: `/v1` behind a bare origin, any other path as it is.

    Example: http://h:1 -> http://h:1/v1; https://openrouter.ai/api/v1 stays.
    """
    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + API
