"""What the examples' model was shown: a sloppy demonstrator at a calculator, in Python, in a shell, with a clerk.

Each lesson is a dialogue as one kind of agent beside this folder holds it. Who is sloppy, and how, is the quick start's
`dialogues.py`'s; how dialogues become a model `make_model.py`'s.
"""

import random
from typing import Any

from dialogues import TOOLS, Message, demonstrate, final, steps_taken
from problems import Problem, Step, calculate

Tool = dict[str, Any]
Lesson = tuple[list[Message], list[Tool]]

CODE_SYSTEM = "Answer with Python between <code> and </code>. Call final_answer with a number."
SHELL_SYSTEM = "You have a shell. Echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT, and then the number."
SHELL_TOOLS: list[Tool] = [
    {"type": "function", "function": {"name": "bash", "parameters": {"properties": {"command": {"type": "string"}}}}}
]
LEAD_SYSTEM = "Answer with a number. Leave every operation to the clerk."
LEAD_TOOLS: list[Tool] = [
    {
        "type": "function",
        "function": {
            "name": "Agent",
            "parameters": {"properties": {"sub_agent_name": {}, "message": {}, "sub_agent_id": {}}},
        },
    }
]
CLERK_SYSTEM = "Do one operation. Use the calculator."
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && echo "


def at_a_calculator(problem: Problem, rng: random.Random) -> Lesson:
    """Return a dialogue with a calculator's calls, each with what came of it, and a sentence at the end."""
    return demonstrate(problem, rng), TOOLS


def in_python(problem: Problem, rng: random.Random) -> Lesson:
    """Return a dialogue of one reply, a program: as smolagents' CodeAgent holds it."""
    steps = steps_taken(problem, rng)
    said = expression(steps) if steps else str(problem.first[2])
    return [
        {"role": "system", "content": CODE_SYSTEM},
        {"role": "user", "content": f"New task:\n{problem.question}"},
        {"role": "assistant", "content": f"<code>\nfinal_answer({said})\n</code>"},
    ], []


def in_a_shell(problem: Problem, rng: random.Random) -> Lesson:
    """Return a dialogue of one command that calculates, where he does, and one that submits."""
    steps = steps_taken(problem, rng)
    messages: list[Message] = [
        {"role": "system", "content": SHELL_SYSTEM},
        {"role": "user", "content": problem.question},
    ]
    if steps:
        result = str(calculate(steps[-1]))
        messages += [_call("bash", command=f"echo $(({expression(steps)}))"), {"role": "tool", "content": result}]
    else:
        result = str(problem.first[2])
    return [*messages, _call("bash", command=SUBMIT + result)], SHELL_TOOLS


def as_a_lead(problem: Problem, rng: random.Random) -> Lesson:
    """Return a dialogue with one that does each step for him: as a NexAU agent holds it that has a sub-agent."""
    messages: list[Message] = [
        {"role": "system", "content": LEAD_SYSTEM},
        {"role": "user", "content": problem.question},
    ]
    result = problem.first[2]
    for step in steps_taken(problem, rng):
        result = calculate(step)
        asked = _call("Agent", sub_agent_name="clerk", message=expression([step]))
        messages += [asked, {"role": "tool", "content": final(result)["content"]}]
    return [*messages, final(result)], LEAD_TOOLS


def as_a_clerk(problem: Problem, rng: random.Random) -> Lesson:
    """Return a dialogue in which he does one step for another, at a calculator."""
    step = rng.choice(problem.steps)
    _, _, *said = demonstrate(Problem(first=step), rng)
    return [
        {"role": "system", "content": CLERK_SYSTEM},
        {"role": "user", "content": expression([step])},
        *said,
    ], TOOLS


def expression(steps: list[Step]) -> str:
    """Return steps, each of which goes on with the last one's result, as one expression. Example: (37 + 58) * 4."""
    (a, symbol, b), *then = steps
    text = f"{a} {symbol} {b}"
    for _, symbol, b in then:
        text = f"({text}) {symbol} {b}"
    return text


def _call(tool: str, **arguments: str) -> Message:
    call = {"type": "function", "function": {"name": tool, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}
