"""Whom an engine tells of pages that have left the pool: a callable of Python's."""
from cpython.exc cimport PyErr_SetInterrupt
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from zswap_core.binding.arguments cimport View, view_of
from zswap_core.interpreter cimport zsw_python_is_gone, zsw_stack_is_short

import numpy as np


cdef class Ear:
    """It is called by whichever thread wrote pages back, inside a call of the engine."""

    cdef int hear(self, uint32_t type, const uint64_t *offsets, size_t n) except -1:
        cdef View view
        callback = self.callback
        if callback is None:
            return 0
        try:
            array = np.empty(n, np.uint64)
            view = view_of(array, "offsets", n * sizeof(uint64_t), True)
            memcpy(view.buffer.buf, offsets, n * sizeof(uint64_t))
            callback(type, array)
        except BaseException as error:
            self.failures += 1
            engine = self.engine()
            if engine is not None:
                engine._deaf(error)
            if isinstance(error, KeyboardInterrupt):
                raise
        return 0


cdef void tell_ear(void *ear, uint32_t type, const uint64_t *offsets, size_t n) noexcept nogil:
    if zsw_python_is_gone() or zsw_stack_is_short():
        return
    with gil:
        try:
            (<Ear> ear).hear(type, offsets, n)
        except KeyboardInterrupt:               # who pressed Ctrl-C meant the program, not this
            PyErr_SetInterrupt()
        except BaseException:                   # a handler of the log's; nobody is there to be told
            pass
