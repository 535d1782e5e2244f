"""`zswap.CompressedArray`: arrays whose chunks are held compressed."""

import random
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zswap
from zswap import CompressedArray

LIMIT = "64MiB"
SHAPE, CHUNKS = (7, 10, 5), (3, 4, 5)


def pair(shape=SHAPE, chunks=CHUNKS, dtype="i4", **more):
    """An array with numbers, and the same of numpy's."""
    numbers = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    a = CompressedArray(shape, dtype, chunks, max_memory=LIMIT, **more)
    a[...] = numbers
    return a, numbers


def parts(length):
    return st.one_of(
        st.integers(-length, length - 1),
        st.builds(
            slice,
            st.one_of(st.none(), st.integers(-length - 2, length + 2)),
            st.one_of(st.none(), st.integers(-length - 2, length + 2)),
            st.one_of(st.none(), st.integers(-4, 4).filter(bool)),
        ),
    )


@st.composite
def indices(draw):
    index = [draw(parts(length)) for length in SHAPE[: draw(st.integers(0, 3))]]
    if draw(st.booleans()):
        at = draw(st.integers(0, len(index)))
        count = len(index) - at
        index[at:] = [Ellipsis, *(draw(parts(length)) for length in SHAPE[3 - count :][:count])]
    for _ in range(draw(st.integers(0, 2))):
        index.insert(draw(st.integers(0, len(index))), None)
    return tuple(index) if len(index) != 1 or draw(st.booleans()) else index[0]


@given(index=indices(), data=st.data())
def test_indices_are_numpys(index, data):
    a, numbers = pair()
    with a:
        found, expected = a[index], numbers[index]
        assert type(found) is type(expected)
        np.testing.assert_array_equal(found, expected)
        value = data.draw(st.sampled_from(["scalar", "same", "one"]))
        new = {"scalar": -1, "same": -expected, "one": np.full((1,) * expected.ndim, -2)}[value]
        a[index] = new
        numbers[index] = new
        np.testing.assert_array_equal(a, numbers)


@pytest.mark.parametrize("shape", [(), (0,), (1,), 5, (3, 0, 2), (100_000,), (3, 5, 7, 2)])
def test_shapes(shape):
    with CompressedArray(shape, "f4", max_memory=LIMIT, fill_value=2) as a:
        expected = np.full(shape, 2, "f4")
        np.testing.assert_array_equal(a, expected)
        assert (a.shape, a.ndim, a.size, a.nbytes) == (
            expected.shape,
            expected.ndim,
            expected.size,
            expected.nbytes,
        )
        a[...] = expected = np.arange(expected.size, dtype="f4").reshape(expected.shape)
        np.testing.assert_array_equal(a, expected)
        if expected.ndim:
            assert len(a) == len(expected)
            np.testing.assert_array_equal(list(a), list(expected))


@pytest.mark.parametrize("dtype", ["bool", "u1", "f8", "c16", "S5", "M8[s]", [("a", "i2")], ">i4"])
def test_dtypes(dtype):
    values = np.zeros(1000, dtype)
    values[::3] = np.ones(1, "i8").astype(dtype) if dtype != "S5" else b"abcde"
    with CompressedArray(1000, dtype, 64, max_memory=LIMIT) as a:
        a[:] = values
        assert a.dtype == values.dtype
        np.testing.assert_array_equal(a[::-7], values[::-7])


@pytest.mark.parametrize(
    "index",
    [5.0, "a", [1, 2], np.array([0, 1]), True, (slice(None),) * 4, (..., ...), 7, -8, (0, 10)],
    ids=repr,
)
def test_other_indices_are_refused(index):
    a, numbers = pair()
    with a:
        with pytest.raises(IndexError):
            a[index]
        with pytest.raises(IndexError):
            a[index] = 0
        np.testing.assert_array_equal(a, numbers)


def test_a_value_of_another_shape_changes_nothing():
    a, numbers = pair()
    with a:
        with pytest.raises(ValueError, match="could not broadcast"):
            a[0] = np.zeros((3, 3))
        with pytest.raises((ValueError, TypeError)):
            a[0] = "text"
        np.testing.assert_array_equal(a, numbers)


def test_what_was_never_assigned_takes_nothing():
    with CompressedArray((1 << 30, 1 << 10), max_memory=LIMIT) as a:
        assert a.nbytes == 1 << 43
        a[1 << 29, 5] = 1.0
        assert a[1 << 29, 4:7].tolist() == [0.0, 1.0, 0.0]
        assert len(a.store) == 1
        assert a[5:9].sum() == 0


def test_chunks_by_default_are_of_some_size():
    for shape in [(10**6,), (1000, 1000), (3, 4, 5), (2, 10**7), (0, 5)]:
        a = CompressedArray(shape, max_memory=LIMIT)
        assert np.prod(a.chunks) * 8 <= 1 << 18
        assert all(c <= max(n, 1) for c, n in zip(a.chunks, shape, strict=True))
        a.close()
    assert a.chunks == (1, 5)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-1,), ValueError),
        (((3, -1),), ValueError),
        (((3, 4), "f8", (1,)), ValueError),
        (((3, 4), "f8", (0, 1)), ValueError),
        ((3.5,), TypeError),
        ((3, object), TypeError),
        ((3, "S0"), TypeError),
        ((3, "nonsense"), TypeError),
    ],
)
def test_wrong_arguments(arguments, error):
    with pytest.raises(error):
        CompressedArray(*arguments)


def test_more_than_the_limit_goes_to_files(tmp_path):
    noise = np.frombuffer(random.Random(1).randbytes(8 << 20), "f8").reshape(1024, 1024)
    with CompressedArray(
        noise.shape, max_memory="2MiB", backing=tmp_path / "a", encrypt=False
    ) as a:
        a[:] = noise
        np.testing.assert_array_equal(a[::5, 3], noise[::5, 3])
        assert a.store.stats().backed_bytes > 5 << 20
        for where, chunk in a.iter_chunks():
            np.testing.assert_array_equal(chunk, noise[where])


def test_threads_assign_beside_each_other():
    """To parts of one chunk, and none is lost."""
    with CompressedArray((8, 1000), "i4", (8, 1000), max_memory=LIMIT) as a:

        def work(number):
            for column in range(0, 1000, 50):
                a[number, column : column + 50] = number + 1

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        np.testing.assert_array_equal(a, np.repeat(np.arange(1, 9), 1000).reshape(8, 1000))


def test_numpy_takes_it_for_an_array():
    a, numbers = pair()
    with a:
        assert np.asarray(a, "f8").dtype == np.float64
        assert np.add(a, 1).tolist() == (numbers + 1).tolist()
        with pytest.raises(ValueError, match="only by a copy"):
            a.__array__(copy=False)


def test_dask_takes_it():
    dask_array = pytest.importorskip("dask.array")
    a, numbers = pair()
    with a:
        lazy = dask_array.from_array(a, chunks=a.chunks)
        assert lazy.sum().compute(scheduler="threads") == numbers.sum()
        np.testing.assert_array_equal(lazy[::2, 3].compute(), numbers[::2, 3])


def test_after_close_all_is_a_value_error():
    a, _ = pair()
    a.close()
    a.close()
    for call in (lambda: a[0], lambda: a.__setitem__(0, 1), lambda: list(a), a.__enter__):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert repr(a) == "<CompressedArray (7, 10, 5) int32, chunks (3, 4, 5): closed>"
    with zswap.CompressedArray(3, max_memory=LIMIT) as b:
        assert "<ObjectStore: 0 values" in repr(b)
