"""Compressors: tables of C functions (`zswap/abi.h`), bound at run time to the libraries that work.

`registry` turns a name into a `Compressor`; `base` is what one is; `lz4`, `zstd`, `deflate` and
`lzo` each fill a table from one library, `lref` from C of our own, `adapter` from two Python
callables; `dictionary` makes dictionaries for zstd.
"""
