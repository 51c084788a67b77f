"""Ready-made judges: plain functions to call in a reward function. None of them needs the trainer, or torch.

    from nexrl.rewards import judges

    @nexrl.reward
    def correct(task, answer):
        return judges.math_equal(answer, task["answer"])

What a judge needs beyond NexRL is imported when it is first used, and refused with the pip command where it is missing.
"""

from nexrl.rewards.judges.code import passes_programs, passes_tests
from nexrl.rewards.judges.generated import reasoning_gym_score
from nexrl.rewards.judges.language_model import LlmJudge
from nexrl.rewards.judges.numbers import last_number, math_equal, numbers_equal
from nexrl.rewards.judges.schema import valid_json
from nexrl.rewards.judges.text import brevity, exact_match, matches

__all__ = [
    "LlmJudge",
    "brevity",
    "exact_match",
    "last_number",
    "matches",
    "math_equal",
    "numbers_equal",
    "passes_programs",
    "passes_tests",
    "reasoning_gym_score",
    "valid_json",
]
