"""Bring new weights into a running engine: written to a folder, then read by the engine.

Speaks SGLang's native routes, which the embedded engine serves too. The folder must be readable by the engine:
on several machines that means a shared file system.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import aiohttp

from nexrl.errors import ServiceError
from nexrl_trainer.policy.service import TrainService

TIMEOUT_S = 600.0


class Publisher:
    """Publishes weight versions to one engine; `folder` keeps the newest version alone."""

    def __init__(self, engine: str, folder: Path, http: aiohttp.ClientSession) -> None:
        self._engine = engine.rstrip("/")
        self._folder = folder
        self._http = http

    async def publish(self, policy: TrainService, version: int) -> None:
        """Make the engine sample with the policy's weights as `version`.

        Raises ServiceError where the engine refuses them or does not report the version afterwards.
        """
        target = self._folder / f"v{version:06d}"
        await asyncio.to_thread(target.mkdir, parents=True, exist_ok=True)
        await policy.publish_weights(target)
        body = {"model_path": str(target.resolve()), "weight_version": str(version)}
        answer = await self._call("POST", "/update_weights_from_disk", body)
        if not answer.get("success"):
            raise ServiceError(f"engine {self._engine} refused weight version {version}: {answer.get('message')}")
        if (found := await self.version()) != str(version):
            raise ServiceError(f"engine {self._engine} reports weight version {found!r} after publishing {version}")
        await asyncio.to_thread(self._forget_all_but, target)

    async def version(self) -> str:
        """Return the weight version the engine reports."""
        return str((await self._call("GET", "/model_info")).get("weight_version"))

    async def _call(self, method: str, route: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        url = self._engine + route
        try:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with self._http.request(method, url, json=body, timeout=timeout) as reply:
                answer = await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServiceError(f"engine at {url}: {type(error).__name__}: {error}; is it running?") from error
        if not isinstance(answer, dict):
            raise ServiceError(f"engine at {url} answered {answer!r}; expected an object")
        return answer

    def _forget_all_but(self, newest: Path) -> None:
        for folder in self._folder.iterdir():
            if folder != newest:
                shutil.rmtree(folder)
