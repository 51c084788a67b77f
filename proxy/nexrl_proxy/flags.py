"""The flags of `nexrl proxy`, in the groups that its help shows: what each is called, takes and does.

Defaults, and what becomes of a value, are `serve.py`'s.
"""

from pathlib import Path
from typing import Annotated

import typer

from nexrl.keys import ENGINE_KEY_VARIABLE
from nexrl_proxy.engines.kinds import KINDS
from nexrl_proxy.parsers.choose import REASONING_PARSERS, TOOL_PARSERS

ENGINES, REPLIES, CALLERS, PROCESS = "Engines and models", "Prompts and replies", "Who may call", "The service"

Engine = Annotated[
    str,
    typer.Option(help="Base URLs of the engines, http://HOST:PORT, separated by commas.", rich_help_panel=ENGINES),
]
EngineKind = Annotated[
    str,
    typer.Option(
        help=f"What serves there: {', '.join(KINDS)}. The embedded engine speaks sglang. openai is any server with "
        f"/v1/chat/completions: recorded, but not exact, so not trained. A key is read from {ENGINE_KEY_VARIABLE}.",
        rich_help_panel=ENGINES,
    ),
]
EngineModel = Annotated[
    str | None,
    typer.Option(
        help="The name an openai engine has for the model.", show_default="the client's", rich_help_panel=ENGINES
    ),
]
ProcessedLogprobs = Annotated[
    bool,
    typer.Option(
        "--processed-logprobs",
        help="vLLM was started with --logprobs-mode processed_logprobs.",
        rich_help_panel=ENGINES,
    ),
]
Model = Annotated[
    Path | None,
    typer.Option(
        help="Model directory: tokenizer.json, chat template, config.json; no weights needed. "
        "Not used with --engine-kind openai.",
        rich_help_panel=ENGINES,
    ),
]
ServedModel = Annotated[
    str | None,
    typer.Option(help="Name listed by /v1/models.", show_default="the model directory's name", rich_help_panel=ENGINES),
]
Policies = Annotated[
    Path | None,
    typer.Option(
        help="More models that learn, asked for by their names, each with engines of its own of the same kind: a JSON "
        'file {"critic": {"engine": "http://HOST:PORT", "model": "its directory"}}.',
        rich_help_panel=ENGINES,
    ),
]
Models = Annotated[
    Path | None,
    typer.Option(
        help="Other models, answered by other servers and never trained, asked for by their names: a JSON file "
        '{"judge": {"url": "https://HOST/v1", "model": "its name there", "key_variable": "JUDGE_KEY"}}. '
        "A key is read from the environment variable that is named.",
        rich_help_panel=ENGINES,
    ),
]

ToolParser = Annotated[
    str, typer.Option(help=f"{', '.join(TOOL_PARSERS)}; auto: from the chat template.", rich_help_panel=REPLIES)
]
ReasoningParser = Annotated[
    str, typer.Option(help=f"{', '.join(REASONING_PARSERS)}; auto: from the chat template.", rich_help_panel=REPLIES)
]
Sampling = Annotated[
    str,
    typer.Option(
        help="Sampling parameters to force, or to use where a request says nothing, as JSON by mode: "
        '{"train": {"force": {"temperature": 1.0}}, "eval": {"default": {"top_p": 0.9}}}.',
        rich_help_panel=REPLIES,
    ),
]
History = Annotated[
    str,
    typer.Option(
        help="append: earlier turns stay as they were sampled. template: the chat template renders them anew, and "
        "a chain ends where that changes them.",
        rich_help_panel=REPLIES,
    ),
]

RequireSession = Annotated[
    bool,
    typer.Option("--require-session", help="Refuse calls that name no attempt (401).", rich_help_panel=CALLERS),
]
RequireKey = Annotated[
    bool,
    typer.Option(
        "--require-key",
        help="Refuse calls without an attempt key (401). Without: who reaches the port may sample for any session.",
        rich_help_panel=CALLERS,
    ),
]
MaxBodyMb = Annotated[int, typer.Option(help="Largest request body, MiB.", min=1, rich_help_panel=CALLERS)]
RequestsPerMinute = Annotated[
    int | None,
    typer.Option(
        help="Most requests a session may make a minute (429).",
        min=1,
        show_default="no limit",
        rich_help_panel=CALLERS,
    ),
]

Host = Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=PROCESS)]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", rich_help_panel=PROCESS)]
Ingest = Annotated[str, typer.Option(help="Where spans go: the base URL of `nexrl ingest`.", rich_help_panel=PROCESS)]
Data = Annotated[
    Path,
    typer.Option(help="Directory for spans not yet delivered, and for the admin key.", rich_help_panel=PROCESS),
]
Workers = Annotated[
    int,
    typer.Option(
        help="Processes that share the port; all calls of a session go to the same one.",
        min=1,
        rich_help_panel=PROCESS,
    ),
]
DrainS = Annotated[
    float,
    typer.Option(
        help="Seconds that running requests have to end after SIGTERM or SIGINT, while nobody new is let in; "
        "a second signal ends them at once.",
        min=0,
        rich_help_panel=PROCESS,
    ),
]
ExitWithParent = Annotated[
    bool,
    typer.Option("--exit-with-parent", help="Stop when standard input closes.", rich_help_panel=PROCESS),
]
