"""What calls leave behind and the last of them clears away: empty shards, tables that were
replaced, spare entries.

Calls find shards without a lock, so what is taken out of the index has to wait until every call
that was in flight then has ended.  Nobody sleeps for that.  The workers that are busy are marked,
and a call that gives a marked worker back looks whether it was the last: then it frees the garbage,
and condemns what came after in the same way.  The call that removes is at its own end too:
where it is the only one, it frees at once.

Should a call end in the very moment in which its worker is marked, the mark stays until the
worker's next call, or until anybody reaps, as compact() makes sure.  The garbage then waits a
little longer; nothing else does.
"""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.entries cimport give_spares, only_spares
from zswap_core.index cimport area_prune, index_pruned, index_turn, zsw_area
from zswap_core.lookup cimport area_at
from zswap_core.os cimport (
    zsw_cas_u32, zsw_lock, zsw_peek_u32, zsw_poke_u32, zsw_store_u32, zsw_swap_u32, zsw_unlock,
)
from zswap_core.state cimport GRACE_INDEX, MAX_AREAS, zsw_engine, zsw_worker
from zswap_core.worker cimport await_calls, calls_ended, first_worker


cdef void prune(zsw_engine *e) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t shards = 0
    cdef zsw_area *area
    for i in range(<uint32_t> MAX_AREAS):
        area = area_at(e, i)
        if area != NULL:
            shards += area_prune(&e.index, area)
    index_pruned(&e.index, shards)


cdef void collect_spares(zsw_engine *e, zsw_worker *own) noexcept nogil:
    """Takes the spare entries away from every worker that is not busy, so that the chunks they lie
    in can go."""
    cdef zsw_worker *w = first_worker(e)
    while w != NULL:
        if w == own:
            give_spares(e, w)
        elif zsw_peek_u32(&w.spares) and zsw_cas_u32(&w.busy, 0, 1):
            give_spares(e, w)
            zsw_store_u32(&w.busy, 0)
        w = w.next


cdef void reap(zsw_engine *e, zsw_worker *w) noexcept nogil:
    """Called at the end of a call, which holds no lock and looks at nothing any more but its
    worker."""
    zsw_lock(&e.reaping)
    zsw_poke_u32(&w.awaited[<int> GRACE_INDEX], 0)
    if zsw_swap_u32(&e.index.reap_due, 0):
        prune(e)
        if only_spares(e):
            collect_spares(e, w)
    while calls_ended(e, GRACE_INDEX) and index_turn(&e.index):
        await_calls(e, GRACE_INDEX)
        zsw_poke_u32(&w.awaited[<int> GRACE_INDEX], 0)          # ours has
    zsw_unlock(&e.reaping)
