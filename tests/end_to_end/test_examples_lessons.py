"""What the examples' model was shown is what the agents beside it say and do."""

import importlib
import random
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/agents"
FOLDERS = (EXAMPLES / "model", ROOT / "recipes/quickstart")
NAMES = ("problems", "dialogues", "lessons")


@pytest.fixture(scope="module")
def modules():
    """Import the files as the script does: from their own folders."""
    sys.path[:0] = map(str, FOLDERS)
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        for folder in FOLDERS:
            sys.path.remove(str(folder))
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture
def lessons(modules):
    return modules["lessons"]


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ("openai-agents/agent.py", "SYSTEM"),
        ("langgraph/agent.py", "SYSTEM"),
        ("pydantic-ai/agent.py", "SYSTEM"),
        ("anthropic/agent.py", "SYSTEM"),
        ("node/agent.mjs", "SYSTEM"),
        ("shell/agent.sh", "SYSTEM"),
        ("smolagents/agent.py", "CODE_SYSTEM"),
        ("mini-swe-agent/agent.yaml", "SHELL_SYSTEM"),
        ("nexau/agent.yaml", "LEAD_SYSTEM"),
        ("nexau/clerk.yaml", "CLERK_SYSTEM"),
    ],
)
def test_an_agent_opens_with_what_the_model_was_shown(agent, said, modules):
    module = modules["dialogues" if said == "SYSTEM" else "lessons"]
    assert getattr(module, said) in (EXAMPLES / agent).read_text()


def test_a_problems_steps_are_one_expression_of_the_same_value(modules):
    rng = random.Random(5)
    for problem in [modules["problems"].draw(rng) for _ in range(200)]:
        written = modules["lessons"].expression(problem.steps)
        assert problem.question == f"What is {written}?"
        assert eval(written) == problem.answer


def test_what_the_demonstrator_does_in_python_and_in_a_shell_comes_to_what_he_says(modules, lessons):
    rng = random.Random(6)
    problems = [modules["problems"].draw(rng) for _ in range(10)]
    for problem in problems:
        [*_, program], _ = lessons.in_python(problem, random.Random(str(problem)))
        numbers = []
        exec(program["content"].split("\n")[1], {"final_answer": numbers.append})
        messages, _ = lessons.in_a_shell(problem, random.Random(str(problem)))
        commands = [
            item["tool_calls"][0]["function"]["arguments"]["command"] for item in messages[2:] if "tool_calls" in item
        ]
        done = subprocess.run(["sh", "-c", commands[-1]], capture_output=True, text=True, check=True)
        assert done.stdout == f"COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT\n{numbers[0]}\n"
        for calculation, result in zip(commands[:-1], messages[3:], strict=False):
            assert (
                subprocess.run(["sh", "-c", calculation], capture_output=True, text=True, check=True).stdout.strip()
                == result["content"]
            )


def test_what_a_lead_asks_of_the_clerk_is_what_the_clerk_is_asked_and_answers(modules, lessons):
    rng = random.Random(7)
    for problem in [modules["problems"].draw(rng) for _ in range(20)]:
        (_, asked, *said), _ = lessons.as_a_clerk(problem, random.Random(str(problem)))
        messages, _ = lessons.as_a_lead(problem, random.Random(str(problem)))
        assert asked["content"] in [lessons.expression([step]) for step in problem.steps]
        for call, result in zip(messages[2:-1:2], messages[3:-1:2], strict=True):
            arguments = call["tool_calls"][0]["function"]["arguments"]
            assert arguments["sub_agent_name"] == "clerk"
            assert result["content"] == f"The answer is {eval(arguments['message'])}."
        assert messages[-1]["content"].startswith("The answer is ")
        assert said[-1]["content"].startswith("The answer is ")


def test_the_template_shows_a_tool_the_same_however_a_framework_describes_it(modules):
    template = jinja2.Template((EXAMPLES / "model/chat_template.jinja").read_text())
    [ours] = modules["dialogues"].TOOLS
    function = ours["function"]
    strict = {
        "strict": True,
        "description": "Compute.\n",
        "name": function["name"],
        "parameters": function["parameters"],
    }
    theirs = {"function": strict | {"parameters": {"additionalProperties": False} | function["parameters"]}}
    bare = {"function": {"name": "now"}}

    def shown(*tools):
        return template.render(messages=[{"role": "user", "content": "hi"}], tools=tools)

    assert "<tools>\ncalculator(a, operator, b)\n</tools>" in shown(ours)
    assert shown(theirs) == shown(ours)
    assert "<tools>\ncalculator(a, operator, b)\nnow()\n</tools>" in shown(ours, bare)
