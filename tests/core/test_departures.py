"""on_evict: who listens hears of each page that has left the pool for its store, afterwards, and
whatever it does no page is lost and nobody waits for ever."""

import gc
import os
import random
import signal
import threading
import weakref

import numpy as np
import pytest

import zswap
from hooks.faults import FOREVER, fault

PAGE = 4096


def noise(seed, size=PAGE):
    return random.Random(seed).randbytes(size)


@pytest.fixture
def make(engine, memory_store):
    """Make an engine with a backing store that nobody empties by himself."""

    def make(**kwargs):
        quiet = {"shrinker_interval": 86400, "shrinker_enabled": False}
        more = {"max_pool_bytes": "64MiB", "backing": memory_store()}
        return engine(**more | quiet | kwargs)

    return make


@pytest.fixture
def z(make):
    return make()


class Heard(list):
    """Writes down what it hears."""

    def __call__(self, swap_type, offsets):
        """Hear of pages."""
        assert offsets.dtype == np.uint64
        self.append((swap_type, offsets.tolist()))

    @property
    def pages(self):
        """All of them, in order."""
        return [(swap_type, o) for swap_type, offsets in self for o in offsets]


def shrink_often(z):
    for _ in range(100):
        z.shrink(10)


def fill(z, count, swap_type=0):
    for o in range(count):
        z.store(o, noise(o), swap_type=swap_type)


# ---- which pages, and when -----------------------------------------------------------------------


def test_it_hears_of_what_was_written_back(z, memory_store):
    z.swapon(3, backing=memory_store())
    heard = Heard()
    z.on_evict(heard)
    fill(z, 3)
    fill(z, 3, swap_type=3)
    z[3] = bytes(PAGE)
    assert z.shrink(4) == 4
    assert heard == [(0, [0, 1, 2]), (3, [0])]
    assert z.shrink(100) == 2
    assert heard[2:] == [(3, [1, 2])]
    z.on_evict(None)
    z[9] = noise(9)
    assert z.shrink(1) == 1
    assert len(heard) == 3


@pytest.mark.parametrize("how", ["shrink", "evict", "evict a range", "quota", "limit", "clean"])
def test_however_they_left(make, how):
    z = make(max_pool_bytes=40 * PAGE)
    heard = Heard()
    z.on_evict(heard)
    if how == "clean":
        z.parameters["promote"] = "always"
        fill(z, 20)
        z.shrink(20)
        for o in range(20):
            z.load(o)
        heard.clear()
    if how == "quota":
        z.set_quota(0, 10 * PAGE)
    if how != "clean":
        fill(z, 100 if how == "limit" else 30)
    if how == "shrink":
        z.shrink(7)
    elif how == "evict":
        z.evict(5 * PAGE)
    elif how == "evict a range":
        z.evict(range(7, 12))
    elif how == "clean":
        z.shrink(30)
    where = z.compressed_sizes(range(100))
    gone = [(0, int(o)) for o in np.flatnonzero(where == -2)]
    assert sorted(set(heard.pages)) == gone != []
    assert len(heard.pages) == z.stats().written_back_pages + z.stats().clean_evictions - (
        20 if how == "clean" else 0
    )


def test_a_page_has_left_when_it_hears(z):
    seen = []

    def hear(swap_type, offsets):
        seen.extend(z.compressed_sizes(offsets, swap_type=swap_type).tolist())
        seen.extend(z.load(o) == noise(o) for o in offsets.tolist())

    fill(z, 20)
    z.on_evict(hear)
    z.shrink(20)
    assert seen == [-2] * 20 + [True] * 20


def test_it_does_not_hear_of_what_stays_or_never_was_there(make):
    z = make(max_pool_bytes=0)
    heard = Heard()
    z.on_evict(heard)
    fill(z, 3)  # written through
    assert z.stats().written_through_pages == 3
    store = z.areas()[0]
    assert store.backed_pages == 3
    assert heard == []


def test_a_write_that_fails_is_no_departure(engine, memory_store):
    store = memory_store()
    z = engine(backing=store, shrinker_enabled=False, shrinker_interval=86400)
    heard = Heard()
    z.on_evict(heard)
    fill(z, 3)

    def broken(offsets):
        raise OSError(5, "broken")

    store.on_write = broken
    assert z.shrink(3) == 0
    assert heard == []
    store.on_write = lambda offsets: z.store(1, noise(11))  # one changes on its way
    assert z.shrink(3) == 2
    assert heard.pages == [(0, 0), (0, 2)]


def test_many_at_a_time(make):
    z = make(max_pool_bytes="256MiB")
    heard = Heard()
    z.on_evict(heard)
    n = 40000
    pages = np.zeros((n, PAGE), np.uint8)
    pages[:, :8] = np.arange(1, n + 1, dtype=np.uint64).view(np.uint8).reshape(n, 8)
    z.store_many(range(n), pages)
    assert z.shrink(n) == n
    assert sorted(heard.pages) == [(0, o) for o in range(n)]
    assert len(heard) < 10


def test_the_engines_own_thread_tells(make, until):
    z = make(max_pool_bytes=400 * PAGE, shrinker_interval=86400)
    heard, threads = Heard(), set()

    def hear(swap_type, offsets):
        threads.add(threading.get_ident())
        heard(swap_type, offsets)

    z.on_evict(hear)
    fill(z, 395)  # near the limit: the shrinker is woken
    until(lambda: z.stats().written_back_pages and len(heard.pages) >= 10)
    assert threads - {threading.get_ident()}


# ---- what a listener may do ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), RecursionError()], ids=repr
)
def test_what_it_raises_loses_no_page(z, error, caplog):
    def hear(swap_type, offsets):
        raise error

    fill(z, 20)
    z.on_evict(hear)
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):  # it is the program that was interrupted
            shrink_often(z)
    else:
        assert z.shrink(20) == 20
    assert z.stats().on_evict_fail >= 1
    assert "on_evict" in caplog.text
    z._validate()
    assert all(z[o] == noise(o) for o in range(20))


def test_it_may_use_the_engine_so_that_more_leave(make):
    z = make(max_pool_bytes=40 * PAGE)
    heard, depth = Heard(), []

    def hear(swap_type, offsets):
        assert not depth  # never inside itself
        depth.append(1)
        heard(swap_type, offsets)
        if len(heard) < 20:
            z.store(1000 + len(heard), noise(len(heard)))
            z.shrink(1)
            z.compact()
            z.stats()
            z.invalidate(int(offsets[0]), swap_type=swap_type)
        depth.pop()

    z.on_evict(hear)
    fill(z, 30)
    assert z.shrink(1) == 1
    assert len(heard) == 20
    assert z.stats().on_evict_fail == 0


def test_it_may_listen_no_more(z):
    heard = Heard()

    def hear(swap_type, offsets):
        heard(swap_type, offsets)
        z.on_evict(None if len(heard) == 2 else hear)

    z.on_evict(hear)
    fill(z, 9)
    for _ in range(3):
        z.shrink(3)
    assert len(heard) == 2


@pytest.mark.parametrize("what", ["close", "swapoff"])
def test_it_may_not_close_its_engine(z, what, caplog):
    errors = []

    def hear(swap_type, offsets):
        try:
            z.close() if what == "close" else z.swapoff(0)
        except RuntimeError as error:
            errors.append(str(error))
            raise

    fill(z, 3)
    z.on_evict(hear)
    assert z.shrink(3) == 3
    assert f"{what}() was called from inside a call" in errors[0]
    assert z.stats().on_evict_fail == 1
    assert z[2] == noise(2)


def test_close_waits_for_one_that_runs(make, gate, thread, until):
    z = make()
    inside = gate()
    fill(z, 3)
    heard = Heard()

    def hear(swap_type, offsets):
        inside()
        heard(swap_type, offsets)
        with pytest.raises(ValueError, match="closed"):
            z.stats()

    z.on_evict(hear)
    shrinking = thread(z.shrink, 3)
    with inside:
        closing = thread(z.close)
        until(lambda: z.closed)
        assert closing.is_alive()
    closing.join()
    shrinking.join()
    assert heard.pages == [(0, 0), (0, 1), (0, 2)]


def test_others_go_on_while_one_runs(z, gate, thread):
    inside = gate()
    fill(z, 20)

    def hear(swap_type, offsets):
        if 0 in offsets:
            inside()

    z.on_evict(hear)
    shrinking = thread(z.shrink, 3)
    with inside:
        assert z.shrink(5) == 5  # no lock is held
        z[100] = noise(100)
        assert z[0] == noise(0)
        z.on_evict(None)
    shrinking.join()


def test_a_child_hears_nothing(z, whole_fork):
    heard = Heard()
    forked = []

    def hear(swap_type, offsets):
        heard(swap_type, offsets)
        if not forked:
            forked.append(os.fork())
            if forked[0] == 0:
                forked.append("the child")

    fill(z, 3)
    z.on_evict(hear)
    try:
        z.shrink(3)
        if forked[-1] == "the child":
            os._exit(0 if z.closed and len(heard) == 1 else 1)
    except BaseException:
        if forked[-1] == "the child":
            os._exit(2)
        raise
    assert os.waitpid(forked[0], 0)[1] == 0
    assert heard.pages == [(0, 0), (0, 1), (0, 2)]
    z[1] = noise(4)


def test_an_engine_that_nobody_has_goes(memory_store):
    z = zswap.ZSwap(backing=memory_store(), shrinker_enabled=False)
    heard = Heard()
    z.on_evict(heard)
    gone, mine = weakref.ref(z), weakref.ref(heard)
    z[1] = noise(1)
    z.shrink(1)
    del z
    assert gone() is None
    del heard
    gc.collect()
    assert mine() is None


def test_without_memory_nothing_leaves_unheard(z):
    heard = Heard()
    fill(z, 3)
    z.shrink(1)  # its buffers are there
    z.on_evict(heard)
    with fault("WRITEBACK_BUFFERS", times=FOREVER):
        assert z.shrink(3) == 0
    assert z.shrink(3) == 2
    assert heard.pages == [(0, 1), (0, 2)]


@pytest.mark.parametrize("callback", [5, "print", b"", [print]], ids=repr)
def test_what_is_no_callable(z, callback):
    with pytest.raises(TypeError, match="callable"):
        z.on_evict(callback)


def test_a_storm(make, thread):
    z = make(max_pool_bytes=60 * PAGE)
    heard = Heard()
    z.on_evict(heard)
    stop = threading.Event()

    def store(seed):
        rng = random.Random(seed)
        for _ in range(300):
            o = rng.randrange(400)
            z.store(o, noise(o))
            assert z.load(rng.choice([o])) == noise(o)

    def listen():
        while not stop.is_set():
            z.on_evict(lambda swap_type, offsets: heard(swap_type, offsets) or z.load(offsets[0]))
            z.on_evict(heard)

    threads = [thread(store, seed) for seed in range(2)]
    listening = thread(listen)
    for t in threads:
        t.join()
    stop.set()
    listening.join()
    assert len(heard.pages) <= z.stats().written_back_pages + z.stats().clean_evictions
    z._validate()


def test_ctrl_c_comes_through(z):
    fill(z, 9)
    z.on_evict(lambda swap_type, offsets: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        shrink_often(z)
    assert all(z[o] == noise(o) for o in range(9))
