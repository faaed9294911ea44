"""The driver for Redis and Valkey (extra ``redis``: redis-py)."""

from flujo_lens.state.backends.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
