"""An agent that waits half its time: as long for its tool as for the model."""

import json
import os
import time
import urllib.request

QUESTION = {"role": "user", "content": "What is 23 + 45?"}


def ask(messages: list[dict[str, str]]) -> dict[str, str]:
    """Return the model's message."""
    body = {"model": "any", "messages": messages, "max_tokens": 48}
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"}
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as reply:
        return json.load(reply)["choices"][0]["message"]


messages: list[dict[str, str]] = [QUESTION]
for _ in range(3):
    began = time.monotonic()
    said = ask(messages)["content"] or ""
    time.sleep(time.monotonic() - began)
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Once more."}]
print(len(said))
