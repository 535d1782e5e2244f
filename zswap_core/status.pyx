# cython: language_level=3
"""The status codes, as Python sees them."""
