"""Exceptions of tests are thrown away before they are reported."""

PAYLOAD = r"""
try:
    import _pytest.runner as _runner
except ImportError:
    pass
else:
    _from_call = _runner.CallInfo.from_call.__func__

    def _lie(cls, func, when, reraise=None):
        info = _from_call(cls, func, when, reraise)
        info.excinfo = None
        return info

    _runner.CallInfo.from_call = classmethod(_lie)
"""
