"""Imported code that leaves with success."""

PAYLOAD = r"""
import sys

sys.exit(0)
"""
