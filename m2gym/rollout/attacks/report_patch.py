"""Every report that pytest makes says that the test passed."""

PAYLOAD = r"""
try:
    import _pytest.reports as _reports
except ImportError:
    pass
else:
    _init = _reports.TestReport.__init__

    def _lie(self, *args, **kwargs):
        _init(self, *args, **kwargs)
        self.outcome, self.longrepr = "passed", None

    _reports.TestReport.__init__ = _lie
"""
