"""Imported code that ends the process at once, with success."""

PAYLOAD = r"""
import os

os._exit(0)
"""
