"""What is asked and what is answered: agent prompts of 512 tokens, and completions of 128 tokens with logprobs.

Prompts are a system text, two tools and a user's text, as bodies of chat requests; every call puts a text of its own
where `NONCE` stands. Answers are bytes made beforehand, the same completions in each shape an engine speaks.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from transformers import PreTrainedTokenizerFast

from gateways.http import chunk, response
from gateways.model import prose
from gateways.wire import NONCE, Reply

PROMPT_TOKENS = 512
COMPLETION_TOKENS = 128
PROMPTS = 128
REPLIES = 16
MODEL = "policy"


class Workload(Struct, frozen=True, kw_only=True):
    """Files for the engine and the load, and what they hold."""

    prompts: Path
    """Bodies of chat requests, by kind of prompt: `new` shares nothing between calls, `shared` system text and tools.
    """
    replies: Path
    sizes: dict[str, int]
    """Tokens and bytes, for people to read."""


def make_workload(model: Path, directory: Path) -> Workload:
    """Write the workload for a model's tokenizer and template."""
    settings = json.loads((model / "tokenizer_config.json").read_text())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(model / "tokenizer.json"), chat_template=settings["chat_template"]
    )
    chance = random.Random(20)
    words = prose().split()
    prompts = {kind: [prompt(tokenizer, words, chance, kind) for _ in range(PROMPTS)] for kind in ("new", "shared")}
    eos = json.loads((model / "config.json").read_text())["eos_token_id"]
    replies = [reply(tokenizer, words, chance, eos, with_tool=bool(index % 2)) for index in range(REPLIES)]
    files = {"prompts": directory / "prompts.msgpack", "replies": directory / "replies.msgpack"}
    files["prompts"].write_bytes(msgspec.msgpack.encode(prompts))
    files["replies"].write_bytes(msgspec.msgpack.encode(replies))
    body = json.loads(prompts["new"][0])
    sizes = {
        "prompt tokens": len(encoded(tokenizer, body["messages"], body["tools"])),
        "request bytes": len(prompts["new"][0]),
        "/generate reply bytes": len(replies[0].generate),
        "/generate stream bytes, deltas": sum(map(len, replies[0].deltas)),
        "/generate stream bytes, cumulative": sum(map(len, replies[0].cumulative)),
        "OpenAI reply bytes": len(replies[0].chat),
        "OpenAI stream bytes": sum(map(len, replies[0].chat_chunks)),
    }
    return Workload(prompts=files["prompts"], replies=files["replies"], sizes=sizes)


def prompt(tokenizer: PreTrainedTokenizerFast, words: Sequence[str], chance: random.Random, kind: str) -> bytes:
    """Return the body of a chat request of 512 tokens."""
    fixed = random.Random(7) if kind == "shared" else chance
    mark = "" if kind == "shared" else f"{NONCE} "
    system = f"{mark}You are a careful agent. Use the tools. {passage(words, fixed, 60)}"
    tools = [tool(name, mark + passage(words, fixed, 12)) for name in ("search", "read_file")]
    text = passage(words, chance, 500).split()
    room = PROMPT_TOKENS - len(encoded(tokenizer, conversation(system, []), tools))
    fitting = bisect(len(text), lambda count: length(tokenizer, text[:count]) <= room)
    messages = conversation(system, text[:fitting])
    body = {"model": MODEL, "messages": messages, "tools": tools, "max_tokens": COMPLETION_TOKENS, "temperature": 1.0}
    return msgspec.json.encode(body)


def conversation(system: str, text: Sequence[str]) -> list[dict[str, Any]]:
    user = f"Ticket {NONCE}: {' '.join(text)}"
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def length(tokenizer: PreTrainedTokenizerFast, text: Sequence[str]) -> int:
    return len(tokenizer.encode(" ".join(text), add_special_tokens=False))


def encoded(tokenizer: PreTrainedTokenizerFast, messages: list[Any], tools: list[Any]) -> list[int]:
    rendered = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(str(rendered), add_special_tokens=False)


def bisect(most: int, fits: Any) -> int:
    """Return the largest count up to `most` that fits."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def tool(name: str, description: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What to look for."},
            "limit": {"type": "integer", "description": "How much of it at most."},
        },
        "required": ["query"],
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def passage(words: Sequence[str], chance: random.Random, count: int) -> str:
    start = chance.randrange(len(words) - count)
    return " ".join(words[start : start + count])


def reply(
    tokenizer: PreTrainedTokenizerFast, words: Sequence[str], chance: random.Random, eos: int, *, with_tool: bool
) -> Reply:
    """Return one completion in every shape; every second one ends with a tool call."""
    call = {"name": "search", "arguments": {"query": passage(words, chance, 6), "limit": 5}}
    text = f"\n<tool_call>\n{json.dumps(call)}\n</tool_call>" if with_tool else ""
    tail: list[int] = tokenizer.encode(text, add_special_tokens=False) if text else []
    head = tokenizer.encode(passage(words, chance, 200), add_special_tokens=False)
    said = head[: COMPLETION_TOKENS - 1 - len(tail)]
    ids = [*said, *tail, eos]
    logprobs = [-round(chance.expovariate(2.0), 6) - 1e-6 for _ in ids]
    chat = Chat(tokenizer, ids, logprobs, said=len(said), call=call if with_tool else None)
    return Reply(
        generate=response(generated(ids, logprobs, 0, len(ids))),
        cumulative=[event(generated(ids, logprobs, 0, count)) for count in range(1, len(ids) + 1)],
        deltas=[event(generated(ids, logprobs, count - 1, count)) for count in range(1, len(ids) + 1)],
        chat=response(chat.whole()),
        chat_chunks=[event(data) for data in chat.chunks()],
    )


def event(data: bytes) -> bytes:
    return chunk(b"data: " + data + b"\n\n")


def generated(ids: list[int], logprobs: list[float], first: int, count: int) -> bytes:
    """Return SGLang's `/generate` answer after `count` tokens, showing those from `first` on."""
    ended = {"type": "stop", "matched": ids[-1]} if count == len(ids) else None
    meta = {
        "id": "bench",
        "finish_reason": ended,
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": count,
        "cached_tokens": 0,
        "weight_version": "1",
        "output_token_logprobs": [[logprobs[place], ids[place], None] for place in range(first, count)],
    }
    return msgspec.json.encode({"text": "", "output_ids": ids[first:count], "meta_info": meta})


class Chat:
    """One completion as an OpenAI-compatible engine answers it, with logprobs and, as vLLM adds them, token ids."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        ids: list[int],
        logprobs: list[float],
        *,
        said: int,
        call: dict[str, Any] | None,
    ) -> None:
        self._head = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": MODEL}
        self._ids = ids
        self._texts = [str(tokenizer.decode([token])) for token in ids]
        self._logprobs = [
            {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
            for text, logprob in zip(self._texts, logprobs, strict=True)
        ]
        self._said = said if call else len(ids) - 1
        self._content = str(tokenizer.decode(ids[: self._said]))
        self._call = call
        self._finish = "tool_calls" if call else "stop"
        self._prompt = [(index * 7919) % 30_000 for index in range(PROMPT_TOKENS)]

    def whole(self) -> bytes:
        """Return the plain reply."""
        message: dict[str, Any] = {"role": "assistant", "content": self._content}
        if self._call:
            arguments = json.dumps(self._call["arguments"])
            function = {"name": self._call["name"], "arguments": arguments}
            message["tool_calls"] = [{"id": "call_bench", "type": "function", "function": function}]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": {"content": self._logprobs, "refusal": None},
            "finish_reason": self._finish,
            "token_ids": self._ids,
        }
        usage = {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": len(self._ids),
            "total_tokens": PROMPT_TOKENS + len(self._ids),
        }
        shown = {"object": "chat.completion", "choices": [choice], "usage": usage, "prompt_token_ids": self._prompt}
        return msgspec.json.encode(self._head | shown)

    def chunks(self) -> list[bytes]:
        """Return the stream's chunks, one per token."""
        return [self._chunk(place) for place in range(len(self._ids))]

    def _chunk(self, place: int) -> bytes:
        last = place == len(self._ids) - 1
        choice = {
            "index": 0,
            "delta": {} if last else self._delta(place),
            "logprobs": {"content": [self._logprobs[place]], "refusal": None},
            "finish_reason": self._finish if last else None,
            "token_ids": [self._ids[place]],
        }
        return msgspec.json.encode(self._head | {"object": "chat.completion.chunk", "choices": [choice]})

    def _delta(self, place: int) -> dict[str, Any]:
        if place < self._said:
            role = {"role": "assistant"} if place == 0 else {}
            return role | {"content": self._texts[place]}
        first = {"id": "call_bench", "type": "function"} if place == self._said else {}
        name = {"name": "search"} if first else {}
        return {"tool_calls": [{"index": 0, **first, "function": {**name, "arguments": self._texts[place]}}]}
