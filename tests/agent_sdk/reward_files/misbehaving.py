"""Reward functions with every fault that people's have."""

import asyncio
import ctypes
import os
import re
import signal
import sys
import time
from pathlib import Path

import nexrl


@nexrl.reward
def fine(task, answer):
    return float(task["n"] == 3 and answer == "four")


@nexrl.reward
def where(answer):
    return os.getpid()


@nexrl.reward
def raises(answer):
    return 1 / 0


@nexrl.reward
def nan(answer):
    return float("nan")


@nexrl.reward
def sys_exit(answer):
    sys.exit(0)


@nexrl.reward
def os_exit(answer):
    print("before")
    print("the end", flush=True)
    os._exit(7)


@nexrl.reward
def segfaults(answer):
    ctypes.string_at(0)


@nexrl.reward(timeout_s=0.3)
def hangs(answer):
    time.sleep(600)


@nexrl.reward(timeout_s=600)
def hangs_for_long(answer):
    if answer.startswith("/"):
        Path(answer).touch()
    time.sleep(600)


@nexrl.reward(timeout_s=0.3)
def hangs_in_c(answer):
    return bool(re.match(r"(a+)+$", "a" * 64 + "b"))


@nexrl.reward(timeout_s=0.3, run_in="process")
async def hangs_politely(answer):
    await asyncio.sleep(600)


@nexrl.reward(timeout_s=0.3)
def ignores_signals(answer):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        time.sleep(1)


@nexrl.reward
def closes_its_files(answer):
    os.closerange(3, 100)
    return 1


@nexrl.reward
def forks(answer):
    return 5.0 if os.fork() == 0 else 1.0


@nexrl.reward
def leaves_a_child(answer):
    child = os.fork()
    if child == 0:
        time.sleep(600)
    return child


@nexrl.reward(timeout_s=10)
def ends_before_its_child(answer):
    if os.fork() == 0:
        time.sleep(600)
    os._exit(8)


@nexrl.reward
def prints(answer):
    for _ in range(12):
        print("x" * 1_000_000)
    print("done")
    return 1.0


@nexrl.reward(timeout_s=0.3)
class SlowToMake:
    def __init__(self):
        time.sleep(0.4)
        self.asked = 0

    def score(self, answer):
        self.asked += 1
        return self.asked


@nexrl.reward
def sees_the_admin_key(answer):
    return "NEXRL_ADMIN_KEY" in os.environ
