import msgspec
import pytest

from nexrl_trainer.policy.schedule import learning_rate
from nexrl_trainer.recipe.train import Train

LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj"]}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),  # (1 + cos(pi k / 4)) / 2
    ],
)
def test_the_learning_rate_rises_over_the_warm_up_and_falls_by_the_schedule(schedule, expected):
    config = Train(learning_rate=1.0, schedule=schedule, warmup_steps=2)
    assert [learning_rate(config, step, 6) for step in range(6)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranks": 2}, "backend=torch has no train.ranks: remove it, or set train.backend=fsdp or deepspeed"),
        ({"zero_stage": 3}, "backend=torch has no train.zero_stage: remove it, or set train.backend=deepspeed"),
        ({"offload_optimizer": True}, "backend=torch has no train.offload_optimizer"),
        ({"backend": "fsdp", "zero_stage": 3}, "backend=fsdp has no train.zero_stage"),
        ({"backend": "fsdp", "offload_optimizer": True}, "backend=fsdp has no train.offload_optimizer"),
        ({"backend": "fsdp", "lora": LORA}, "backend=fsdp has no train.lora: remove it, or set train.backend=torch"),
        ({"backend": "deepspeed", "lora": LORA}, "backend=deepspeed has no train.lora"),
    ],
)
def test_settings_that_the_chosen_backend_lacks_are_refused_by_name(settings, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(settings, Train)
