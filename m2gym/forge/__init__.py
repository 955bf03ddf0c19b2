"""Forge: reinforcement learning on agent trajectories, as pure algorithms.

Plain data and tensors in and out; no trainer, no engine, no framework. A researcher reads it in
this order, which is the order data flows::

    pool ──► window ──► advantages ──► tree, pack ──► attention ──► objectives ──► new weights
                          rewards                                                   curriculum

``import m2gym.forge`` loads nothing; import the module you need. ``docs/forge.md`` has the
pictures, sources and measured figures.
"""
