"""NexRL for agents and evaluators: whose calls these are, `@nexrl.reward`, and the records it is given.

Light on purpose: no torch, ray, aiohttp or transformers is loaded by this import, and nothing is patched by it.
"""

from nexrl.emitting import emit_reward, emit_reward_async, tag
from nexrl.errors import NexrlError
from nexrl.instrumenting import Instrumented, instrument, uninstrument
from nexrl.records import Call, Reward, Task, Trajectory
from nexrl.rewards import PerCall, Rollout, Step, Verdict, reward
from nexrl.sessions import Session, agent, current_session, session

__all__ = [
    "Call",
    "Instrumented",
    "NexrlError",
    "PerCall",
    "Reward",
    "Rollout",
    "Session",
    "Step",
    "Task",
    "Trajectory",
    "Verdict",
    "agent",
    "current_session",
    "emit_reward",
    "emit_reward_async",
    "instrument",
    "reward",
    "session",
    "tag",
    "uninstrument",
]
