"""NexRL's step: `python -m training.ours FOLDER`."""

import sys
from pathlib import Path

from nexrl.records import Float32s, Int32s
from nexrl_trainer.algorithms.objective import Clip, Objective
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.policy.service import Optimizer
from nexrl_trainer.policy.torch_backend import TorchBackend
from nexrl_trainer.recipe.train import Train
from training.rounds import serve
from training.workload import (
    CLIP_HIGH,
    CLIP_LOW,
    GRAD_CLIP,
    LEARNING_RATE,
    SAMPLED,
    Rollout,
    read_group,
    trained,
)


def datum(rollout: Rollout, weight: float) -> Datum:
    """Return a rollout as the train service eats it."""
    before = [0] * len(rollout.prompt)
    mask = before + rollout.mask
    return Datum(
        ids=Int32s(rollout.prompt + rollout.completion),
        loss_mask=Int32s(mask),
        logprobs=Float32s([SAMPLED * flag for flag in mask]),
        temperatures=Float32s([1.0] * len(mask)),
        weight_versions=Int32s([flag - 1 for flag in mask]),
        advantages=Float32s([rollout.advantage * flag for flag in mask]),
        weights=Float32s([weight * flag for flag in mask]),
        session="",
    )


def main(folder: Path) -> None:
    """Serve steps on the group in the folder."""
    group = read_group(folder)
    datums = [datum(item, 1 / trained(group)) for item in group]
    backend = TorchBackend(folder / "model", Train(device="cpu"))
    objective = Objective(clip=Clip(low=CLIP_LOW, high=CLIP_HIGH))
    optimizer = Optimizer(learning_rate=LEARNING_RATE, betas=(0.9, 0.999), weight_decay=0.0, grad_clip=GRAD_CLIP)

    def step() -> float:
        sums = backend.forward_backward(datums, objective)
        backend.optim_step(optimizer)
        return sums["loss"]

    serve(step)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
