"""One engine, as the trainer talks to it: who it is, which weights it has, and new ones.

Speaks SGLang's native routes, which the embedded engine serves too; which of them make an update is `generations.py`'s.
"""

from typing import Any

import aiohttp

from nexrl.errors import ConfigError, ServiceError
from nexrl_trainer.engines import generations
from nexrl_trainer.engines.generations import Call, Generation, Update

TIMEOUT_S = 1800.0
"""Large models take minutes to read."""


class UnreachableError(ServiceError):
    """The engine did not answer."""


class EngineClient:
    """One engine; raises UnreachableError where it does not answer, ServiceError where it refuses."""

    def __init__(self, url: str, http: aiohttp.ClientSession, *, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = http
        # SGLang closes connections on which it answered an error: none is used twice.
        self._headers = {"Connection": "close"} | ({"Authorization": f"Bearer {key}"} if key else {})

    async def generation(self, kind: str) -> Generation:
        """Return what engines like this one do around an update; raises ConfigError for no SGLang, or one too old."""
        if kind == "embedded":
            return generations.EMBEDDED
        _, answer = await self._ask("GET", "/server_info")
        if "version" not in answer:
            raise ConfigError(f"engine {self.url} does not say which SGLang it is: correct engine.url, or engine.kind")
        return generations.sglang(str(answer["version"]))

    async def version(self) -> str:
        """Return the weight version the engine reports."""
        _, answer = await self._ask("GET", "/model_info")
        return str(answer.get("weight_version"))

    async def update(self, update: Update) -> None:
        """Carry out an update, and look whether its version arrived."""
        wanted = update.load.body["weight_version"]
        try:
            if update.before:
                await self._do(update.before)
            await self._do(update.load)
        finally:
            if update.after:
                await self._do(update.after)
        if (found := await self.version()) != wanted:
            raise ServiceError(f"engine {self.url} reports weight version {found!r} after publishing {wanted}")

    async def _do(self, call: Call) -> None:
        status, answer = await self._ask("POST", call.route, call.body)
        if status >= 400 or answer.get("success") is False:  # noqa: PLR2004 - HTTP's errors
            refused = call.body.get("weight_version")
            what = f"weight version {refused}" if refused else call.route
            raise ServiceError(f"engine {self.url} refused {what}: {answer.get('message') or answer}")

    async def _ask(self, method: str, route: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        url = self.url + route
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self._http.request(method, url, json=body, timeout=timeout, headers=self._headers) as reply:
                answer = await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise UnreachableError(f"engine at {url}: {type(error).__name__}: {error}; is it running?") from error
        if not isinstance(answer, dict):
            raise ServiceError(f"engine at {url} answered {answer!r}; expected an object")
        return reply.status, answer
