"""The quick start learns as it did when its band was recorded, synchronously and asynchronously."""

import json

import pytest
from quickstart_curve import BAND, SEEDS, band, outside, runs

pytestmark = pytest.mark.slow


@pytest.fixture
def recorded():
    return json.loads(BAND.read_text())


def test_three_seeds_of_the_quick_start_stay_in_the_recorded_band(tmp_path, recorded):
    moved = outside(runs(tmp_path), recorded)
    assert not moved, "\n".join(moved)


def test_the_asynchronous_quick_start_gets_as_far_as_the_synchronous_one(tmp_path, recorded):
    found = runs(tmp_path, "rollouts.max_staleness=1")
    moved = [line for line in outside(found, recorded) if line.startswith(("success_after", "reward_last", "drift"))]
    assert not moved, "\n".join(moved)


def test_a_number_that_left_its_band_is_named():
    found = [{"reward": 0.5 + seed / 100} for seed in SEEDS]
    assert outside(found, band(found)) == []
    found[1]["reward"] = 0.1
    assert outside(found, {"reward": [0.4, 0.6]}) == ["reward of seed 2: 0.1, recorded band 0.4 to 0.6"]
