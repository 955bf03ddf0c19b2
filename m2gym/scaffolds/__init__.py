"""Agents: programs that act in an episode until they are satisfied. See README.md."""
