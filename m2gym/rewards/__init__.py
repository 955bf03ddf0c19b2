"""Artifacts judged: reward functions, how they combine, the verifier and its test runner."""

from m2gym.rewards.combine import combine
from m2gym.rewards.functions import check_rewards, reward
from m2gym.rewards.grading import Grading
from m2gym.rewards.repository_tests import tests_fraction, tests_pass
from m2gym.rewards.shaping import PotentialShaping
from m2gym.rewards.verifier import grade

__all__ = [
    "Grading",
    "PotentialShaping",
    "check_rewards",
    "combine",
    "grade",
    "reward",
    "tests_fraction",
    "tests_pass",
]
