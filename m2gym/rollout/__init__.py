"""One episode and many: the driver, evaluations that survive a kill, and run folders."""

from m2gym.rollout.evaluation import evaluate, evaluate_async
from m2gym.rollout.run import Run, load_run

__all__ = ["Run", "evaluate", "evaluate_async", "load_run"]
