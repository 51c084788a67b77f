"""Write down what the clients send: one file of request bodies per client, for tests that replay them.

    python record_traffic.py [WORDS IN A CASE'S NAME ...]

Runs the cases of `agent_cases.py` through a glass before the proxy. A line of `traffic/CASE.jsonl` is one request:
path, headers that carry meaning, body; in the order in which the requests came. Texts too long for a fixture are cut in
the middle, always in the same place, and what only this machine has (its folders, its kernel) is replaced.
"""

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from agent_cases import CASES, CLIENTS, Case
from agent_environments import command_of, rehearsed_model
from agents_glass import Exchange, Glass
from agents_world import World, world_of

from nexrl.keys import new_attempt_id

TRAFFIC = Path(__file__).with_name("traffic")
LONGEST_TEXT = 300
KEPT_AT_THE_END = 100
KEPT_HEADERS = ("user-agent", "anthropic-version", "anthropic-beta", "x-stainless-retry-count", "accept")


def line_of(exchange: Exchange, home: Path) -> str:
    """Return one request as a line of JSON; keys travel in headers that are left out."""
    headers = {name.lower(): value for name, value in exchange.headers.items()}
    kept = {name: headers[name] for name in KEPT_HEADERS if name in headers}
    body = shortened(json.loads(exchange.body), home) if exchange.body else None
    seen = {"method": exchange.method, "path": exchange.path, "headers": kept, "body": body, "status": exchange.status}
    return json.dumps(seen, ensure_ascii=False)


def shortened(value: Any, home: Path) -> Any:
    """Return a request's body without what is too long, or of this machine."""
    match value:
        case dict():
            return {name: shortened(item, home) for name, item in value.items()}
        case list():
            return [shortened(item, home) for item in value]
        case str():
            for found, shown in ((str(home), "/home/agent"), (platform.release(), "6.1.0"), (platform.version(), "#1")):
                value = value.replace(found, shown)
            start, end = LONGEST_TEXT - KEPT_AT_THE_END, len(value) - KEPT_AT_THE_END
            return value if len(value) <= LONGEST_TEXT else f"{value[:start]} [...] {value[end:]}"
        case _:
            return value


def show(text: str) -> None:
    print(text, flush=True)


def record(case: Case, world: World, glass: Glass, folder: Path) -> None:
    command, variables = command_of(CLIENTS / case.client, case.environment, show)
    for name, text in case.job.files.items():
        (folder / name).write_text(text)
    attempt = new_attempt_id(Path(case.client).stem)
    said = world.run([*command, *case.options, *case.job.tasks], attempt, folder, base=glass.url, **variables)
    assert said.code == 0, said.shown()
    lines = [line_of(exchange, folder) for exchange in glass.taken()]
    (TRAFFIC / f"{case}.jsonl").write_text("\n".join(lines) + "\n")
    show(f"{case}: {len(lines)} requests")


def main(*words: str) -> None:
    TRAFFIC.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        with world_of(rehearsed_model(show), folder / "world") as world, Glass(world.proxy) as glass:
            # What is streamed and what is not differs in a flag alone.
            chosen = [
                case for case in CASES if "plain" not in case.options and all(word in str(case) for word in words)
            ]
            for number, case in enumerate(chosen):
                home = folder / f"home-{number}"
                home.mkdir()
                record(case, world, glass, home)


if __name__ == "__main__":
    main(*sys.argv[1:])
