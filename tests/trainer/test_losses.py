import math

import pytest
import torch

from nexrl_trainer.algorithms.clip import Clip
from nexrl_trainer.algorithms.losses import clipped_policy_loss, clipped_share, k3

CLIP = Clip(low=0.2, high=0.3)


def loss(ratio, advantage):
    current = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    value = clipped_policy_loss(current, torch.zeros(1, dtype=torch.float64), torch.tensor([advantage]), CLIP)
    value.sum().backward()
    return value.item(), current.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),  # on policy: the gradient of the plain policy gradient
        (1.2, 2.0, -2.4, -2.4),  # within the bound
        (1.5, 2.0, -2.6, 0.0),  # better and already likelier than the bound: no push
        (0.5, 2.0, -1.0, -1.0),  # better but less likely: pushed up
        (0.5, -2.0, 1.6, 0.0),  # worse and already rarer than the bound: no push
        (1.5, -2.0, 3.0, 3.0),  # worse and likelier: pushed down
    ],
)
def test_the_clipped_loss_and_its_gradient_match_worked_numbers(ratio, advantage, value, gradient):
    assert loss(ratio, advantage) == pytest.approx((value, gradient))


def test_a_token_counts_as_clipped_exactly_where_its_gradient_vanished():
    current = torch.tensor([1.0, 1.5, 0.5, 0.5, 1.5]).log()
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    assert clipped_share(current, torch.zeros(5), advantages, CLIP).tolist() == [0, 1, 0, 1, 0]


def test_k3_is_zero_on_policy_and_positive_elsewhere():
    values = k3(torch.tensor([0.0, math.log(2), math.log(0.5)]), torch.zeros(3))
    assert values.tolist() == pytest.approx([0, 2 - 1 - math.log(2), 0.5 - 1 + math.log(2)])
