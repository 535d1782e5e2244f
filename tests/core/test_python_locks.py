"""Locks of the Python level."""

import os
import signal
import threading

import pytest

from zswap_core.locks import Lock


@pytest.mark.parametrize("reentrant", [False, True])
def test_one_at_a_time(eager_switches, thread, reentrant):
    lock, count = Lock(reentrant=reentrant), [0]

    def work():
        for _ in range(2000):
            with lock:
                before = count[0]
                [None for _ in range(5)]
                count[0] = before + 1

    threads = [thread(work) for _ in range(6)]
    for t in threads:
        t.join()
    assert count == [12_000]


def test_who_has_it_may_take_it_again_and_others_wait_for_the_last_end(thread):
    lock, inside, order = Lock(reentrant=True), threading.Event(), []

    def other():
        inside.wait(30)
        with lock:
            order.append("other")

    waiting = thread(other)
    with lock:
        with lock:
            inside.set()
            order.append("inner")
        order.append("outer")
    waiting.join()
    assert order == ["inner", "outer", "other"]


def test_an_exception_gives_it_back(thread):
    lock = Lock()
    with pytest.raises(ZeroDivisionError), lock:
        1 / 0  # noqa: B018
    with lock:
        pass


def test_who_waits_hears_signals(thread):
    """And has nothing when its handler raises."""
    lock, held, ready, end = Lock(), threading.Event(), threading.Event(), threading.Event()
    main = threading.get_ident()

    def holder():
        with lock:
            held.set()
            ready.wait(30)
            while not end.wait(0.001):
                signal.pthread_kill(main, signal.SIGUSR1)

    def handler(number, frame):
        if not end.is_set():
            end.set()
            raise InterruptedError("a signal")

    def take():
        ready.set()
        with lock:
            pytest.fail("it is held")

    holding = thread(holder)
    held.wait(30)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(InterruptedError):
            take()
    finally:
        ready.set()
        end.set()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        holding.join()
        signal.signal(signal.SIGUSR1, before)
    with lock:
        pass


@pytest.mark.parametrize("reentrant", [False, True])
def test_it_is_free_in_a_forked_child(whole_fork, thread, reentrant):
    lock, held, end = Lock(reentrant=reentrant), threading.Event(), threading.Event()

    def holder():
        with lock:
            held.set()
            end.wait(30)

    holding = thread(holder)
    held.wait(30)
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        with lock:
            os._exit(7)
    end.set()
    holding.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with lock:
        pass
