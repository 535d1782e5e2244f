"""Lines of an access trace read into arrays, for `zswap replay`."""
from libc.stdint cimport uint8_t, uint64_t

from zswap_core.buffers cimport Items, items_of


cdef enum:
    PAGE_SHIFT = 12
    NO_DIGIT = 255

    READ = 0
    WRITE = 1
    FREE = 2
    UNKNOWN = 255


cdef inline bint is_blank(uint8_t c) noexcept nogil:
    return c == c" " or c == c"\t" or c == c"\r"


cdef inline uint8_t digit_of(uint8_t c) noexcept nogil:
    if c"0" <= c <= c"9":
        return c - c"0"
    c |= 32
    return c - c"a" + 10 if c"a" <= c <= c"f" else <uint8_t> NO_DIGIT


cdef bint number_of(const uint8_t *at, const uint8_t *end, uint8_t base,
                    uint64_t *value) noexcept nogil:
    """Whether all of it is a number that fits; 0x before it makes it hexadecimal."""
    cdef uint64_t n = 0
    cdef uint8_t digit
    if end - at > 2 and at[0] == c"0" and at[1] | 32 == c"x":
        base = 16
        at += 2
    if at == end:
        return False
    while at < end:
        digit = digit_of(at[0])
        if digit >= base or n > (<uint64_t> -1 - digit) // base:
            return False
        n = n * base + digit
        at += 1
    value[0] = n
    return True


cdef uint64_t hash_of(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """FNV-1a: names that are no numbers become some."""
    cdef uint64_t value = 0xcbf29ce484222325
    while at < end:
        value = (value ^ at[0]) * <uint64_t> 0x100000001b3
        at += 1
    return value


cdef uint8_t op_of(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """What is done, by its first letter: read, load, get, 0; write, store, set, put, 1; free,
    discard."""
    cdef uint8_t c
    if at == end:
        return READ
    c = at[0] | 32
    if c == c"r" or c == c"l" or c == c"g" or at[0] == c"0":
        return READ
    if c == c"f" or c == c"d":
        return FREE
    if c in (c"w", c"s", c"p", c"m", c"a", c"c", c"i") or at[0] == c"1":
        return WRITE
    return UNKNOWN


cdef const uint8_t *field_end(const uint8_t *at, const uint8_t *end, uint8_t delimiter,
                              const uint8_t **after) noexcept nogil:
    """Where the field ends that begins at `at`, and where the next one begins; NULL: there is
    none."""
    cdef const uint8_t *stop
    while at < end and (at[0] != delimiter if delimiter else not is_blank(at[0])):
        at += 1
    stop = at
    if delimiter:
        after[0] = at + 1 if at < end else NULL
    else:
        while at < end and is_blank(at[0]):
            at += 1
        after[0] = at if at < end else NULL
    return stop


cdef bint columns_line(const uint8_t *at, const uint8_t *end, uint8_t delimiter, int id_column,
                       int op_column, uint8_t base, bint names, uint64_t *page,
                       uint8_t *op) noexcept nogil:
    cdef const uint8_t *stop
    cdef const uint8_t *last
    cdef const uint8_t *after = at
    cdef int column = 0
    cdef bint found = False
    op[0] = READ
    while after != NULL:
        at = after
        stop = field_end(at, end, delimiter, &after)
        column += 1
        if column != id_column and column != op_column:
            continue
        last = stop
        while at < last and (is_blank(at[0]) or at[0] == c'"'):
            at += 1
        while at < last and (is_blank((last - 1)[0]) or (last - 1)[0] == c'"'):
            last -= 1
        if column == id_column:
            found = number_of(at, last, base, page)
            if not found and names and at < last:
                page[0] = hash_of(at, last)
                found = True
        else:
            op[0] = op_of(at, last)
            if op[0] == UNKNOWN:
                return False
    return found


cdef int lackey_line(const uint8_t *at, const uint8_t *end, uint64_t *page,
                     uint8_t *op) noexcept nogil:
    """How many pages it touches: 1 or 2; 0: it is an instruction or a message; -1: it is wrong."""
    cdef const uint8_t *comma
    cdef uint64_t first, size
    cdef uint8_t kind
    while at < end and is_blank(at[0]):
        at += 1
    if at == end or at[0] == c"=" or at[0] == c"-" or at[0] == c"*":
        return 0
    kind = at[0]
    if kind not in (c"I", c"L", c"S", c"M") or end - at < 3 or not is_blank(at[1]):
        return -1
    at += 1
    while at < end and is_blank(at[0]):
        at += 1
    comma = at
    while comma < end and comma[0] != c",":
        comma += 1
    while at < end and end > comma and is_blank((end - 1)[0]):
        end -= 1
    if (comma == end or not number_of(at, comma, 16, &first)
            or not number_of(comma + 1, end, 10, &size)):
        return -1
    if kind == c"I":
        return 0
    op[0] = op[1] = READ if kind == c"L" else WRITE
    page[0] = first >> PAGE_SHIFT
    page[1] = (first + max(size, <uint64_t> 1) - 1) >> PAGE_SHIFT
    return 1 + (page[1] == page[0] + 1)


def parse_lines(data, pages, ops, *, int delimiter=0, int id_column=1, int op_column=2,
                int base=10, bint names=False, bint lackey=False, bint final=False):
    """Read whole lines.

    Parameters
    ----------
    data : bytes
    pages, ops : arrays of uint64 and uint8
        Filled; they need room for half as many items as `data` has bytes, and two.
    delimiter : int
        A character's code; 0: blanks.
    id_column, op_column : int
        From 1; 0: there is none.
    base : int
        Of numbers without 0x.
    names : bool
        Whether what is no number is a name.
    lackey : bool
        Whether it is valgrind's.
    final : bool
        Whether the last line need not end.

    Returns
    -------
    count, used, lines, skipped : int
        Items filled in, bytes and lines read, lines that are no reference.
    bad : int
        Where in `data` a line is wrong, or -1.
    """
    cdef Items text = items_of(data, "data", 1)
    cdef Items page = items_of(pages, "pages", sizeof(uint64_t), writable=True)
    cdef Items op = items_of(ops, "ops", sizeof(uint8_t), writable=True)
    cdef const uint8_t *begin = <const uint8_t *> text.at
    cdef const uint8_t *limit = begin + text.count
    cdef const uint8_t *at = begin
    cdef const uint8_t *end
    cdef uint64_t *p = <uint64_t *> page.at
    cdef uint8_t *o = <uint8_t *> op.at
    cdef Py_ssize_t count = 0, lines = 0, skipped = 0, bad = -1
    cdef int found
    if page.count < text.count // 2 + 2 or op.count < page.count:
        raise ValueError("there is too little room in `pages` and `ops`")
    with nogil:
        while at < limit:
            end = at
            while end < limit and end[0] != c"\n":
                end += 1
            if end == limit and not final:
                break
            found = 0
            if lackey:
                found = lackey_line(at, end, p + count, o + count)
            else:
                while not delimiter and at < end and is_blank(at[0]):
                    at += 1
                if at < end and at[0] != c"#" and not (at[0] == c"\r" and at + 1 == end):
                    found = 1 if columns_line(at, end, <uint8_t> delimiter, id_column, op_column,
                                              <uint8_t> base, names, p + count,
                                              o + count) else -1
            if found < 0:
                bad = at - begin
                break
            count += found
            skipped += found == 0
            lines += 1
            at = end + 1
    return count, min(at - begin, text.count), lines, skipped, bad
