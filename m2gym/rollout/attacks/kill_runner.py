"""The process that runs the tests is killed from within."""

PAYLOAD = r"""
import os
import signal

if "PYTEST_CURRENT_TEST" in os.environ or "_pytest" in __import__("sys").modules:
    os.kill(os.getppid(), signal.SIGKILL)
"""
