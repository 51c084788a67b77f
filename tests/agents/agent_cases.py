"""Which agents are run, on what, and what they must answer."""

from pathlib import Path
from typing import Any

from msgspec import Struct

CLIENTS = Path(__file__).with_name("clients")


class Job(Struct, frozen=True):
    """Tasks that one agent does one after the other in one conversation, and what comes of them."""

    tasks: tuple[str, ...]
    answers: tuple[str, ...]
    calls: int
    """Model calls, all tasks together."""
    files: dict[str, str] = {}
    """In the folder that the agent is started in."""


TOOLS = Job(
    ("What is 6*7 plus 50+8?", "Now double it"),
    ("The answer is 100.", "Doubled, it is 200 ✓."),
    calls=5,
)
TOOLS_ONCE = Job(TOOLS.tasks[:1], TOOLS.answers[:1], calls=3)
SINGLE = Job(("What is the product 13*3?",), ("It makes 39.",), calls=2)
FINAL_TOOL = Job(("What is 9*9 plus 30?",), ("111",), calls=3)
CODE = Job(("What is 12*12 plus 6?",), ("144+6 = 150",), calls=2)
REACT = Job(("What is 11*11 plus 4?",), ("The answer is 125.",), calls=3)
TEAM = Job(("What is 17*2, and 23*2? You may ask both experts.",), ("The experts found 34 and 46.",), calls=6)
DELEGATED = Job(("What is 17*2, and 23*2? You may consult the expert twice.",), TEAM.answers, calls=6)
XML = Job(("What is 8*8 plus 11?",), ("Together that is 75.",), calls=3)
SHELL = Job(("Tell me how many planets there are.",), ("There are 8 planets.",), 2, {"planets.txt": "planet\n" * 8})
SHELL_TEXT = Job(("Tell me how many moons there are.",), ("There are 3 moons.",), 2, {"moons.txt": "moon\n" * 3})
CODEX = Job(("Tell me how many comets there are.",), ("There are 5 comets.",), 2, {"comets.txt": "comet\n" * 5})
CLAUDE_CODE = Job(("Tell me how many rings there are.",), ("There are 4 rings.",), 2, {"rings.txt": "ring\n" * 4})


class Case(Struct, frozen=True):
    """One agent, one way of running it."""

    client: str
    """The script's name."""
    environment: str = ""
    """The list of requirements, where there is one."""
    job: Job = TOOLS
    options: tuple[str, ...] = ()
    """Go before the tasks."""
    threads: int = 1
    """Conversations: an agent that asks others has one with each."""
    named: str = ""
    """The agent whose requests say its name."""
    rewrites: int = 0
    """Turns at which the framework sends other words than the model said; each opens a chain and says `edited`."""

    def __str__(self) -> str:
        return "-".join((Path(self.client).stem, *self.options))


def both(client: str, environment: str, *options: str, job: Job = TOOLS, **rest: Any) -> list[Case]:
    """Return the case with plain replies and with streamed ones."""
    return [Case(client, environment, job, (*options, mode), **rest) for mode in ("plain", "streamed")]


CASES = [
    *both("openai_chat.py", "openai"),
    *both("openai_responses.py", "openai", "stateless"),
    *both("openai_responses.py", "openai", "stored"),
    *both("anthropic_messages.py", "anthropic"),
    *both("openai_agents.py", "openai-agents", "chat"),
    *both("openai_agents.py", "openai-agents", "responses"),
    Case("openai_agents_team.py", "openai-agents", TEAM, ("chat",), threads=3),
    Case("openai_agents_team.py", "openai-agents", TEAM, ("responses",), threads=3),
    *both("langgraph_agent.py", "langgraph", "chat"),
    *both("langgraph_agent.py", "langgraph", "responses"),
    *both("pydantic_ai_agent.py", "pydantic-ai", "openai-chat"),
    *both("pydantic_ai_agent.py", "pydantic-ai", "openai-responses"),
    *both("pydantic_ai_agent.py", "pydantic-ai", "anthropic"),
    # smolagents writes calls and code of earlier turns in words of its own.
    *both("smolagents_agent.py", "smolagents", "tools", job=FINAL_TOOL, rewrites=2),
    *both("smolagents_agent.py", "smolagents", "code", job=CODE, rewrites=1),
    *both("autogen_agent.py", "autogen"),
    *both("llama_index_agent.py", "llama-index", "functions"),
    # LlamaIndex's ReAct writes the arguments of earlier turns as Python does, not as JSON.
    *both("llama_index_agent.py", "llama-index", "react", job=REACT, rewrites=2),
    *both("crewai_crew.py", "crewai", job=TOOLS_ONCE),
    Case("qwen_agent_assistant.py", "qwen-agent", options=("text",)),
    Case("qwen_agent_assistant.py", "qwen-agent", options=("native",)),
    Case("mini_swe_agent.py", "mini-swe-agent", SHELL, ("tools",)),
    Case("mini_swe_agent.py", "mini-swe-agent", SHELL_TEXT, ("text",)),
    *both("nexau_agent.py", "nexau", "single", "chat", "structured"),
    *both("nexau_agent.py", "nexau", "single", "responses", "structured"),
    *both("nexau_agent.py", "nexau", "single", "anthropic", "structured"),
    # Its other APIs have no parameter for the strings that end a call in XML, and NexAU fails there by itself.
    *both("nexau_agent.py", "nexau", "single", "chat", "xml", job=XML),
    # Its compaction puts a note in place of what earlier tools returned.
    *both("nexau_agent.py", "nexau", "compacting", "chat", "structured", rewrites=2),
    *both("nexau_agent.py", "nexau", "team", "chat", "structured", job=DELEGATED, threads=3, named="lead"),
    *both("node_openai.cjs", "node"),
    Case("curl_agent.sh", job=SINGLE),
    Case("codex_cli.sh", "codex", CODEX),
    Case("claude_code.sh", "claude-code", CLAUDE_CODE),
]
