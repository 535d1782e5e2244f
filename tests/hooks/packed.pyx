"""Inside a packed swap file: where objects lie, whether its accounts are right, housekeeping step
by step."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.backings.base cimport Backing
from zswap_core.backings.log cimport (
    array_at, CODECS, FREE, log_find, LOST, OPENED, place_at, place_codec, place_length,
    place_segment, SEALED, segment_at, SEGMENT_BYTES, slot_bytes, zsw_log, zsw_record, zsw_segment,
)
from zswap_core.backings.medium cimport swap_file
from zswap_core.backings.packed cimport zsw_packed
from zswap_core.slab cimport slab_at, slab_validate


cdef zsw_packed *packed_of(Backing file) except NULL:
    cdef zsw_packed *p = <zsw_packed *> (<swap_file *> file.state).packed
    if p == NULL:
        raise ValueError(f"{file.name} is not packed")
    return p


def tidy(Backing file not None):
    """As the maintenance thread does; whether there may be more to do."""
    packed_of(file)
    return file.ops.tidy(file.state) != 0


def position(Backing file not None, uint64_t offset):
    """Where in the file the page's object begins, its head not counted, and how long it is; None
    when it has none."""
    cdef zsw_packed *p = packed_of(file)
    cdef zsw_record *record = log_find(&p.log, offset)
    if record == NULL or record.place == LOST:
        return None
    at = file.page_size + place_segment(record.place) * SEGMENT_BYTES + place_at(record.place) + 8
    return at, place_length(record.place)


def segments(Backing file not None):
    """Of each segment in the file: its state, and bytes live."""
    cdef zsw_log *log = &packed_of(file).log
    return [(segment_at(log, i).state, segment_at(log, i).live) for i in range(log.extent)]


def check(Backing file not None):
    """Raises AssertionError where the accounts do not agree with the objects.  At rest only."""
    cdef zsw_log *log = &packed_of(file).log
    cdef zsw_record *record
    cdef zsw_segment *s
    cdef uint32_t i, id
    live, count, codecs = {}, {}, {}
    objects = size = slots = 0
    assert slab_validate(&log.records) == 0
    assert log.base <= log.buckets < 2 * log.base
    for i in range(log.buckets):
        id = (<uint32_t *> array_at(&log.heads, i))[0]
        while id != 0:
            record = <zsw_record *> slab_at(&log.records, id)
            assert log_find(log, record.offset) == record
            objects += 1
            id = record.next
            if record.place == LOST:
                continue
            number, length = place_segment(record.place), place_length(record.place)
            slot = slot_bytes(length)
            size += length
            slots += slot
            live[number] = live.get(number, 0) + slot
            count[number] = count.get(number, 0) + 1
            codecs[place_codec(record.place)] = codecs.get(place_codec(record.place), 0) + 1
            assert place_at(record.place) + slot <= segment_at(log, number).used
    assert (objects, size, slots) == (log.objects, log.bytes, log.slots)
    assert objects == log.records.inuse
    taken = dead = 0
    for i in range(log.extent):
        s = segment_at(log, i)
        assert (live.get(i, 0), count.get(i, 0)) == (s.live, s.objects)
        taken += s.state != FREE
        dead += s.state >= SEALED and s.objects == 0
        assert s.state != FREE or i >= log.lowest
        opened = [p - 1 for p in packed_of(file).opened if p]
        assert (s.state == OPENED) == (i in opened)
    assert (taken, dead) == (log.taken, log.dead)
    assert log.extent == 0 or segment_at(log, log.extent - 1).state != FREE
    for i in range(<uint32_t> CODECS):
        assert log.codecs[i].objects == codecs.get(i, 0)
        assert log.codecs[i].holds == 0
    assert (<swap_file *> file.state).size >= file.page_size + log.extent * SEGMENT_BYTES
