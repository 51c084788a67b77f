"""Requests to a cluster's API server: one object, everything in a collection, a stream of lines.

Who we are there, and how that is proved, is the library's business (kubeconfig, plugins, a service account's token that
changes), and so are the models; the requests are few, and ours. What they are about `cluster.py` says.
https://kubernetes.io/docs/reference/using-api/api-concepts/.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable
from http import HTTPStatus
from typing import Any, Generic, Self, TypeVar

import httpx2
import msgspec
from lightkube import KubeConfig
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.kubeconfig import DEFAULT_KUBECONFIG, SingleConfig
from lightkube.core.exceptions import ConfigError as LightkubeConfigError
from lightkube.models.meta_v1 import ListMeta
from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl_trainer.rollouts.runners.kubernetes.patience import status_of

T = TypeVar("T")
REQUEST_S = 30.0
PAGE = "500"
AT_ONCE = 16
"""Requests, beside the watch: as many as have a connection that is kept, and no flood when a step begins."""


class Listed(Struct, Generic[T]):
    """One page of a list."""

    metadata: ListMeta
    items: list[T] | None = None


class ApiServer:
    """An API server, asked as whom the kubeconfig names. Every request is made once, and raises what is in TROUBLE."""

    def __init__(self, http: httpx2.AsyncClient, namespace: str) -> None:
        self._http = http
        self.namespace = namespace
        """The one that is meant where nobody names another."""
        self._turns = asyncio.Semaphore(AT_ONCE)

    @classmethod
    def reached(cls, context: str | None) -> Self:
        """Return the server that the context, the service account or the kubeconfig names.

        Raises ConfigError where none of them names one.
        """
        try:
            config = _config(context)
            http = AsyncClient(config, ConnectionParams(timeout=httpx2.Timeout(REQUEST_S)))
        except (LightkubeConfigError, msgspec.ValidationError, KeyError, OSError, ValueError) as error:
            named = f"agent.kubernetes.context={context}" if context else "agent.kubernetes"
            raise ConfigError(
                f"{named}: no cluster: {error}; name a context of ~/.kube/config or KUBECONFIG, or run in a cluster"
            ) from error
        return cls(http, config.namespace)

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self._http.base_url)

    async def close(self) -> None:
        """Let go of its connections."""
        await self._http.aclose()

    async def ask(self, method: str, path: str, kind: type[T], *, body: Any = None, **asked: str) -> T:
        """Return what it answers; `asked` goes into the query."""
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        encoded = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": content} if encoded else None
        async with self._turns:
            response = await self._http.request(method, path, params=asked, content=encoded, headers=headers)
        await _refuse_error(response)
        return msgspec.json.decode(response.content, type=kind)

    async def all(self, path: str, kind: type[T], **asked: str) -> tuple[list[T], str]:
        """Return everything in a collection, page by page, and its version."""
        found: list[T] = []
        page = await self.ask("GET", path, Listed[kind], limit=PAGE, **asked)
        found += page.items or []
        while page.metadata.continue_:
            asked["continue"] = page.metadata.continue_
            page = await self.ask("GET", path, Listed[kind], limit=PAGE, **asked)
            found += page.items or []
        return found, page.metadata.resourceVersion or ""

    async def chunks(self, path: str, **asked: str) -> AsyncGenerator[bytes]:
        """Yield a long answer as it arrives; it takes a turn of the requests until its end."""
        async with self._turns, contextlib.aclosing(self.stream(path, REQUEST_S, **asked)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def stream(self, path: str, silence_s: float, **asked: str) -> AsyncGenerator[bytes]:
        """Yield an answer that may never end, beside the other requests; silence of that length ends it."""
        timeout = httpx2.Timeout(REQUEST_S, read=silence_s)
        async with self._http.stream("GET", path, params=asked, timeout=timeout) as response:
            await _refuse_error(response)
            async for chunk in response.aiter_bytes():
                yield chunk


async def unless(status: HTTPStatus, asked: Awaitable[T]) -> T | None:
    """Return what was asked for; None where that status is the answer."""
    try:
        return await asked
    except httpx2.HTTPStatusError as error:
        if status_of(error) != status:
            raise
        return None


def _config(context: str | None) -> SingleConfig:
    if context is None:
        found = KubeConfig.from_env().get()
    else:
        found = KubeConfig.from_file(os.environ.get("KUBECONFIG", DEFAULT_KUBECONFIG)).get(context)
    if found is None or found.user is None:
        raise LightkubeConfigError("its context names no user")
    return found


async def _refuse_error(response: httpx2.Response) -> None:
    if response.is_error:
        await response.aread()
    response.raise_for_status()
