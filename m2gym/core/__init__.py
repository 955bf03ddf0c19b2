"""Words and contracts every other room speaks: tasks, verdicts, trajectories, protocols, registry.

Nothing here imports another room of m2gym.
"""
