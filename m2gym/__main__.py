"""``python -m m2gym``: the same as the command ``m2gym``."""

from m2gym.cli import main

main()
