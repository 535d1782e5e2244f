"""Memory pressure.

Two signs, either of which counts: tasks stalled on memory for more than a tenth of the time since
the last look, by the `some ... total=` microseconds of a PSI file (/proc/pressure/memory or the
cgroup's memory.pressure; Linux's Documentation/accounting/psi.rst has the format); or the cgroup
uses more than 15/16 of its limit, the file pages not counted that its kernel would drop first
(`inactive_file` of memory.stat: a cgroup that reads files is always full of them).  The binding
says which files; reading one costs a few microseconds once an interval.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport strtoull
from libc.string cimport memcpy, strrchr, strstr

from zswap_core.fault cimport fault, Site
from zswap_core.os cimport zsw_now_ns, zsw_read_text
from zswap_core.state cimport PATH_BYTES, zsw_engine


cdef enum:
    TEXT_BYTES = 2048           # of memory.stat, `inactive_file` is in the first thousand


cdef bint read_number(const char *path, const char *after, uint64_t *number) noexcept nogil:
    """The number that follows the first occurrence of `after` in a small file."""
    cdef char text[TEXT_BYTES]
    cdef char *at
    cdef char *end
    if path[0] == 0 or fault(Site.PRESSURE_FILE) != 0 or zsw_read_text(path, text, TEXT_BYTES) <= 0:
        return False
    at = strstr(text, after)
    if at == NULL:
        return False
    while after[0]:
        after += 1
        at += 1
    number[0] = strtoull(at, &end, 10)
    return end != at


cdef uint64_t near_limit(zsw_engine *e) noexcept nogil:
    return e.usage_limit - e.usage_limit // 16


cdef uint64_t droppable(zsw_engine *e) noexcept nogil:
    """Bytes of the cgroup's use that its kernel takes back before anything that somebody would
    miss."""
    cdef char path[PATH_BYTES + 16]
    cdef char *name
    cdef uint64_t number
    memcpy(path, e.usage_path, PATH_BYTES)
    name = strrchr(path, c'/')
    if name == NULL:
        return 0
    memcpy(name + 1, b"memory.stat", 12)
    return number if read_number(path, b"inactive_file ", &number) else 0


cdef bint under_pressure(zsw_engine *e) noexcept nogil:
    cdef uint64_t usage, stall, now = zsw_now_ns(), stalled = 0, passed = now - e.stall_ns
    if read_number(e.psi_path, b"total=", &stall):
        if e.stall_ns:
            stalled = (stall - e.stall_us) * 1000
        e.stall_us = stall
        e.stall_ns = now
        if stalled > passed // 10:
            return True
    return (e.usage_limit != 0 and read_number(e.usage_path, b"", &usage)
            and usage > near_limit(e) and usage - min(usage, droppable(e)) > near_limit(e))
