"""The only place where Python objects, buffers and exceptions meet the engine."""

from zswap_core.binding.engine import COUNTER_NAMES, FLAGS, LATENCY_BOUNDS, Engine

__all__ = ["COUNTER_NAMES", "FLAGS", "LATENCY_BOUNDS", "Engine"]
