"""The type-stable, id-addressed table; what it promises is in table.pxd."""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from zswap_core.os cimport zsw_lock, zsw_map, zsw_unlock, zsw_unmap


cdef size_t directory_bytes(const zsw_table *table) noexcept nogil:
    return ((<size_t> table.limit + TABLE_BLOCK - 1) >> TABLE_BLOCK_SHIFT) * sizeof(uint8_t *)


cdef size_t block_bytes(const zsw_table *table) noexcept nogil:
    return <size_t> TABLE_BLOCK * table.stride


cdef int table_init(zsw_table *table, uint32_t stride, uint32_t limit) noexcept nogil:
    memset(table, 0, sizeof(zsw_table))
    table.stride = stride
    table.limit = limit
    table.next = 1
    table.blocks = <uint8_t **> zsw_map(directory_bytes(table))
    return 0 if table.blocks != NULL else -ENOMEM


cdef void table_destroy(zsw_table *table) noexcept nogil:
    cdef size_t i
    if table.blocks == NULL:
        return
    for i in range(((<size_t> table.next - 1) >> TABLE_BLOCK_SHIFT) + 1):
        zsw_unmap(table.blocks[i], block_bytes(table))
    zsw_unmap(table.blocks, directory_bytes(table))
    table.blocks = NULL


cdef int table_get(zsw_table *table, uint32_t *id) noexcept nogil:
    cdef uint8_t *block
    cdef int rc = 0
    zsw_lock(&table.lock)
    if table.returned != 0:
        id[0] = table.returned
        table.returned = (<uint32_t *> table_at(table, id[0]))[0]
    elif table.next == table.limit:
        rc = -ENOMEM
    else:
        if table.blocks[table.next >> TABLE_BLOCK_SHIFT] == NULL:
            block = <uint8_t *> zsw_map(block_bytes(table))
            table.blocks[table.next >> TABLE_BLOCK_SHIFT] = block
            rc = 0 if block != NULL else -ENOMEM
        if rc == 0:
            id[0] = table.next
            table.next += 1
    if rc == 0:
        table.used += 1
    zsw_unlock(&table.lock)
    return rc


cdef void table_put(zsw_table *table, uint32_t id) noexcept nogil:
    zsw_lock(&table.lock)
    (<uint32_t *> table_at(table, id))[0] = table.returned
    table.returned = id
    table.used -= 1
    zsw_unlock(&table.lock)


cdef size_t table_bytes(zsw_table *table) noexcept nogil:
    cdef size_t ids
    zsw_lock(&table.lock)
    ids = table.next
    zsw_unlock(&table.lock)
    return ids * table.stride + (((ids - 1) >> TABLE_BLOCK_SHIFT) + 1) * sizeof(uint8_t *)


cdef int table_check(zsw_table *table) noexcept nogil:
    cdef uint32_t seen = 0
    cdef uint32_t id
    cdef int rc = 0
    zsw_lock(&table.lock)
    id = table.returned
    while id != 0 and seen < table.next:
        seen += 1
        if id >= table.next:
            rc = -301
            break
        id = (<uint32_t *> table_at(table, id))[0]
    if rc == 0 and seen + table.used + 1 != table.next:
        rc = -302
    zsw_unlock(&table.lock)
    return rc
