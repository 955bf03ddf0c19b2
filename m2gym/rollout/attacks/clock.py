"""The clock is changed, in the box and for the tests."""

SCRIPT = r"""
date -s '2001-01-01' 2>/dev/null; true
"""

PAYLOAD = r"""
import time

time.monotonic = time.time = time.perf_counter = lambda: 0.0
time.sleep = lambda seconds: None
"""
