"""What methods that run the model again cost, counted before they run."""

from __future__ import annotations

import pytest
import torch

from medcam import methods
from medcam.methods import Method
from medcam.trust.costs import replay_cost


@pytest.mark.parametrize(
    ("method", "cost"),
    [
        (methods.get("hirescam"), 0),
        (methods.occlusion(size=8), 1 + 16),
        (methods.get("rise", masks=20), 1 + 20),
        (methods.intgrad(steps=5), 5 * 4),
        (methods.expgrad(torch.zeros(3, 1, 32, 32), samples=12), 12 * 4),
        (methods.smoothgrad("gcam", samples=6), 6 * 4),
        (methods.smoothgrad(methods.intgrad(steps=5), samples=6), 6 * (4 + 20)),
        (methods.scorecam(channels=7), 7),
        (methods.ablationcam(channels=7), 1 + 7),
    ],
    ids=lambda value: value.name if isinstance(value, Method) else str(value),
)
def test_the_number_of_forward_passes(method, cost):
    assert replay_cost(method, torch.zeros(1, 1, 32, 32)) == cost


def test_a_method_of_the_users_may_need_a_volume_or_more_than_stand_ins():
    def of_volume(activations, score_without):
        return activations.amax((2, 3, 4)) + score_without(torch.zeros(2, dtype=torch.long)).sum()

    def fails(inputs, score_of):
        score_of(inputs)
        raise RuntimeError("no stand-ins, please")

    volume = torch.zeros(1, 1, 8, 8, 8)
    assert replay_cost(Method("mine", of_volume, "Mine"), volume) == 2
    assert replay_cost(Method("fails", fails, "Fails"), volume) == 1


def test_a_method_of_the_users_that_announces_nothing_is_counted_by_its_calls():
    def mine(inputs, score_of):
        scores = [score_of(inputs * share) for share in (0.2, 0.4, 0.6)]
        return torch.stack(scores).sum() + 0 * inputs

    assert replay_cost(Method("mine", mine, "Mine"), torch.zeros(1, 1, 8, 8)) == 3
