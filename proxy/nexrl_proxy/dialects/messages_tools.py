"""Anthropic's tools and tool choice, as chat functions.

Pure. Tools that Anthropic's servers or models bring along have no definition a chat template could show: refused.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from nexrl_proxy.errors import ApiError, unsupported


class CustomTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool that the client runs."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    input_examples: list[dict[str, Any]] | None = None
    # Refused where they ask for something.
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None
    # Accepted: they do not change what the model is shown.
    type: str | None = None
    cache_control: Any = None
    strict: Any = None
    eager_input_streaming: Any = None


class ToolChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


def chat_tools(tools: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Return the tools as chat functions; raises ApiError naming the one that cannot be offered."""
    return [_function(_custom(tool, index), index) for index, tool in enumerate(tools or ())] or None


def must_call(choice: ToolChoice | None, tools: Sequence[dict[str, Any]] | None) -> str | None:
    """Return the tool that has to be called: "" for any of them, None for none. Raises ApiError."""
    kind = choice.type if choice else "auto"
    if kind not in ("auto", "any", "tool", "none"):
        raise unsupported("tool_choice", f"tool_choice.type {kind!r} is not known: use auto, any, tool or none")
    if choice is None or kind in ("auto", "none"):
        return None
    names = [tool["function"]["name"] for tool in tools or ()]
    if not names:
        raise ApiError(f"tool_choice.type {kind!r} needs tools: send `tools`, or leave it out", param="tool_choice")
    if kind == "tool" and choice.name not in names:
        raise ApiError(f"tool_choice.name is {choice.name!r}: use one of {', '.join(names)}", param="tool_choice")
    return choice.name if kind == "tool" else ""


def _custom(tool: dict[str, Any], index: int) -> CustomTool:
    kind = tool.get("type")
    if kind not in (None, "custom"):
        raise unsupported(
            "tools", f"tools[{index}] is of type {kind!r}: only custom tools (name, input_schema) are supported"
        )
    try:
        return msgspec.convert(tool, CustomTool)
    except msgspec.ValidationError as error:
        raise ApiError(f"tools[{index}]: {error}", param="tools") from error


def _function(tool: CustomTool, index: int) -> dict[str, Any]:
    if tool.defer_loading:
        raise unsupported("tools", f"tools[{index}].defer_loading is not supported: leave it out, the tool is shown")
    if tool.allowed_callers is not None and "direct" not in tool.allowed_callers:
        raise unsupported("tools", f"tools[{index}].allowed_callers: only 'direct' calls are supported")
    examples = {"examples": tool.input_examples} if tool.input_examples else {}
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": {**function, "parameters": {**tool.input_schema, **examples}}}
