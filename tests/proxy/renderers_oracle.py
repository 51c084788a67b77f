"""Run the `renderers` package in a process of its own, where it is installed, on what comes in on standard input.

Input: `{"tokenizer": PATH, "jobs": [{"messages", "tools"} or {"prompt", "completion", "new", "tools"}, ...]}`.
Output: for each job the ids of a whole rendering, or of the next turn's prompt, or null where it declines.
"""

import json
import sys
from typing import Any

from renderers.configs import Qwen3RendererConfig
from renderers.qwen3 import Qwen3Renderer
from tokenizers import Tokenizer


class Known:
    """A tokenizer as `renderers` expects one."""

    unk_token_id = None

    def __init__(self, path: str) -> None:
        self._tokenizer = Tokenizer.from_file(path)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: list[int] | int, **_: Any) -> str:
        return self._tokenizer.decode([ids] if isinstance(ids, int) else list(ids), skip_special_tokens=False)


def main() -> None:
    asked = json.load(sys.stdin)
    renderer = Qwen3Renderer(Known(asked["tokenizer"]), Qwen3RendererConfig(thinking_retention="all"))
    json.dump([answer(renderer, job) for job in asked["jobs"]], sys.stdout)


def answer(renderer: Qwen3Renderer, job: dict[str, Any]) -> list[int] | None:
    if "messages" in job:
        return renderer.render_ids(job["messages"], tools=job["tools"], add_generation_prompt=True)
    bridged = renderer.bridge_to_next_turn(job["prompt"], job["completion"], job["new"], tools=job["tools"])
    return bridged.token_ids if bridged else None


if __name__ == "__main__":
    main()
