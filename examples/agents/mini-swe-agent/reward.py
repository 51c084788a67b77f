"""1 where the answer is the right number and nothing else."""

import nexrl
from nexrl.rewards import judges


@nexrl.reward
def correct(task, answer):
    return judges.exact_match(answer, task["answer"])
