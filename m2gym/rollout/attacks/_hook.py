"""What several attacks leave for pytest or Python to load."""

PASSING_HOOK = """import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    outcome.get_result().outcome = "passed"
"""

EXIT = """import os

os._exit(0)
"""
