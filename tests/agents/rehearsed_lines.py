"""What the rehearsed model says: each cue, wherever it was read last, selects the reply that it recites.

Pure data. Every family of agents has numbers of its own, so that no cue can select another family's reply. How cues
and replies become a model is `rehearsed.py`'s.
"""

import json

from msgspec import Struct


class Line(Struct, frozen=True):
    """One cue and its reply."""

    cue: str
    reply: str
    forced: tuple[str, ...] = ()
    """Beginnings of the reply that a proxy may put into the prompt to force a tool call."""


def calls(said: str, *written: tuple[str, dict[str, str]]) -> str:
    """Return text and tool calls as Hermes and Qwen models write them."""
    tags = (
        '<tool_call>\n{"name": "' + name + '", "arguments": ' + json.dumps(arguments) + "}\n</tool_call>"
        for name, arguments in written
    )
    return "\n".join([said, *tags] if said else tags)


def calculator(expression: str) -> tuple[str, dict[str, str]]:
    return "calculator", {"expression": expression}


OPENED = '<tool_call>\n{"name": "'
NAMED = OPENED + 'calculator", "arguments": '

TOOLS = [
    Line("6*7 plus 50+8", calls("I need both parts first.", calculator("6*7"), calculator("50+8"))),
    Line("= 58", calls("", calculator("42+58")), (OPENED, NAMED)),
    Line("= 100", "The answer is 100."),
    Line("Now double it", calls("", calculator("2*100")), (OPENED, NAMED)),
    Line("= 200", "Doubled, it is 200 ✓."),
]
"""Two calls in one turn with text beside them, a third call, an answer; a follow-up with one more call."""

FINAL_TOOL = [
    Line("9*9 plus 30", calls("", calculator("9*9")), (OPENED, NAMED)),
    Line("= 81", calls("", calculator("81+30")), (OPENED, NAMED)),
    Line("= 111", calls("", ("final_answer", {"answer": "111"})), (OPENED,)),
]
"""For frameworks whose agents end by calling a tool."""

CODE = [
    Line(
        "12*12 plus 6",
        'Thought: I multiply first.\n<code>\nproduct = calculator("12*12")\nprint(product)\n</code>',
    ),
    Line("= 144", 'Thought: Now the sum.\n<code>\nfinal_answer(calculator("144+6"))\n</code>'),
]
"""For agents that act by writing Python."""

REACT = [
    Line(
        "11*11 plus 4",
        'Thought: I multiply first.\nAction: calculator\nAction Input: {"expression": "11*11"}',
    ),
    Line("= 121", 'Thought: Now the sum.\nAction: calculator\nAction Input: {"expression": "121+4"}'),
    Line("= 125", "Thought: I can answer without using any more tools.\nAnswer: The answer is 125."),
]
"""For agents that speak ReAct in plain text."""

SINGLE = [
    Line("the product 13*3", calls("", calculator("13*3")), (OPENED, NAMED)),
    Line("= 39", "It makes 39."),
]
"""For agents that read one call a turn."""

TEAM = [
    Line(
        "ask both experts",
        calls("", ("expert", {"input": "Work out 17*2"}), ("expert", {"input": "Work out 23*2"})),
    ),
    Line("Work out 17*2", calls("", calculator("17*2")), (OPENED, NAMED)),
    Line("= 34", "So it is 34."),
    Line("Work out 23*2", calls("", calculator("23*2")), (OPENED, NAMED)),
    Line("= 46", "So it is 46."),
    Line("it is 46", "The experts found 34 and 46."),
]
"""For an agent that asks two others at a time; it hears the second one's answer last."""

DELEGATED = [
    Line(
        "consult the expert twice",
        calls(
            "",
            ("Agent", {"sub_agent_name": "expert", "message": "Work out 17*2"}),
            ("Agent", {"sub_agent_name": "expert", "message": "Work out 23*2"}),
        ),
    ),
]
"""The same by the tool that NexAU gives an agent for its sub-agents; what they say is the team's."""

XML = [
    Line(
        "8*8 plus 11",
        "First the product.\n<tool_use>\n  <tool_name>calculator</tool_name>\n"
        "  <parameter>\n    <expression>8*8</expression>\n  </parameter>\n</tool_use>",
    ),
    Line(
        "= 64",
        "<tool_use>\n  <tool_name>calculator</tool_name>\n"
        "  <parameter>\n    <expression>64+11</expression>\n  </parameter>\n</tool_use>",
    ),
    Line("= 75", "Together that is 75."),
]
"""For agents that read calls as XML out of the text."""

SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && echo "

SHELL = [
    Line("how many planets", calls("I count the lines.", ("bash", {"command": "wc -l planets.txt"}))),
    Line("8 planets.txt", calls("Eight lines.", ("bash", {"command": f"{SUBMIT}There are 8 planets."}))),
]
"""For agents that have a shell for a tool."""

CODEX = [
    Line("how many comets", calls("I count the lines.", ("exec_command", {"cmd": "wc -l comets.txt"}))),
    Line("5 comets.txt", "There are 5 comets."),
]
CLAUDE_CODE = [
    Line(
        "how many rings",
        calls("I count the lines.", ("Bash", {"command": "wc -l rings.txt", "description": "Count the lines"})),
    ),
    Line("4 rings.txt", "There are 4 rings."),
]
"""For coding agents on the command line, by the names of their own tools."""

SHELL_TEXT = [
    Line("how many moons", "THOUGHT: I count the lines.\n\n```mswea_bash_command\nwc -l moons.txt\n```"),
    Line("3 moons.txt", f"THOUGHT: Three lines.\n\n```mswea_bash_command\n{SUBMIT}There are 3 moons.\n```"),
]
"""For agents that read commands out of the text."""

DEFAULT = "Nothing was asked of me."
"""Said where no cue was read: titles, summaries and whatever else a framework asks beside the task."""

LINES = [
    *TOOLS,
    *FINAL_TOOL,
    *CODE,
    *REACT,
    *SINGLE,
    *TEAM,
    *SHELL,
    *SHELL_TEXT,
    *CODEX,
    *CLAUDE_CODE,
    *DELEGATED,
    *XML,
]
