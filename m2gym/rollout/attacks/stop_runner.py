"""The process that runs the tests is stopped for ever."""

SLOW = True

PAYLOAD = r"""
import os
import signal

if "_pytest" in __import__("sys").modules:
    os.kill(os.getppid(), signal.SIGSTOP)
"""
