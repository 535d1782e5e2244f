"""A plug-in's table of functions, as somebody outside filled it (zswap/abi.h)."""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from zswap_core.abi cimport ZSW_ABI_VERSION


# What every table begins with.
cdef struct table_head:
    uint32_t abi_version
    uint32_t struct_size
    const char *name
    uint32_t flags


cdef int take_table(const void *table, str kind, size_t needed, void *whole,
                    size_t size) except -1:
    cdef const table_head *head = <const table_head *> table
    if head == NULL or head.abi_version != ZSW_ABI_VERSION or head.struct_size < needed:
        raise ValueError(f"the capsule's table is not of {kind} ABI version {ZSW_ABI_VERSION}")
    memset(whole, 0, size)
    memcpy(whole, table, min(<size_t> head.struct_size, size))
    (<table_head *> whole).struct_size = <uint32_t> size
    return 0


cdef int need_functions(const void *table, str kind, size_t first, size_t end) except -1:
    cdef size_t at
    for at in range(first, end, sizeof(void *)):
        if (<void *const *> (<const char *> table + at))[0] == NULL:
            raise ValueError(f"the capsule's table lacks a function that a {kind} must have: "
                             f"at offset {at}")
    return 0


cdef str table_name(const void *table):
    cdef const char *name = (<const table_head *> table).name
    if name == NULL:
        raise ValueError("the capsule's table has no name, and none was given")
    return name.decode()
