import pytest

from nexrl.records import Group, Task
from nexrl_ingest.client import GroupState
from nexrl_ingest.wire import RolloutState
from nexrl_trainer.rollouts.attempts import failure_of
from nexrl_trainer.rollouts.conversation import last_message
from nexrl_trainer.rollouts.planning import afresh
from nexrl_trainer.rollouts.runners.runner import Ended


def ended(**fields):
    return Ended(**{"exit_code": 0, "timed_out": False, "answer": "", "stderr": "", "duration_s": 1.0, **fields})


def test_why_an_attempt_failed_is_said_in_one_line():
    assert failure_of(ended(), 2, 60) is None
    assert failure_of(ended(timed_out=True), 2, 60) == "agent: no end within 60 s"
    assert failure_of(ended(exit_code=3), 2, 60) == "agent: exit code 3"
    trace = "Traceback ...\n  File x\n  y\nKeyError: 'x'\n"
    assert failure_of(ended(exit_code=1, stderr=trace), 2, 60) == "agent: exit code 1: File x | y | KeyError: 'x'"
    assert failure_of(ended(problem="KeyError: 'x'"), 2, 60) == "agent: KeyError: 'x'"
    assert "without a model call" in failure_of(ended(), 0, 60)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({"content": " 42\n"}, "42"),
        ({"content": [{"type": "text", "text": " 4"}, {"type": "text", "text": "2\n"}]}, "42"),
        ({"content": [{"type": "text", "text": None}, {"type": "image"}, {"type": "text", "text": "42"}]}, "42"),
        ({"content": None, "tool_calls": []}, ""),
    ],
)
def test_the_last_message_of_the_model_is_its_text(reply, said):
    call = {"id": "c", "parent": None, "messages": [{"role": "user", "content": "6*7?"}]}
    session = {"calls": [{**call, "reply": {"role": "assistant", **reply}}], "chains": [["c"]]}
    assert last_message(session) == said
    assert last_message({"calls": [], "chains": []}) == ""


def state(group, status):
    outcome = RolloutState(rollout=0, attempt="a", status=status, reason="", rewards={})
    return GroupState(id=group.id, task="t", mode="train", size=1, final=1, state="ready", outcomes=[outcome])


def test_a_step_that_failed_as_a_whole_is_planned_anew_and_any_other_goes_on():
    groups = [Group(id=name, run="r", task=Task(id="t", fields={}), size=1) for name in ("g", "h")]
    g, h = groups
    assert afresh(groups, {}) == groups
    assert afresh(groups, {"g": state(g, "failed")}) == groups
    assert afresh(groups, {"g": state(g, "failed"), "h": state(h, "completed")}) == groups
    again = afresh(groups, {"g": state(g, "failed"), "h": state(h, "failed")})
    assert [group.id for group in again] == ["g-again", "h-again"]
