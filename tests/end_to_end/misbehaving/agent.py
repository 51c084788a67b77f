"""An agent for every trouble: it makes a call, then does what its task names, and prints the name."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def ask(key=None):
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        b'{"model": "any", "messages": [{"role": "user", "content": "Well?"}]}',
        {"Authorization": f"Bearer {key or os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]


def ignore_sigterm():
    ask()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def leave_children():
    ask()
    subprocess.Popen(SLEEPER)
    subprocess.Popen(SLEEPER, start_new_session=True)
    # A daemon as daemons are made: its parent is gone, its session its own, the pipes still open.
    if not os.fork():
        os.setsid()
        if not os.fork():
            time.sleep(600)
        os._exit(0)
    os.wait()


def shout():
    ask()
    for _ in range(int(sys.argv[2])):
        sys.stdout.write("x" * ((1 << 20) - 1) + "\n")


def call_often():
    for _ in range(int(sys.argv[2])):
        ask()


def use_anothers_key():
    ask()
    own = os.environ["OPENAI_API_KEY"]
    name, _, signature = own.removeprefix("nxr-").rpartition(".")
    for key in (f"nxr-{name}-not.{signature}", own[:-1] + ("A" if own[-1] != "A" else "B")):
        try:
            ask(key)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
        else:
            sys.exit("it was let in")


def crash():
    ask()
    raise KeyError("price")


TROUBLES = {
    "ignores-sigterm": ignore_sigterm,
    "leaves-children": leave_children,
    "shouts": shout,
    "calls-often": call_often,
    "uses-anothers-key": use_anothers_key,
    "crashes": crash,
    "makes-no-call": lambda: None,
}
TROUBLES.get(sys.argv[1], ask)()
print(sys.argv[1])
