"""The public methods with all sorts of arguments, against a dict: offsets of every type and shape,
pages in every buffer."""

import array

import numpy as np
from common import PAGE, Data, page_of

import zswap

REFUSALS = (ValueError, TypeError, KeyError, zswap.Error)
ODD = (-1, 1 << 47, 1 << 63, 1 << 64, -(1 << 63), 1.5, None, "3", True, b"\0", (), float("nan"))
SPECS = ("lz4", "lz4:9", "lz4hc:1", "zstd:1", "zstd:-3", "lref", "lref:2", "nothing", "lz4:x", "")
ZPOOLS = ("zsmalloc", "zbud", "z3fold", "zsmalloc-kernel", "zsmalloc:2", "nothing")
VALUES = (
    True,
    False,
    0,
    1,
    -1,
    50,
    101,
    None,
    "Y",
    "n",
    "12",
    "1MiB",
    1.5,
    1 << 70,
    "lz4",
    "zbud",
    [],
    object(),
)


class Store:
    """A backing store in memory, which fails when told."""

    def __init__(self):
        self.pages, self.failing = {}, False

    def write_pages(self, offsets, pages):
        if self.failing:
            raise OSError(5, "failing")
        self.pages.update(zip(offsets.tolist(), (page.tobytes() for page in pages), strict=True))

    def read_pages(self, offsets, out):
        if self.failing:
            raise OSError(5, "failing")
        for i, offset in enumerate(offsets.tolist()):
            out[i] = np.frombuffer(self.pages[offset], np.uint8)


def offset_of(data):
    """An offset; mostly a good one."""
    near, far = data.number(0, 40), data.number(0, 3) << data.number(0, 46)
    return (
        data.pick(ODD)
        if data.number(0, 31) == 31
        else min(near + far, (1 << 47) - 1)
        if near
        else far & (1 << 47) - 1
    )


def buffer_of(data, pages):
    """The bytes in some kind of buffer; now and then one that will not do.  And whether it will."""
    kind = data.number(0, 11)
    if kind == 0:
        return bytearray(pages), True
    if kind == 1:
        return memoryview(pages), True
    if kind == 2:
        return np.frombuffer(pages, np.uint64), True
    if kind == 3:
        return np.frombuffer(b"x" + pages, np.uint8)[1:], True  # not aligned
    if kind == 4:
        return array.array("H", pages), True
    if kind == 5:
        return np.frombuffer(pages, np.uint8).reshape(-1, 64), True
    if kind == 6:
        return np.frombuffer(pages + pages, np.uint8)[::2], not pages  # not contiguous
    if kind == 7:
        return pages[: data.number(0, max(len(pages) - 1, 0))], not pages
    if kind == 8:
        return data.pick((None, 3, "text", [1, 2], pages + b"x")), False
    return pages, True


def offsets_of(data, offsets):
    """The offsets as an array, a list or something else; and whether they will do."""
    kind = data.number(0, 9)
    good = all(type(o) is int and 0 <= o < 1 << 47 for o in offsets)
    if kind == 0 and good:
        return np.array(offsets, np.int64), True
    if kind == 1 and good:
        return np.repeat(np.array(offsets, np.uint64), 2)[::2], True
    if kind == 2 and good and max(offsets, default=0) < 1 << 31:
        return np.array(offsets, np.int32), True
    if kind == 3 and good:
        return np.array(offsets, ">u8"), True
    if kind == 4:
        return data.pick(
            (None, 5, "offsets", np.zeros((2, 2), int), np.array([0.5]), [[1, 2], [3]])
        ), False
    return (tuple(offsets) if kind == 5 else offsets), good


class Drive:
    """One engine and the dict that it must equal."""

    def __init__(self, data):
        self.data, self.held = data, {}
        self.store_ = Store() if data.number(0, 1) else None
        self.z = zswap.ZSwap(
            data.pick(SPECS[:4]),
            data.pick(ZPOOLS[:5]),
            max_pool_bytes="8MiB",
            backing=self.store_,
            checksum=bool(data.number(0, 1)),
            shrinker_interval=3600.0,
            shrinker_enabled=False,
        )

    def store(self):
        data = self.data
        offset, page = offset_of(data), page_of(data)
        buffer, good = buffer_of(data, page)
        known = type(offset) in (int, bool) and 0 <= offset < 1 << 47
        try:
            self.z.store(offset, buffer)
            assert good, "it took a buffer that cannot be a page"
            self.held[int(offset)] = page
        except (ValueError, TypeError):
            assert not (good and known)
        except zswap.Error:
            self.held.pop(int(offset), None)

    def load(self):
        offset, known = offset_of(self.data), None
        try:
            out = self.data.pick(
                (
                    None,
                    None,
                    bytearray(PAGE),
                    bytes(PAGE),
                    np.zeros((2, PAGE // 2), np.uint8),
                    bytearray(5),
                )
            )
            found = self.z.load(offset, out)
            known = bytes(found if out is None else memoryview(out).cast("B"))
            assert self.held[int(offset)] == known
        except KeyError:
            assert offset not in self.held
        except (ValueError, TypeError):
            assert (
                type(offset) not in (int, bool)
                or not 0 <= offset < 1 << 47
                or type(out) is bytes
                or len(out) == 5
            )
        except zswap.BackingError:
            assert self.store_ is not None
            assert self.store_.failing

    def store_many(self):
        data = self.data
        offsets = [offset_of(data) for _ in range(data.number(0, 40))]
        pages = [page_of(data) for _ in offsets]
        buffer, good = buffer_of(data, b"".join(pages))
        given, known = offsets_of(data, offsets)
        threads = data.pick((1, 1, 1, 2, 3, 0, -1, 1 << 70, 1.5))
        try:
            status = self.z.store_many(given, buffer, threads=threads)
        except (ValueError, TypeError):
            return
        assert good, "it took what are no pages"
        assert known or all(type(o) in (int, bool) for o in offsets), given
        last = dict(zip(map(int, offsets), zip(pages, status.tolist(), strict=True), strict=True))
        # any of them may have won: store them once more
        if threads != 1 and len(last) < len(offsets):
            status = self.z.store_many(list(last), b"".join(page for page, _ in last.values()))
            last = {
                o: (page, code)
                for (o, (page, _)), code in zip(last.items(), status.tolist(), strict=True)
            }
        for offset, (page, code) in last.items():
            if code >= 0:
                self.held[offset] = page
            else:
                self.held.pop(offset, None)

    def load_many(self):
        data = self.data
        offsets = [
            o
            for o in (offset_of(data) for _ in range(data.number(0, 40)))
            if type(o) is int and 0 <= o < 1 << 47
        ]
        status = np.zeros(len(offsets) + (data.number(0, 15) == 15), np.int8)
        given, good = offsets_of(data, offsets)
        try:
            pages = self.z.load_many(given, status=status, threads=data.number(1, 3))
        except (ValueError, TypeError):
            assert not good or len(status) != len(offsets)
            return
        if good:
            for offset, page, code in zip(offsets, pages, status.tolist(), strict=True):
                assert code >= 0 or code == zswap.Status.BACKING_FAIL or offset not in self.held
                assert code < 0 or page.tobytes() == self.held[offset]

    def invalidate(self):
        offset = offset_of(self.data)
        try:
            assert self.z.invalidate(offset) == (self.held.pop(int(offset), None) is not None)
        except (ValueError, TypeError):
            assert type(offset) not in (int, bool) or not 0 <= offset < 1 << 47

    def invalidate_range(self):
        start, stop = offset_of(self.data), offset_of(self.data)
        try:
            freed = self.z.invalidate_range(start, stop)
        except (ValueError, TypeError):
            return
        gone = [o for o in self.held if start <= o < stop]
        assert freed == len(gone)
        for o in gone:
            del self.held[o]

    def look(self):
        offset = offset_of(self.data)
        if isinstance(offset, (tuple, float)) or offset is None:
            assert offset not in self.z
        else:
            assert (offset in self.z) == (type(offset) in (int, bool) and int(offset) in self.held)
        assert list(self.z) == sorted(self.held)
        assert len(self.z) == len(self.held)

    def parameter(self):
        key, value = self.data.pick([*self.z.parameters, "nothing"]), self.data.pick(VALUES)
        if key in (
            "max_pool_bytes",
            "max_pool_percent",
            "shrinker_interval",
            "exclusive_loads",
            "shrinker_enabled",
        ):
            return  # what a page becomes then is another drive's matter
        before = dict(self.z.parameters)
        try:
            self.z.parameters[key] = value
        except (ValueError, TypeError, KeyError):
            assert dict(self.z.parameters) == before, "a refused value changed something"

    def work(self):
        what = self.data.number(0, 5)
        if what == 0:
            self.z.compact()
        elif what == 1:
            self.z.shrink(self.data.number(0, 50))
        elif what == 2:
            self.z.recompress(self.data.pick(SPECS[:5]), max_pages=self.data.number(0, 50))
        elif what == 3 and self.store_ is not None:
            self.store_.failing = not self.store_.failing
        elif what == 4:
            self.z.compressor = self.data.pick(SPECS)
        else:
            self.z.zpool = self.data.pick(ZPOOLS)

    def steps(self):
        """What it chooses from."""
        return (
            self.store,
            self.load,
            self.store_many,
            self.load_many,
            self.invalidate,
            self.invalidate_range,
            self.look,
            self.parameter,
            self.work,
        )

    def run(self):
        """All steps, then everything once more."""
        steps = self.steps()
        while self.data.more():
            step = self.data.pick(steps)
            try:
                step()
            except REFUSALS:
                if step != self.work:
                    raise
        if self.store_ is not None:
            self.store_.failing = False
        assert {o: self.z[o] for o in self.z} == self.held
        self.z._validate()


def one_input(data):
    """Try one."""
    drive = Drive(Data(data))
    with drive.z:
        drive.run()
