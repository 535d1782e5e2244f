# cython: language_level=3
"""Memory pressure.

Two signs, either of which counts: tasks stalled on memory for more than a tenth of the time since the last look, by the
`some ... total=` microseconds of a PSI file (/proc/pressure/memory or the cgroup's memory.pressure; Linux's
Documentation/accounting/psi.rst has the format); or the cgroup uses more than 15/16 of its limit.  The binding says which
files; reading one costs a few microseconds once an interval.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport strtoull
from libc.string cimport strstr

from zswap_core.fault cimport fault, Site
from zswap_core.os cimport zsw_now_ns, zsw_read_text
from zswap_core.state cimport zsw_engine

cdef enum:
    TEXT_BYTES = 256


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
            and usage > e.usage_limit - e.usage_limit // 16)
