"""Code that makes the process end with success whatever the tests said."""

PAYLOAD = r"""
import atexit
import os

atexit.register(os._exit, 0)
"""
