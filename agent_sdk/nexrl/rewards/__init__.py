"""Rewards: mark plain functions as judges of rollouts, run them safely, weigh what they say.

    @nexrl.reward
    def correct(task: dict, answer: str) -> float:
        return float(answer.strip() == task["answer"])

A function asks for what it needs by parameter name (`Rollout`), is sync or async, a function or a class, and returns a
number, named numbers, or numbers for single calls (`returned.py`). Whatever goes wrong in it is a `RewardError`: a
failed rollout with a reason, never the end of a run. Ready-made ones are in `judges`.
"""

from nexrl.rewards.function import RewardFunction, reward
from nexrl.rewards.loading import load_rewards
from nexrl.rewards.returned import PerCall, Verdict
from nexrl.rewards.rollout import Rollout, Step
from nexrl.rewards.scoring import Scorer, score
from nexrl.rewards.weighing import MISJUDGED, TOTAL, Weighed, missing_names, total

__all__ = [
    "MISJUDGED",
    "TOTAL",
    "PerCall",
    "RewardFunction",
    "Rollout",
    "Scorer",
    "Step",
    "Verdict",
    "Weighed",
    "load_rewards",
    "missing_names",
    "reward",
    "score",
    "total",
]
