"""Requests: loads and stores that programs in C submit, and a thread of the engine's completes."""

import ctypes
import os
import random
import threading

import pytest

import hooks
import zswap
from hooks.faults import FOREVER, fault
from zswap import Status

CLOSED, NO_MEMORY, NO_REQUEST = -1001, -1002, -1008
COMPLETE, PENDING = 0, 1
LOAD, STORE, ZEROS = 0, 1, 1
PAGE = 4096


class Request(ctypes.Structure):
    """zswap_request of zswap/zswap.h."""


DONE = ctypes.CFUNCTYPE(None, ctypes.POINTER(Request))
Request._fields_ = [
    ("next", ctypes.c_void_p),
    ("done", DONE),
    ("data", ctypes.py_object),
    ("page", ctypes.c_void_p),
    ("offset", ctypes.c_uint64),
    ("area", ctypes.c_uint32),
    ("what", ctypes.c_uint32),
    ("flags", ctypes.c_uint32),
    ("status", ctypes.c_int32),
]


class Figures(ctypes.Structure):
    """zswap_figures, but for the counters behind these."""

    _fields_ = [("struct_size", ctypes.c_uint32), ("page_size", ctypes.c_uint32)] + [
        (name, ctypes.c_uint64)
        for name in (
            *("max_pool_bytes", "pool_total_size", "metadata_bytes", "compressed_bytes"),
            *("stored_pages", "same_filled_pages", "stored_incompressible_pages", "backed_pages"),
            *("loads", "load_misses", "backing_loads", "written_back_pages"),
            *("written_through_pages", "pool_limit_hit"),
        )
    ]


get = ctypes.pythonapi.PyCapsule_Import
get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
TABLE = (ctypes.c_void_p * 25).from_address(get(b"zswap_core.api.v1", 0) + 8)
OPEN = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(TABLE[0])
UNREF = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(TABLE[2])
SUBMIT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Request))(TABLE[21])
EVICT = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_uint64)(TABLE[22])
FIGURES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Figures))(TABLE[23])
STATUS_TEXT = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int)(TABLE[24])


class Engine:
    """A reference to a ZSwap, and what was submitted to it."""

    def __init__(self, z):
        self.z, self.reference, self.order, self.calls = z, OPEN(z), [], []
        self.completed = threading.Semaphore(0)
        self.done = DONE(self._done)

    def _done(self, request):
        call = request.contents.data
        self.order.append(call)
        if call.then is not None:
            call.then()
        call.completions += 1
        self.completed.release()

    def submit(self, what, offset, page=None, *, area=0, flags=0, then=None):
        return Call(self, what, offset, page, area, flags, then)

    def wait(self, n):
        """Until so many requests that were pending are complete."""
        for _ in range(n):
            assert self.completed.acquire(timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        UNREF(self.reference)


class Call:
    """One request, with its page."""

    def __init__(self, engine, what, offset, page, area, flags, then):
        self.room = ctypes.create_string_buffer(page or b"?", engine.z.page_size)
        self.completions, self.then = 0, then
        engine.calls.append(self)  # a request has to be there until it is complete
        self.request = Request(
            done=engine.done,
            data=self,
            page=ctypes.addressof(self.room),
            offset=offset,
            area=area,
            what=what,
            flags=flags,
            status=99,
        )
        self.rc = SUBMIT(engine.reference, self.request)

    @property
    def status(self):
        return self.request.status

    @property
    def page(self):
        return self.room.raw


def test_a_load_from_the_pool_is_complete_at_once(make_page):
    with zswap.ZSwap(max_pool_bytes="1MiB") as z, Engine(z) as e:
        z[7], z[8] = make_page(1), bytes(PAGE)
        found = e.submit(LOAD, 7)
        assert (found.rc, found.status, found.page) == (COMPLETE, Status.STORED, make_page(1))
        found = e.submit(LOAD, 8)
        assert (found.rc, found.status, found.page) == (COMPLETE, Status.SAME_FILLED, bytes(PAGE))
        assert [e.submit(LOAD, 9).rc, e.submit(LOAD, 9).status] == [COMPLETE, Status.ABSENT]
        found = e.submit(LOAD, 9, flags=ZEROS)
        assert (found.status, found.page) == (Status.SAME_FILLED, bytes(PAGE))
        assert e.submit(LOAD, 9, area=3, flags=ZEROS).status == Status.NO_AREA
        assert e.order == []


def test_a_store_is_completed_by_the_thread(make_page):
    with zswap.ZSwap(max_pool_bytes="1MiB") as z, Engine(z) as e:
        calls = [e.submit(STORE, n % 50, make_page(n)) for n in range(150)]
        assert {call.rc for call in calls} == {PENDING}
        e.wait(150)
        assert {call.status for call in calls} == {Status.STORED}
        assert e.order == calls
        assert [call.completions for call in calls] == [1] * 150
        assert dict(z) == {n: make_page(100 + n) for n in range(50)}
        refused = e.submit(STORE, 0, make_page(1), area=9)
        e.wait(1)
        assert refused.status == Status.NO_AREA
        z._validate()


def test_what_is_no_request_is_refused():
    with zswap.ZSwap(max_pool_bytes="1MiB") as z, Engine(z) as e:
        assert e.submit(2, 0).rc == NO_REQUEST
        request = Request(what=LOAD)
        assert SUBMIT(e.reference, request) == NO_REQUEST
        z.close()
        assert e.submit(LOAD, 0).rc == e.submit(STORE, 0).rc == CLOSED


class Held:
    """Keeps the thread in a `done`, so that what is submitted meanwhile is there all at once."""

    def __init__(self, e):
        self.there, self.go = threading.Event(), threading.Event()

        def then():
            self.there.set()
            assert self.go.wait(60)

        self.call = e.submit(STORE, 1 << 30, b"first", then=then)
        assert self.there.wait(60)


@pytest.mark.parametrize("flags", [{}, {"checksum": True}, {"wipe_on_free": True}], ids=str)
@pytest.mark.parametrize("page_size", [4096, 65536])
def test_loads_that_wait_are_read_together(memory_store, make_page, page_size, flags):
    store = memory_store()
    pages = {n: make_page(n, page_size) for n in range(40)}
    with (
        zswap.ZSwap(
            max_pool_bytes="16MiB", page_size=page_size, backing=store, promote="never", **flags
        ) as z,
        Engine(z) as e,
    ):
        z.store_many(list(pages), b"".join(pages.values()))
        assert z.shrink(40) == 40
        held = Held(e)
        store.reads.clear()
        calls = [e.submit(LOAD, n, flags=n % 2) for n in random.Random(1).sample(range(40), 40)]
        absent, zeros = e.submit(LOAD, 99), e.submit(LOAD, 99, flags=ZEROS)
        assert (absent.rc, absent.status, zeros.rc) == (COMPLETE, Status.ABSENT, COMPLETE)
        z.invalidate(7)  # while it waits
        held.go.set()
        e.wait(41)
        for call in calls:
            n = call.request.offset
            if n != 7:
                assert (call.status, call.page) == (Status.STORED, pages[n])
            elif n % 2:
                assert (call.status, call.page) == (Status.SAME_FILLED, bytes(page_size))
        assert len(store.reads) <= 2 + 40 * page_size // (1 << 20)
        assert max(map(len, store.reads)) >= min(30, (1 << 20) // page_size)
        z._validate()


def test_failing_reads_fail_alone(memory_store, make_page):
    store = memory_store()
    with zswap.ZSwap(max_pool_bytes="1MiB", backing=store, promote="never") as z, Engine(z) as e:
        for n in range(10):
            z[n] = make_page(n)
        assert z.shrink(10) == 10
        store.pages.pop(3)
        held = Held(e)
        calls = [e.submit(LOAD, n) for n in range(10)]
        held.go.set()
        e.wait(11)
        assert [call.status for call in calls] == [
            Status.BACKING_FAIL if n == 3 else Status.STORED for n in range(10)
        ]


def test_exclusive_loads(memory_store, make_page):
    with zswap.ZSwap(max_pool_bytes="1MiB", backing=memory_store()) as z, Engine(z) as e:
        z.parameters["exclusive_loads"] = True
        for n in range(4):
            z[n] = make_page(n)
        assert z.shrink(2) == 2
        held = Held(e)
        calls = [e.submit(LOAD, n % 4) for n in range(8)]
        held.go.set()
        e.wait(1 + sum(call.rc == PENDING for call in calls))
        got = [call.request.offset for call in calls if call.status >= 0]
        assert sorted(got) == [0, 1, 2, 3]
        assert all(c.page == make_page(c.request.offset) for c in calls if c.status >= 0)
        z._validate()


def test_close_completes_what_waits(make_page):
    z = zswap.ZSwap(max_pool_bytes="1MiB")
    with Engine(z) as e:
        held = Held(e)
        calls = [e.submit(STORE, n, make_page(n)) for n in range(100)]
        closing = threading.Thread(target=z.close)
        closing.start()
        while not z.closed:
            pass
        held.go.set()
        closing.join()
        assert {call.status for call in calls} == {CLOSED}
        assert [call.completions for call in calls] == [1] * 100
        assert held.call.status >= 0


def test_close_from_done_is_an_error_and_not_a_hang(make_page):
    found = []

    def then():
        try:
            z.close()
        except RuntimeError as error:
            found.append(str(error))

    with zswap.ZSwap(max_pool_bytes="1MiB") as z, Engine(z) as e:
        e.submit(STORE, 1, make_page(1), then=then)
        e.wait(1)
        assert len(found) == 1
        assert "from inside" in found[0]
        assert z[1] == make_page(1)


def test_done_may_submit_more(make_page):
    with zswap.ZSwap(max_pool_bytes="1MiB") as z, Engine(z) as e:
        calls = []

        def again():
            if len(calls) < 30:
                calls.append(e.submit(STORE, len(calls), make_page(len(calls)), then=again))

        again()
        e.wait(30)
        assert dict(z) == {n: make_page(n) for n in range(30)}


@pytest.mark.slow
@pytest.mark.usefixtures("whole_fork")
def test_a_forked_child_is_refused_and_the_parent_goes_on(make_page):
    with zswap.ZSwap(max_pool_bytes="1MiB") as z, Engine(z) as e:
        e.submit(STORE, 1, make_page(1))
        e.wait(1)
        pid = os.fork()
        if not pid:
            os._exit(0 if e.submit(STORE, 2, make_page(2)).rc == CLOSED else 1)
        assert os.waitpid(pid, 0)[1] == 0
        e.submit(STORE, 2, make_page(2))
        e.wait(1)
        assert sorted(z) == [1, 2]


def test_without_a_thread(make_page):
    with zswap.ZSwap(max_pool_bytes="1MiB") as z, Engine(z) as e:
        with fault("BATCH_THREAD", times=FOREVER):
            assert e.submit(STORE, 1, make_page(1)).rc == NO_MEMORY
        assert len(z) == 0
        assert e.submit(STORE, 1, make_page(1)).rc == PENDING
        e.wait(1)
        assert z[1] == make_page(1)


def test_without_memory_each_is_read_by_itself(memory_store, make_page):
    with zswap.ZSwap(max_pool_bytes="1MiB", backing=memory_store()) as z, Engine(z) as e:
        for n in range(10):
            z[n] = make_page(n)
        assert z.shrink(10) == 10
        held = Held(e)
        calls = [e.submit(LOAD, n) for n in range(10)]
        with fault("SCRATCH", times=FOREVER):
            held.go.set()
            e.wait(11)
        assert [call.page for call in calls] == [make_page(n) for n in range(10)]


def test_memory_is_counted(memory_store, make_page):
    with zswap.ZSwap(max_pool_bytes="1MiB", backing=memory_store()) as z, Engine(z) as e:
        for n in range(10):
            z[n] = make_page(n)
        z.shrink(10)
        before = z.stats().metadata_bytes
        held = Held(e)
        calls = [e.submit(LOAD, n) for n in range(10)]
        held.go.set()
        e.wait(11)
        assert {call.status for call in calls} == {0}
        assert z.stats().metadata_bytes >= before + (1 << 20)


@pytest.mark.parametrize("backing", ["packed", "plain", None])
def test_storm(tmp_path, make_page, backing):
    """One request an offset at a time, from several threads, beside writeback and a switch."""
    file = backing and zswap.SwapFile(tmp_path / "spill", size="8MiB", packed=backing == "packed")
    with zswap.ZSwap(max_pool_bytes="128KiB" if file else "1MiB", backing=file) as z:
        failures = []

        def work(number):
            rng = random.Random(number)
            with Engine(z) as e:
                held = {}
                for turn in range(40):
                    offsets = rng.sample(range(number * 100, number * 100 + 60), 20)
                    stores = [o for o in offsets if o not in held or rng.random() < 0.5]
                    calls = []
                    for o in offsets:
                        page = make_page(rng.randrange(1 << 20)) if o in stores else None
                        calls.append((o, page, e.submit(LOAD if page is None else STORE, o, page)))
                    e.wait(sum(call.rc == PENDING for *_, call in calls))
                    for o, page, call in calls:
                        if call.status < 0 or (page is None and call.page != held[o]):
                            failures.append((turn, o, call.status))
                        elif page is not None:
                            held[o] = page

        threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            z.shrink(7)
            z.compressor = "zstd" if z.compressor == "lz4" else "lz4"
        for thread in threads:
            thread.join()
        assert failures == []
        z._validate()


# ---- the rest of the table -----------------------------------------------------------------------


def test_figures_are_those_of_stats(memory_store, make_page):
    with zswap.ZSwap(max_pool_bytes="1MiB", backing=memory_store()) as z, Engine(z) as e:
        for n in range(30):
            z[n] = make_page(n)
        z[99] = bytes(PAGE)
        z.shrink(5)
        assert z[0] == make_page(0)
        assert z.get(1000) is None
        figures = Figures(ctypes.sizeof(Figures))
        assert FIGURES(e.reference, figures) == 0
        stats = z.stats()
        for name, _ in Figures._fields_[1:]:
            assert getattr(figures, name) == getattr(stats, name), name
        short = Figures(12, 1, 2, 3)
        assert FIGURES(e.reference, short) == 0
        assert (short.struct_size, short.page_size) == (12, PAGE)
        assert short.pool_total_size == 3
        z.close()
        assert FIGURES(e.reference, figures) == CLOSED


def test_evict(memory_store, make_page):
    with zswap.ZSwap(max_pool_bytes="1MiB", backing=memory_store()) as z, Engine(z) as e:
        for n in range(100):
            z[n] = make_page(n)
        z.shrink(1)  # its buffers are made by the first
        before = z.stats().resident_bytes
        freed = EVICT(e.reference, 64 << 10)
        assert freed >= 64 << 10
        assert freed == before - z.stats().resident_bytes
        assert 0 < z.stats().backed_pages < 100
        EVICT(e.reference, 1 << 63)
        assert z.stats().backed_pages == 100
        assert EVICT(e.reference, 1) == 0
        z.close()
        assert EVICT(e.reference, 1) == CLOSED


def test_every_code_has_a_text():
    for status in Status:
        assert STATUS_TEXT(status) == status.text.encode()
    texts = [STATUS_TEXT(code) for code in range(CLOSED, NO_REQUEST - 1, -1)]
    assert len(set(texts)) == len(texts) == 8
    for code in (4, min(Status) - 1, -100, -1000, NO_REQUEST - 1, 1 << 30, -(1 << 31)):
        assert STATUS_TEXT(code) == b"No function returns this."


def test_cffi_calls_what_the_header_declares(python):
    """Every declaration is one that cffi understands, too."""
    pytest.importorskip("cffi")
    file = hooks.ROOT / "examples" / "cffi_pages.py"
    if not file.exists():
        pytest.skip("the examples are not here")
    assert python(file.read_text()).startswith("1000 pages in ")


# ---- examples/requests_in_cython -----------------------------------------------------------------


@pytest.fixture(scope="module")
def example(build_example):
    """The module."""
    return build_example("requests_in_cython")


def test_an_engine_made_in_c(example, make_page, tmp_path):
    pages = b"".join(make_page(n) for n in range(600))
    back, waited, backed = example.round_trip(
        pages, max_pool_bytes=256 << 10, backing=str(tmp_path / "spill")
    )
    assert back == pages
    assert 0 < waited <= 600
    assert backed > 0
    assert example.round_trip(pages, max_pool_bytes=64 << 20) == (pages, 0, 0)


def test_an_engine_that_cannot_be_made(example, tmp_path):
    with pytest.raises(ValueError, match="max_pool_bytes"):
        example.round_trip(bytes(PAGE), max_pool_bytes=7)
    with pytest.raises(OSError, match="spill"):
        example.round_trip(
            bytes(PAGE), max_pool_bytes=1 << 20, backing=str(tmp_path / "none" / "spill")
        )
    with pytest.raises(OSError, match="limit"):
        example.round_trip(random.Random(1).randbytes(64 * PAGE), max_pool_bytes=4 * PAGE)
