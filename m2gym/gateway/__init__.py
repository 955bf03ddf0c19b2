"""The HTTP skin over sessions: four dialects, and an episode's tools as an MCP server."""

from m2gym.gateway.access import Access
from m2gym.gateway.server import Gateway

__all__ = ["Access", "Gateway"]
