"""Checkpoints, written beside the steps that follow; groups are acknowledged to ingest once theirs is on disk."""

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Self

from nexrl.errors import NexrlError
from nexrl_ingest.client import IngestClient
from nexrl_trainer.directory import RunDirectory, State, of_policy
from nexrl_trainer.policy.service import Learns

TOKENIZER_FILES = ("tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "chat_template")


class Checkpoints:
    """Writes one checkpoint at a time; `keep` stay. In each are the tokenizers of `models`, by name.

    `saved` is the step whose checkpoint exists already. Use as an asynchronous context manager: what is being written
    when the run breaks off is still finished.
    """

    def __init__(
        self,
        directory: RunDirectory,
        policy: Learns,
        ingest: IngestClient,
        *,
        models: Mapping[str, Path],
        keep: int,
        saved: int,
    ) -> None:
        self._directory = directory
        self._policy = policy
        self._ingest = ingest
        self._models = dict(models)
        self._keep = keep
        self._owed: list[str] = []
        self._saved = saved
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What broke the run off is told, not what it then did to the checkpoint.
        with contextlib.suppress(*([NexrlError] if kind else [])):
            await self.finish()

    def owe(self, leases: list[str]) -> None:
        """Remember the leases of groups that were trained, for the next checkpoint to settle."""
        self._owed += leases

    async def begin(self, state: State) -> None:
        """Save what a resumed run needs, as it is now; the writing goes on after this returns.

        Raises what went wrong with the checkpoint before.
        """
        await self.finish()
        self._saved = state.step
        draft = await asyncio.to_thread(self._directory.draft, state.step)
        saving = self._policy.save(draft)
        leases, self._owed = self._owed, []
        self._writing = asyncio.create_task(self._write(state, draft, saving, leases))

    async def keep_best(self, state: State) -> None:
        """Let `checkpoints/best` be that of this state, saved first where it is not."""
        await self.end(state)
        await asyncio.to_thread(self._directory.mark_best, state.step)

    async def end(self, state: State) -> None:
        """Return once this state is saved, where it was not before."""
        if self._saved != state.step:
            await self.begin(state)
        await self.finish()

    async def finish(self) -> None:
        """Return once the last checkpoint is on disk and its groups are acknowledged."""
        if self._writing:
            await self._writing

    async def _write(self, state: State, draft: Path, saving: Awaitable[None], leases: list[str]) -> None:
        await saving
        for name, model in self._models.items():
            await asyncio.to_thread(copy_tokenizer, model, of_policy(draft, name))
        await asyncio.to_thread(self._directory.commit, state, self._keep)
        await self._ingest.ack(leases)


def copy_tokenizer(model: Path, folder: Path) -> None:
    """Put the tokenizer and chat template beside the weights, so that the folder is a model people can use."""
    for file in model.iterdir():
        if file.name.startswith(TOKENIZER_FILES) or file.suffix == ".jinja":
            shutil.copy(file, folder)
