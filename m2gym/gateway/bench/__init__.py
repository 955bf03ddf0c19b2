"""How fast the gateway is, beside other proxies in the same run (``m2gym bench gateway``)."""

from m2gym.gateway.bench.compare import run

__all__ = ["run"]
