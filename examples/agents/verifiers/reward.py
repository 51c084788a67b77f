"""What the environment's rubric said."""

import json

import nexrl


@nexrl.reward
def rubric(answer):
    return json.loads(answer.splitlines()[-1])["reward"]
