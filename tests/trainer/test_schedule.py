import msgspec
import pytest

from nexrl_trainer.policy.schedule import learning_rate
from nexrl_trainer.recipe.tree import Train


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
        ({"ranks": 2}, "train.ranks=2 is the deepspeed backend's"),
        ({"zero_stage": 3}, "train.zero_stage=3 is the deepspeed backend's"),
        ({"offload_optimizer": True}, "train.offload_optimizer=True is the deepspeed backend's"),
        ({"backend": "deepspeed", "lora": {"rank": 4, "alpha": 8, "targets": ["q_proj"]}}, "train.lora is the torch"),
    ],
)
def test_settings_that_the_chosen_backend_lacks_are_refused_by_name(settings, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(settings, Train)
