"""Locks of the Python level.

A thread of the parent may hold one at a fork, and in the child it will never let go.  So the child
gets them all anew: what they guard is whole whenever a thread can be stopped, or else left as it
was by one assignment.
"""
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (
    NOWAIT_LOCK, PY_LOCK_ACQUIRED, PyThread_acquire_lock, PyThread_allocate_lock,
    PyThread_free_lock, PyThread_get_thread_ident, PyThread_release_lock, PyThread_type_lock,
)

import os
import weakref


cdef extern from "pythread.h":
    # which tells when a signal has come
    int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long us, int intr) nogil


_all = weakref.WeakSet()


cdef class Lock:
    """A lock for ``with``, that is free in a forked child.

    Parameters
    ----------
    reentrant : bool, default False
        Whether the thread that has it may take it again.
    """

    def __cinit__(self, *, bint reentrant=False):
        self.reentrant = reentrant
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError("no memory for a lock")
        _all.add(self)

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cdef int take(self) except -1:
        """Waits for it, and for signals' handlers, which may raise."""
        cdef PyThread_type_lock lock = self.lock
        cdef int got
        if self.reentrant and self.depth and self.owner == PyThread_get_thread_ident():
            self.depth += 1
            return 0
        if not PyThread_acquire_lock(lock, NOWAIT_LOCK):
            while True:
                with nogil:
                    got = PyThread_acquire_lock_timed(lock, -1, 1)
                if got == PY_LOCK_ACQUIRED:
                    break
                PyErr_CheckSignals()
        self.owner = PyThread_get_thread_ident()
        self.depth = 1
        return 0

    cdef void give(self):
        self.depth -= 1
        if self.depth == 0:
            PyThread_release_lock(self.lock)

    def __enter__(self):
        self.take()

    def __exit__(self, kind, error, trace):
        self.give()

    cdef int renew(self) except -1:
        # Who holds the old one does not exist here, and a lock that is held cannot be freed.
        cdef PyThread_type_lock lock = PyThread_allocate_lock()
        if lock == NULL:
            raise MemoryError("no memory for a lock")
        self.lock = lock
        self.depth = 0
        return 0


def _renew():
    cdef Lock lock
    for lock in list(_all):
        lock.renew()


os.register_at_fork(after_in_child=_renew)
