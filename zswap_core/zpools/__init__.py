"""Zpools: allocators of compressed pages, each a table of C functions (`zswap/abi.h`)."""
