"""Conversations with tools, parallel calls and reasoning, had through the proxy and rendered anew at every turn."""

from pathlib import Path
from typing import Any

from families import Family, Reply
from proxy_world import World
from scripted_engine import Line
from tokenizers import Tokenizer

from nexrl_proxy.messages import normalised

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]
CALL = ("get_weather", {"city": "Paris", "days": 2})
OTHER = ("get_weather", {"city": 'São "Paulo"', "days": 1})
SYSTEM = {"role": "system", "content": "be brief"}
HELLO, THANKS, BYE = ({"role": "user", "content": text} for text in ("hello", "thank you\n", "and now?"))
SUNNY, COLD = ({"role": "tool", "content": text} for text in ("sunny", '{"degrees": -3}'))
Step = tuple[list[dict[str, Any]], Reply]
CONVERSATIONS: dict[str, list[Step]] = {
    "chat": [
        ([SYSTEM, HELLO], Reply(content="hello world")),
        ([THANKS], Reply(content="it is sunny")),
        ([BYE], Reply(content="the end")),
    ],
    "tools": [
        ([SYSTEM, HELLO], Reply(calls=[CALL])),
        ([SUNNY], Reply(content="it is sunny")),
        ([THANKS], Reply(calls=[OTHER])),
        ([COLD], Reply(content="it is cold")),
        ([BYE], Reply(content="the end")),
    ],
    "text beside calls": [([HELLO], Reply(content="I look.", calls=[CALL])), ([SUNNY], Reply(content="sunny"))],
    "parallel calls": [
        ([HELLO], Reply(calls=[CALL, OTHER])),
        ([SUNNY, COLD], Reply(content="sunny and cold")),
        ([BYE], Reply(content="the end")),
    ],
    "reasoning": [
        ([HELLO], Reply(reasoning="what is it?", content="it is sunny")),
        ([THANKS], Reply(reasoning="they thank", content="thank you")),
        ([BYE], Reply(reasoning="over", content="the end")),
    ],
    "reasoning and tools": [
        ([HELLO], Reply(reasoning="I look", calls=[CALL])),
        ([SUNNY], Reply(reasoning="once more", calls=[OTHER])),
        ([COLD], Reply(reasoning="I know", content="sunny and cold")),
        ([BYE], Reply(reasoning="over", content="the end")),
    ],
}


class Talk:
    """A conversation through the proxy, compared turn by turn with a full re-render."""

    def __init__(self, world: World, family: Family, directory: Path, tools: list[Any] | None) -> None:
        self.world, self.family, self.tools = world, family, tools
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.messages: list[dict[str, Any]] = []

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    async def turn(self, new: list[dict[str, Any]], reply: Reply, *, cut: bool = False) -> tuple[list[int], list[int]]:
        """Have one turn, perhaps cut short by its length; return the prompt's ids and those of a full rendering."""
        last = self.messages[-1] if self.messages else {}
        ids = [call["id"] for call in last.get("tool_calls", [])]
        named = [{**m, "tool_call_id": ids.pop(0)} if m["role"] == "tool" else m for m in new]
        self.messages += named
        written = self.family.write(reply, new[-1]["role"] == "tool") + ("" if cut else self.family.ends(reply))
        finish = {"type": "length", "length": 9} if cut else {"type": "stop"}
        self.world.engine.script = lambda _: Line(ids=self.ids(written), finish=finish)
        options = {"tools": self.tools} if self.tools else {}
        answer = await self.world.chat(self.messages, **options)
        rendered = self.ids(self.family.render(normalised(self.messages), self.tools))
        self.messages.append(self.read_right(answer["choices"][0]["message"], reply))
        return self.world.engine.requests[-1]["input_ids"], rendered

    def read_right(self, message: dict[str, Any], reply: Reply) -> dict[str, Any]:
        """Return the message the agent got, having compared it with what the model meant."""
        [plain] = normalised([message])
        read = Reply(
            content=plain["content"],
            reasoning=message.get("reasoning_content", ""),
            calls=[(c["function"]["name"], c["function"]["arguments"]) for c in plain.get("tool_calls", [])],
        )
        assert read == reply
        return message
