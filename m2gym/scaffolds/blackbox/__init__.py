"""Agents seen only through their requests: programs that speak a model provider's protocol.

Two methods make one (`contract.BlackBox`): ``install`` gives the mounts its box needs, ``launch``
says how it is started against a base URL. `running` does the rest, the same for all.
"""
