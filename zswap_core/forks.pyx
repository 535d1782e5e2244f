"""What must be done at once in a forked child: a list of those who want to know.

Its lock is held while a fork is under way, so that the child finds the list whole and the lock its
own.
"""
from zswap_core.os cimport zsw_lock, zsw_mutex, zsw_unlock


cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil,
                       void (*child)() noexcept nogil)

cdef zsw_mutex lock
cdef zsw_fork_watch *watches = NULL
cdef bint watching = False


cdef void before_fork() noexcept nogil:
    zsw_lock(&lock)


cdef void after_fork_in_parent() noexcept nogil:
    zsw_unlock(&lock)


cdef void after_fork_in_child() noexcept nogil:
    cdef zsw_fork_watch *watch = watches
    while watch != NULL:
        watch.in_child(watch)
        watch = watch.next
    zsw_unlock(&lock)


cdef int watch_forks(zsw_fork_watch *watch) noexcept nogil:
    """0, or -errno where the system has no memory to remember that we want to know."""
    global watches, watching
    cdef int rc = 0
    zsw_lock(&lock)
    if not watching:
        rc = -pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child)
        watching = rc == 0
    if rc == 0:
        watch.next = watches
        watches = watch
    zsw_unlock(&lock)
    return rc


cdef void unwatch_forks(zsw_fork_watch *watch) noexcept nogil:
    """Nothing when it is not watched."""
    cdef zsw_fork_watch **link
    zsw_lock(&lock)
    link = &watches
    while link[0] != NULL and link[0] != watch:
        link = &link[0].next
    if link[0] != NULL:
        link[0] = watch.next
    zsw_unlock(&lock)
