"""Run tests of a Python program inside the sandbox: `python harness.py`. A script of the standard library alone.

Reads {"code", "setup", "tests", "token"} from standard input and writes a line `TOKEN index problem` per test. The
token comes with the input and is gone before the program runs, so that printing cannot pass a test.
"""

import json
import os
import sys


def main() -> None:
    given = json.loads(sys.stdin.read())
    report = os.fdopen(os.dup(1), "w", buffering=1)
    # What the program prints is not the report.
    os.dup2(2, 1)
    space: dict[str, object] = {"__name__": "solution"}
    broken = problem_of(given["setup"], space) or problem_of(given["code"], space)
    for index, test in enumerate(given["tests"]):
        problem = f"the code: {broken}" if broken else problem_of(test, space)
        report.write(f"{given['token']} {index} {json.dumps(problem)}\n")


def problem_of(code: str, space: dict[str, object]) -> str:
    """Return what a piece of code raises, in a line; empty where it runs to its end."""
    try:
        exec(compile(code, "solution.py", "exec"), space)  # noqa: S102 - that is what it is for
    except BaseException as error:  # noqa: BLE001 - sys.exit passes no test
        return f"{type(error).__name__}: {error}"[:200]
    return ""


if __name__ == "__main__":
    main()
