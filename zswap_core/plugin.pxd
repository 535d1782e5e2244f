"""A plug-in's table of functions, as somebody outside filled it (zswap/abi.h)."""


# Checks the table and copies it into `whole`, of `size` bytes; what its author did not know is NULL
# there.
cdef int take_table(const void *table, str kind, size_t needed, void *whole,
                    size_t size) except -1
# Raises unless every function from one offset to another is there.
cdef int need_functions(const void *table, str kind, size_t first, size_t end) except -1
cdef str table_name(const void *table)
