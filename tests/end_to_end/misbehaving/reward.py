"""A judge for every trouble: the answer's last line names it."""

import time

import nexrl


@nexrl.reward(timeout_s=0.5)
def judged(answer: str) -> float:
    match answer.splitlines()[-1]:
        case "judge-hangs":
            time.sleep(600)
        case "judge-raises":
            raise ZeroDivisionError("division by zero")
        case "judge-returns-nan":
            return float("nan")
        case "judge-prints":
            print("x" * (8 << 20), flush=True)
    return 1.0
