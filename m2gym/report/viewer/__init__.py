"""Runs as one self-contained page: no network, no library, nothing untrusted that can run."""

from m2gym.report.viewer.data import ViewedRun, detail, row
from m2gym.report.viewer.page import live_page, static_page
from m2gym.report.viewer.renderers import renderer

__all__ = ["ViewedRun", "detail", "live_page", "renderer", "row", "static_page"]
