"""Whether memory is short: what the kernel says of stalls, and how near the cgroup is to its
limit."""
from zswap_core.state cimport zsw_engine


cdef bint under_pressure(zsw_engine *e) noexcept nogil
