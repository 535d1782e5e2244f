"""Libraries of others, bound at run time.

`find` knows the places where each may be, `bind` opens one; `checksums` and `ciphers` are functions
of such libraries.
"""
