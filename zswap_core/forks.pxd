"""What must be done at once in a forked child."""


cdef struct zsw_fork_watch:
    zsw_fork_watch *next
    # In the child, before fork() returns, in which only the thread that forked exists: nothing that
    # could wait for another.
    void (*in_child)(zsw_fork_watch *watch) noexcept nogil


cdef int watch_forks(zsw_fork_watch *watch) noexcept nogil
cdef void unwatch_forks(zsw_fork_watch *watch) noexcept nogil
