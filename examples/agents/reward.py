"""1 where the last number of the final answer is the right one."""

import nexrl
from nexrl.rewards import judges


@nexrl.reward
def correct(task, answer):
    return judges.numbers_equal(answer, task["answer"])
