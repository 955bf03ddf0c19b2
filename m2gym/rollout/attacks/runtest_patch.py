"""Tests are not run; pytest is told that they were."""

PAYLOAD = r"""
try:
    import _pytest.python as _python
    import _pytest.unittest as _unittest
except ImportError:
    pass
else:
    _python.Function.runtest = lambda self: None
    _unittest.TestCaseFunction.runtest = lambda self: None
"""
