"""The library that `zswap run` has programs load: plain C, no module of Python's."""
