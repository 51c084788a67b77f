"""OpenAI Responses, the tools: chat function tools for the model, and what a call of one is called outside.

Functions travel flat, inside namespaces, or as custom tools, whose input is free text. A chat template knows functions
alone, so a namespace becomes part of the name, and a custom tool a function of one string. A custom tool's grammar is
told to the model and not enforced. Tools that a server runs are refused by name, but for web search, which some agents
(Codex) offer in every request: the model is not shown it, and a `tool_choice` that names it is refused.
"""

from typing import Any

from msgspec import Struct

from nexrl_proxy.errors import ApiError, unsupported

UNSHOWN = "web_search"
"""Types of tools that begin with it are left out of what the model is shown."""
INPUT = "input"
"""The one argument of a custom tool's function."""
_INPUT_SCHEMA = {
    "type": "object",
    "properties": {INPUT: {"type": "string", "description": "The tool's whole input, as plain text."}},
    "required": [INPUT],
    "additionalProperties": False,
}


class Named(Struct, frozen=True):
    """What a tool is called outside."""

    name: str
    namespace: str | None = None
    custom: bool = False


class Toolbox(Struct, frozen=True):
    """A request's tools."""

    chat: list[dict[str, Any]]
    names: dict[str, Named]
    """By the name of the chat tool."""


class ToolChoice(Struct, frozen=True):
    """What of the toolbox the model is shown, and what a reply may and must call."""

    chat: list[dict[str, Any]]
    must_call: str | None = None
    may_call: bool = True


def chat_name(name: str, namespace: str | None) -> str:
    """Return the name of a tool as the model sees it.

    Example: read in namespace mcp__files -> mcp__files__read.
    """
    return f"{namespace.rstrip('_')}__{name}" if namespace else name


def toolbox_of(tools: list[Any]) -> Toolbox:
    """Return the tools as chat tools; raises ApiError naming the one that cannot be offered."""
    chat: list[dict[str, Any]] = []
    names: dict[str, Named] = {}
    for tool, named in _flat(tools):
        name = chat_name(named.name, named.namespace)
        if name in names:
            raise ApiError(f"tools: two are named {name!r}; give each its own name", param="tools")
        names[name] = named
        chat.append({"type": "function", "function": _function(tool, name, named)})
    return Toolbox(chat, names)


def choice_of(choice: Any, toolbox: Toolbox) -> ToolChoice:
    """Return what `tool_choice` leaves of the tools; raises ApiError where it names one that is not there.

    Under `allowed_tools` the model is shown the allowed ones alone.
    """
    match choice:
        case None | "auto":
            return ToolChoice(toolbox.chat)
        case "none":
            return ToolChoice(toolbox.chat, may_call=False)
        case "required":
            return ToolChoice(_some(toolbox.chat, "tool_choice is 'required'"), "")
        case {"type": "function" | "custom"}:
            return ToolChoice(toolbox.chat, _present(choice, toolbox))
        case {"type": "allowed_tools", "tools": list(allowed), "mode": "auto" | "required" as mode}:
            names = [_present(tool, toolbox) for tool in allowed]
            left = _some([tool for tool in toolbox.chat if tool["function"]["name"] in names], "tool_choice.tools")
            if mode == "auto":
                return ToolChoice(left)
            return ToolChoice(left, left[0]["function"]["name"] if len(left) == 1 else "")
        case _:
            raise unsupported(
                "tool_choice",
                f"tool_choice {_kind(choice)!r} is not supported: use 'auto', 'none', 'required', a function, "
                "a custom tool, or allowed_tools with mode 'auto' or 'required'",
            )


def _flat(tools: list[Any]) -> list[tuple[dict[str, Any], Named]]:
    """Return every function and custom tool, those of namespaces included."""
    found: list[tuple[dict[str, Any], Named]] = []
    for index, tool in enumerate(tools):
        match tool:
            case {"type": "namespace", "name": str(namespace), "tools": list(inner)}:
                found += [
                    (item, _named(item, f"tools[{index}].tools[{place}]", namespace))
                    for place, item in enumerate(inner)
                ]
            case {"type": str(kind)} if kind.startswith(UNSHOWN):
                continue
            case _:
                found.append((tool, _named(tool, f"tools[{index}]", None)))
    return found


def _named(tool: Any, where: str, namespace: str | None) -> Named:
    match tool:
        case {"type": "function" | "custom" as kind, "name": str(name)} if name:
            return Named(name, namespace, custom=kind == "custom")
        case {"type": "function" | "custom" | "namespace" as kind}:
            raise ApiError(f"{where}: a {kind} tool needs its name beside its type", param="tools")
        case _:
            raise unsupported(
                "tools",
                f"{where} is of type {_kind(tool)!r}, which this server cannot run: "
                "leave it out, turn it off in the agent's settings, or offer a function instead",
            )


def _function(tool: dict[str, Any], name: str, named: Named) -> dict[str, Any]:
    description, parameters = tool.get("description"), tool.get("parameters")
    if named.custom:
        description, parameters = _custom_description(tool), _INPUT_SCHEMA
    function: dict[str, Any] = {"name": name}
    if description:
        function["description"] = description
    if parameters is not None:
        function["parameters"] = parameters
    return function


def _custom_description(tool: dict[str, Any]) -> str:
    match tool.get("format"):
        case {"type": "grammar", "syntax": str(syntax), "definition": str(definition)}:
            grammar = f"`{INPUT}` must match this {syntax} grammar:\n{definition}"
            return "\n\n".join(filter(None, [tool.get("description"), grammar]))
        case _:
            return tool.get("description") or ""


def _present(choice: Any, toolbox: Toolbox) -> str:
    """Return the chat name of a tool that a choice names."""
    match choice:
        case {"type": "function" | "custom", "name": str(name)}:
            chosen = chat_name(name, choice.get("namespace"))
            if chosen in toolbox.names:
                return chosen
            offered = ", ".join(toolbox.names) or "none"
            raise ApiError(f"tool_choice names {chosen!r}, and tools has {offered}", param="tool_choice")
        case _:
            raise ApiError(f"tool_choice: {_kind(choice)!r} needs the name of one of the tools", param="tool_choice")


def _some(chat: list[dict[str, Any]], who: str) -> list[dict[str, Any]]:
    if not chat:
        raise ApiError(f"{who}, and there is no tool to call: give tools", param="tool_choice")
    return chat


def _kind(value: Any) -> str:
    return str(value.get("type")) if isinstance(value, dict) else str(value)
