# cython: language_level=3
"""The switches' names, as Python sees them."""
