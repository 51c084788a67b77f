"""Everything the loop works with; `run.py` builds it."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from nexrl.records import Task
from nexrl_ingest.client import IngestClient
from nexrl_trainer.batches.scoring import Scorers
from nexrl_trainer.checkpointing import Checkpoints
from nexrl_trainer.data.draws import Draws
from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.engines.publishers import Publishers
from nexrl_trainer.policy.service import Learns
from nexrl_trainer.progress import Progress
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.rollouts.attempts import Attempts
from nexrl_trainer.rollouts.collected import Flow
from nexrl_trainer.tracking import Trackers


class World(Struct, frozen=True, kw_only=True):
    """The collaborators of one run."""

    recipe: Recipe
    draws: Draws
    heldout: Sequence[Task]
    policy: Learns
    scorers: Scorers
    publisher: Publishers
    feed: Flow
    attempts: Attempts | None
    """None where the run has no agent."""
    ingest: IngestClient
    directory: RunDirectory
    checkpoints: Checkpoints
    progress: Progress
    trackers: Trackers

    def log(self, line: dict[str, Any]) -> None:
        """Write a line of metrics.jsonl, and tell the trackers."""
        self.directory.log(line)
        self.trackers.log(line)
