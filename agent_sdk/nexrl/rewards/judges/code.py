"""Judges of code: run it in the sandbox, against tests or against inputs with known outputs."""

import json
import re
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from nexrl.rewards.judges.sandbox import Ran, run_confined
from nexrl.rewards.returned import Verdict

TIMEOUT_S = 10.0
MEMORY_MIB = 1024
_FENCED = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_HARNESS = Path(__file__).with_name("harness.py")


def code_of(answer: str) -> str:
    """Return the last fenced block of an answer; all of it where nothing is fenced."""
    fenced = _FENCED.findall(answer)
    return fenced[-1] if fenced else answer


def passes_tests(
    answer: str,
    tests: Sequence[str],
    *,
    setup: str = "",
    timeout_s: float = TIMEOUT_S,
    memory_mib: int = MEMORY_MIB,
    network: bool = False,
) -> Verdict:
    """Return the share of tests that the answer's Python code passes, and the first problem.

    A test is a piece of Python that raises where it fails: `assert add(2, 3) == 5`. Those that are not reached in
    `timeout_s`, for all of them together, fail. Raises RewardError where the network cannot be kept from the code.

    Example: passes_tests("def add(a, b): return a - b", ["assert add(0, 0) == 0", "assert add(2, 3) == 5"])
        -> Verdict(0.5, "test 2: AssertionError: ")
    """
    if not tests:
        raise ValueError("tests=[]: there is nothing to pass; give at least one")
    token = secrets.token_hex(16)
    given = {"code": code_of(answer), "setup": setup, "tests": list(tests), "token": token}
    ran = run_confined(
        [sys.executable, "-I", str(_HARNESS)],
        files={},
        stdin=json.dumps(given),
        timeout_s=timeout_s,
        memory_mib=memory_mib,
        network=network,
    )
    reported = [line.split(" ", 2) for line in ran.stdout.splitlines() if line.startswith(f"{token} ")]
    problems = {int(index): json.loads(problem) for _, index, problem in reported}
    failed = [(index, problems.get(index, _end(ran))) for index in range(len(tests))]
    failed = [(index, problem) for index, problem in failed if problem]
    return Verdict(1 - len(failed) / len(tests), f"test {failed[0][0] + 1}: {failed[0][1]}" if failed else "")


def passes_programs(
    answer: str,
    cases: Sequence[tuple[str, str]],
    *,
    timeout_s: float = TIMEOUT_S,
    memory_mib: int = MEMORY_MIB,
    network: bool = False,
) -> Verdict:
    """Return the share of (input, expected output) cases for which the answer's Python program prints what it should.

    Each case is a run of its own, with `timeout_s` of its own; white space at ends of lines does not matter.

    Example: passes_programs("print(int(input()) * 2)", [("4", "8"), ("5", "11")]) -> Verdict(0.5, "case 2: ...")
    """
    if not cases:
        raise ValueError("cases=[]: there is nothing to pass; give at least one")
    failed: list[str] = []
    for number, (given, expected) in enumerate(cases, 1):
        ran = run_confined(
            [sys.executable, "-I", "solution.py"],
            files={"solution.py": code_of(answer)},
            stdin=given,
            timeout_s=timeout_s,
            memory_mib=memory_mib,
            network=network,
        )
        if ran.exit_code or ran.timed_out:
            failed.append(f"case {number}: {_end(ran)}")
        elif _lines(ran.stdout) != _lines(expected):
            failed.append(f"case {number}: it printed {ran.stdout[:100]!r}, not {expected[:100]!r}")
    return Verdict(1 - len(failed) / len(cases), failed[0] if failed else "")


def _end(ran: Ran) -> str:
    if ran.timed_out:
        return "no end in time"
    said = ran.stderr.strip().splitlines()
    return f"exit code {ran.exit_code}" + (f": {said[-1][:200]}" if said else "")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
