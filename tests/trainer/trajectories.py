"""Trajectories for tests: rollouts of given rewards whose sequences have two untrained and some trained tokens."""

from nexrl.records import Float32s, Group, Int32s, Reward, Sequence, Task, TrainingGroup, Trajectory, Turn


def sequence(*, turns=1, trained=2, version=3, finish_reason="stop", altered=(), calls=None):
    """Lay out calls of one prompt token and `trained` sampled ones each, after one token more."""
    mask = [0, *([0] + [1] * trained) * turns]
    ids = calls or [f"c{index}" for index in range(turns)]
    starts = [2 + index * (trained + 1) for index in range(turns)]
    return Sequence(
        ids=Int32s(range(len(mask))),
        loss_mask=Int32s(mask),
        logprobs=Float32s([-0.5 * flag for flag in mask]),
        weight_versions=Int32s([version if flag else -1 for flag in mask]),
        temperatures=Float32s([1.0] * len(mask)),
        calls=list(ids),
        turns=[
            Turn(call=call, start=start, end=start + trained, finish_reason=finish_reason, altered=list(altered))
            for call, start in zip(ids, starts, strict=True)
        ],
    )


def trajectory(name, reward, *sequences, status="completed", rewards=()):
    total = [Reward(name="total", value=reward)] if status == "completed" else []
    return Trajectory(
        session=name,
        rollout=0,
        status=status,
        reason="",
        rewards=[*rewards, *total],
        sequences=list(sequences) or [sequence()],
        drift=[],
    )


def group(*trajectories):
    task = Task(id="t", fields={})
    return TrainingGroup(
        group=Group(id="g", run="r", task=task, size=len(trajectories)), trajectories=list(trajectories)
    )
