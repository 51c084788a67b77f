"""An agent without a framework, quick to start: two model calls, or whatever trouble its task asks for."""

import json
import os
import sys
import time
import urllib.request

messages = [{"role": "user", "content": "What is 2 + 3?"}]


def ask():
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps({"model": "any", "messages": messages, "max_tokens": 8}).encode(),
        {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        message = json.load(reply)["choices"][0]["message"]
    messages.append({"role": "assistant", "content": message["content"]})
    return message["content"] or ""


trouble = sys.argv[1]
if trouble == "silent":
    sys.exit(0)
ask()
if trouble == "crash":
    sys.exit("KeyError: 'price'")
if trouble == "hang":
    time.sleep(600)
messages.append({"role": "user", "content": "And once more?"})
print(trouble, ask())
