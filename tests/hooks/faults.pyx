"""Making the engine's fault sites fail.

A site fails at chosen times it is reached, in whichever engine and thread, until it is disarmed:

    with fault("SLAB_BLOCK"):                   # the first time
    with fault("BACKING_WRITE", nth=3, times=2, error=errno.ENOSPC):
    with fault("FILE_READ", times=FOREVER):
    with fault("FILE_WRITE", error=STOP):       # the process stops there

`hits` tells how often each site was reached meanwhile.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t

from contextlib import contextmanager

from zswap_core.fault cimport faults, faults_armed, SITES
from zswap_core.os cimport zsw_load_u32, zsw_store_u32

from zswap_core import fault as sites
from zswap_core.fault import Site

FOREVER = 1 << 30
STOP = sites.STOP               # an `error`: the process stops there


def names():
    """Names of all sites."""
    return [site.name for site in sorted(Site) if site.name != "SITES"]


def arm(name, nth=1, times=1, error=ENOMEM):
    """Make a site fail from the `nth` time it is reached, `times` times, with this error number.

    Counting begins anew for this site, and for all sites when none was armed.  A short transfer of
    a file is one of `error` bytes.
    """
    if nth < 1 or times < 0 or error < 0:
        raise ValueError("nth is 1 or more, times and error are not negative")
    cdef int site = Site[name]
    if site == <int> SITES:
        raise KeyError(name)
    if not faults_armed:
        for i in range(<int> SITES):
            faults[i].hits = 0
    faults[site].error = error
    zsw_store_u32(&faults[site].hits, 0)
    zsw_store_u32(&faults[site].first, nth)
    zsw_store_u32(&faults[site].end, min(nth + times, 0xffffffff))
    zsw_store_u32(&faults_armed, 1)


def disarm():
    """Let nothing fail any more.  The counts stay until something is armed again."""
    zsw_store_u32(&faults_armed, 0)
    for i in range(<int> SITES):
        zsw_store_u32(&faults[i].end, 0)


def hits():
    """How often each site that was reached was reached since the first was armed."""
    return {name: zsw_load_u32(&faults[<int> Site[name]].hits) for name in names()
            if zsw_load_u32(&faults[<int> Site[name]].hits)}


def injected():
    """How often each site has failed since it was armed; those alone that have."""
    failed = {}
    cdef uint32_t reached, first, end
    for name in names():
        reached, first, end = (zsw_load_u32(&faults[<int> Site[name]].hits),
                               faults[<int> Site[name]].first,
                               zsw_load_u32(&faults[<int> Site[name]].end))
        if first <= reached and end:
            failed[name] = min(reached + 1, end) - first
    return failed


@contextmanager
def fault(name, nth=1, times=1, error=ENOMEM):
    """Arm a site for a block; its value is a function that tells how often it has failed so far."""
    arm(name, nth, times, error)
    try:
        yield lambda: injected().get(name, 0)
    finally:
        disarm()
