"""One engine, as the trainer talks to it: who it is, which weights it has, and new ones.

Speaks SGLang's native routes, which the embedded engine serves too, and vLLM's; which of them make an update is
`generations.py`'s.
"""

import asyncio
from typing import Any

import aiohttp

from nexrl.errors import ConfigError, ServiceError
from nexrl_trainer.engines import generations
from nexrl_trainer.engines.generations import TOLD_AT, Call, Generation, Group, Update

ERROR = 400
"""HTTP's errors begin here."""
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
        """Return what engines like this one do around an update.

        Raises ConfigError for one of another kind, for one that is too old, and for a vLLM that takes no weights.
        """
        if kind == "embedded":
            return generations.EMBEDDED
        if kind == "vllm":
            return await self._vllm()
        _, answer = await self._ask("GET", "/server_info")
        if "version" not in answer:
            raise ConfigError(f"engine {self.url} does not say which SGLang it is: correct engine.url, or engine.kind")
        ranks, stages, replicas = (int(answer.get(f"{way}_size") or 1) for way in ("tp", "pp", "dp"))
        device = str(answer.get("device") or "cuda")
        return generations.sglang(str(answer["version"]), ranks=ranks, copies=stages * replicas, device=device)

    async def _vllm(self) -> Generation:
        _, answer = await self._ask("GET", "/version")
        status, config = await self._ask("GET", "/server_info?config_format=json")
        if status >= ERROR:
            raise ConfigError(
                f"engine {self.url}: no vLLM that takes weights; correct engine.url, or start it with "
                "VLLM_SERVER_DEV_MODE=1 in its environment"
            )
        try:
            mode = config["vllm_config"]["model_config"]["logprobs_mode"]
        except (KeyError, TypeError):
            raise ConfigError(
                f"engine {self.url}: /server_info of vLLM {answer.get('version')} does not say its logprobs_mode; "
                "use a version that does, such as 0.32"
            ) from None
        return generations.vllm(str(answer.get("version")), mode)

    async def version(self, told_at: str = TOLD_AT) -> str:
        """Return the weight version the engine reports, at the route of its generation."""
        _, answer = await self._ask("GET", told_at)
        return str(answer.get("weight_version"))

    async def update(self, update: Update) -> None:
        """Carry out an update, and look whether its version arrived."""
        goes_on = True
        try:
            for call in update.before:
                await self._do(call, f"weight version {update.version}")
            load = iter(update.load)
            while call := await asyncio.to_thread(next, load, None):
                goes_on = update.whole
                await self._do(call, f"weight version {update.version}")
            goes_on = True
        finally:
            for call in (*update.close, *(update.after if goes_on else ())):
                await self._do(call, f"weight version {update.version}")
        if (found := await self.version(update.told_at)) != str(update.version):
            raise ServiceError(f"engine {self.url} reports weight version {found!r} after publishing {update.version}")

    async def join(self, group: Group, offset: int) -> None:
        """Let it join a process group, its ranks beginning at `offset`; it does once everybody has come."""
        await self._do(generations.joining(group, offset), f"to join process group {group.name}")

    async def leave(self, group: Group) -> None:
        """Let it leave a process group, which ends what others wait for it there."""
        await self._do(generations.leaving(group), f"to leave process group {group.name}")

    async def checksums(self) -> dict[str, str]:
        """Return what the engine says it holds: a checksum for each tensor, by the engine's own names.

        Raises ConfigError where it cannot say.
        """
        name = f"engine {self.url}"
        status, answer = await self._ask("POST", "/weights_checker", {"action": "checksum"})
        if status >= ERROR:
            raise ConfigError(f"engine.verify: {name} cannot say what it holds: {answer}; set engine.verify=false")
        return checksums_in(name, answer)

    async def release_memory(self) -> None:
        """Let the engine give all its GPU memory away; nothing may run."""
        await self._do(Call("/release_memory_occupation"), "to give its memory away")

    async def resume_memory(self, tags: list[str]) -> None:
        """Let the engine take some of it back."""
        await self._do(Call("/resume_memory_occupation", {"tags": tags}), "to take its memory back")

    async def _do(self, call: Call, what: str) -> None:
        status, answer = await self._ask("POST", call.route, call.body)
        if status >= ERROR or answer.get("success") is False:
            raise ServiceError(f"engine {self.url} refused {what} at {call.route}: {answer.get('message') or answer}")

    async def _ask(self, method: str, route: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        url = self.url + route
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self._http.request(method, url, json=body, timeout=timeout, headers=self._headers) as reply:
                answer = await reply.json(content_type=None) or {}
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise UnreachableError(f"engine at {url}: {type(error).__name__}: {error}; is it running?") from error
        if not isinstance(answer, dict):
            raise ServiceError(f"engine at {url} answered {answer!r}; expected an object")
        return reply.status, answer


def checksums_in(engine: str, answer: dict[str, Any]) -> dict[str, str]:
    """Return the checksums in the answer of `/weights_checker`; raises ConfigError for a model that is split up."""
    ranks = answer.get("ranks") or ()
    if len(ranks) != 1:
        raise ConfigError(
            f"engine.verify: {engine} is split over {len(ranks)} ranks, of which each knows its own share; "
            "set engine.verify=false"
        )
    return ranks[0]["checksums"]
