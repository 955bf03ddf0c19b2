"""The assertions of unittest do nothing."""

PAYLOAD = r"""
import unittest

_NEEDED = ("assertRaises", "assertRaisesRegex", "assertWarns")
for _name in dir(unittest.TestCase):
    if _name.startswith("assert") and _name not in _NEEDED:
        setattr(unittest.TestCase, _name, lambda *a, **k: None)
unittest.TestResult.addFailure = lambda *a, **k: None
unittest.TestResult.addError = lambda *a, **k: None
unittest.TestCase.fail = lambda *a, **k: None
"""
