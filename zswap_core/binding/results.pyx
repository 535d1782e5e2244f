"""The exceptions for what a call reports: the one table from status to exception."""
from libc.errno cimport EFBIG, ENOSPC
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.backings.base cimport Backing
from zswap_core.budget cimport budget_follows
from zswap_core.index cimport zsw_area
from zswap_core.lookup cimport area_at
from zswap_core.os cimport zsw_load_i64, zsw_peek_i64, zsw_peek_u64
from zswap_core.params cimport Flag, is_on
from zswap_core.status cimport Status

import os

from zswap_core.causes import recall
from zswap_core.errors import BackingError, Error, PageCorruptError, PoolLimitError
from zswap_core.status import Status as PyStatus


cdef class Held:
    """A compressor that pools may call."""


cdef class Handle:
    """An engine, and the objects of Python that it uses."""


cdef object compressor_error(Handle engine):
    """The exception behind this thread's last failure of a compressor, where it is one in
    Python; told once."""
    for held in list(engine.compressors.values()):
        error = recall((<Held> held).compressor)
        if error is not None:
            return error
    return None


cdef object backing_error(Handle engine, int rc, str what, uint32_t swap_type):
    cdef Backing store = engine.stores[swap_type]
    cause = recall(store) if store is not None else None
    remedy = ("free space on its file system or make the swap file smaller"
              if -rc in (ENOSPC, EFBIG) else "look at the device and the system log")
    error = BackingError(-rc, f"{what}: {cause or os.strerror(-rc)}; {remedy}")
    error.__cause__ = cause
    return error


cdef object error_for(int status, int rc, uint64_t offset, uint32_t swap_type, Handle engine):
    """The exception for one page that was refused: the one table from status to exception.  `rc` is
    what the backing store said, where it failed."""
    cdef zsw_area *area
    where = f"page at offset {offset}" + (f" of swap area {swap_type}" if swap_type else "")
    if status == Status.ABSENT:
        return KeyError(offset)
    if status == Status.NO_AREA:
        return ValueError(f"{where}: no such swap area, or the offset lies beyond its end")
    if status == Status.CORRUPT:
        error = PageCorruptError(f"{where} is damaged in memory: it does not decompress to what "
                                 "was stored; the entry is kept")
        error.__cause__ = compressor_error(engine)
        return error
    if status == Status.BACKING_CORRUPT:
        store = engine.stores[swap_type]
        of = f", {store.name}" if store is not None else ""
        return PageCorruptError(f"{where} is damaged in the backing store{of}: its "
                                "checksum is not that of what was written; it is kept there")
    if status == Status.POOL_LIMIT or status == Status.ACCEPT_THRESHOLD:
        pages = zsw_peek_u64(&engine.e.params.max_pages)
        budget = zsw_peek_u64(&engine.e.budget.bytes)
        if budget and pages < zsw_peek_u64(&engine.e.budget.pool_pages):
            of = ("what max_memory_bytes leaves it of the process's memory now"
                  if budget_follows(engine.e) else "its max_memory_bytes")
            return PoolLimitError(f"{where} refused: all that the engine takes is at {of} "
                                  f"({budget} bytes); invalidate pages, give a backing, or raise "
                                  "max_memory_bytes")
        limit = pages * engine.e.page_size
        why = ("the pool is at its limit" if status == Status.POOL_LIMIT
               else "the pool was at its limit and is still above the accept threshold")
        return PoolLimitError(f"{where} refused: {why} ({limit} bytes); invalidate pages or raise "
                              "max_pool_bytes")
    if status == Status.AREA_QUOTA:
        area = area_at(engine.e, swap_type)
        return PoolLimitError(f"{where} refused: swap area {swap_type} is at its quota "
                              f"({zsw_peek_i64(&area.quota)} bytes, of which its pages take "
                              f"{max(zsw_load_i64(&area.used), 0)}); invalidate pages of it, or "
                              f"raise the quota with set_quota({swap_type}, ...)")
    if status == Status.BACKING_FAIL:
        return backing_error(engine, rc, f"{where}: the backing store failed", swap_type)
    if status == Status.ALLOC_FAIL or status == Status.ENTRY_FAIL:
        return MemoryError(f"{where}: no memory")
    if status == Status.DISABLED:
        name = ("non_same_filled_pages_enabled" if is_on(&engine.e.params, Flag.enabled)
                else "enabled")
        return Error(f"{where} refused: the parameter {name!r} is off")
    if status == Status.COMPRESS_POOR:
        why = ("the parameter 'reject_compress_poor' is on"
               if is_on(&engine.e.params, Flag.reject_compress_poor)
               else f"the zpool {engine.zpool} holds no raw pages")
        return Error(f"{where} refused: it does not compress, and {why}")
    if status == Status.COMPRESS_FAIL:
        error = Error(f"{where}: the compressor {engine.compressor_.spec} failed")
        error.__cause__ = compressor_error(engine)
        return error
    text = PyStatus(status).text
    why = text.removeprefix("Refused: ")
    return Error(f"{where}: {text}" if why == text else f"{where} refused: {why}")
