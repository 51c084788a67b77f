"""One conversation in every dialect: chat messages in, the assistant's chat message out, as its clients would.

A tool is `{"name", "description", "parameters"}`.
"""

import json
from typing import Any

from proxy_world import World

Messages = list[dict[str, Any]]


class Said(dict[str, Any]):
    """An assistant message, and the id of the reply it came in."""

    response: str = ""
    finish: str = ""


async def ask(
    world: World, dialect: str, messages: Messages, *, tools: Messages | None = None, attempt: str = "a-1",
    agent: str | None = None, previous: str | None = None, **options: Any,
) -> list[Said]:  # fmt: skip
    """Return the choices of one request; `previous` says that the messages are only what is new since that reply."""
    path, body_of, read = DIALECTS[dialect]
    body = {"model": "m", **body_of(messages, tools), **options}
    if previous:
        body["previous_response_id"] = previous
    headers = {"x-nexrl-agent": agent} if agent else {}
    status, reply = await world.post(body, path=path, attempt=attempt, **headers)
    assert status == 200, reply
    said = read(reply)
    for one in said:
        one.response = reply["id"]
    return said


def chat_body(messages: Messages, tools: Messages | None) -> dict[str, Any]:
    shown = [{"type": "function", "function": tool} for tool in tools or ()]
    return {"messages": messages, **({"tools": shown} if shown else {})}


def chat_read(reply: dict[str, Any]) -> list[Said]:
    return [Said(choice["message"]) for choice in reply["choices"]]


def responses_body(messages: Messages, tools: Messages | None) -> dict[str, Any]:
    body: dict[str, Any] = {"input": []}
    for place, message in enumerate(messages):
        if message["role"] == "system" and place == 0:
            body["instructions"] = message["content"]
        elif message["role"] == "assistant":
            body["input"] += _items(message)
        elif message["role"] == "tool":
            told = {"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}
            body["input"].append(told)
        else:
            body["input"].append({"role": message["role"], "content": message["content"]})
    return body | ({"tools": [{"type": "function", **tool} for tool in tools]} if tools else {})


def _items(message: dict[str, Any]) -> Messages:
    items: Messages = []
    if reasoning := message.get("reasoning_content"):
        items.append({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": reasoning}]})
    if _text(message) or not message.get("tool_calls"):
        text = {"type": "output_text", "text": _text(message), "annotations": []}
        items.append({"type": "message", "role": "assistant", "content": [text]})
    for call in message.get("tool_calls") or ():
        items.append({"type": "function_call", "call_id": call["id"], **call["function"]})
    return items


def responses_read(reply: dict[str, Any]) -> list[Said]:
    said = Said(role="assistant", content=None)
    for item in reply["output"]:
        match item["type"]:
            case "reasoning":
                said["reasoning_content"] = "".join(part["text"] for part in item["content"])
            case "message":
                said["content"] = "".join(part["text"] for part in item["content"]) or None
            case "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                said.setdefault("tool_calls", []).append(
                    {"id": item["call_id"], "type": "function", "function": function}
                )
    return [said]


def messages_body(messages: Messages, tools: Messages | None) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [], "max_tokens": 512}
    for place, message in enumerate(messages):
        if message["role"] == "system" and place == 0:
            body["system"] = message["content"]
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        body["messages"].append({"role": role, "content": _blocks(message)})
    shown = [
        {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}
        for tool in tools or ()
    ]
    return body | ({"tools": shown} if shown else {})


def _blocks(message: dict[str, Any]) -> Messages:
    if message["role"] == "tool":
        return [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"]}]
    blocks: Messages = []
    if reasoning := message.get("reasoning_content"):
        blocks.append({"type": "thinking", "thinking": reasoning, "signature": ""})
    if text := _text(message):
        blocks.append({"type": "text", "text": text})
    for call in message.get("tool_calls") or ():
        given = json.loads(call["function"]["arguments"])
        blocks.append({"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": given})
    return blocks or [{"type": "text", "text": ""}]


def messages_read(reply: dict[str, Any]) -> list[Said]:
    said = Said(role="assistant", content=None)
    for block in reply["content"]:
        match block["type"]:
            case "thinking":
                said["reasoning_content"] = said.get("reasoning_content", "") + block["thinking"]
            case "text":
                said["content"] = (said["content"] or "") + block["text"] or None
            case "tool_use":
                function = {"name": block["name"], "arguments": json.dumps(block["input"])}
                said.setdefault("tool_calls", []).append({"id": block["id"], "type": "function", "function": function})
    return [said]


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


DIALECTS = {
    "chat": ("/v1/chat/completions", chat_body, chat_read),
    "responses": ("/v1/responses", responses_body, responses_read),
    "messages": ("/v1/messages", messages_body, messages_read),
}
