"""NexRL for agents and evaluators: `@nexrl.reward` and the records it is given.

Light on purpose: no torch, ray, aiohttp or transformers is loaded by this import.
"""

from nexrl.errors import NexrlError
from nexrl.records import Call, Reward, Task, Trajectory
from nexrl.rewards import PerCall, Rollout, Step, Verdict, reward

__all__ = [
    "Call",
    "NexrlError",
    "PerCall",
    "Reward",
    "Rollout",
    "Step",
    "Task",
    "Trajectory",
    "Verdict",
    "reward",
]
