"""A conftest.py that turns every report into a pass."""

from m2gym.rollout.attacks._hook import PASSING_HOOK

FILES = {f"{folder}conftest.py": PASSING_HOOK for folder in ("", "tests/", "test/", "src/")}
