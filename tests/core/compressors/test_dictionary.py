"""Dictionaries for zstd: made, used, told apart, gone over to while pages are in flight, and
freed."""

import contextlib
import gc
import random
import threading
import time
import weakref

import numpy as np
import pytest

import zswap
from zswap import CompressorNotFound, Error, open_compressor, train_dictionary
from zswap_core.compressors import dictionary as trainer

PAGE = 4096
TRAINED = bytes.fromhex("37a430ec")  # how zstd's own dictionaries begin


def record_pages(seed, count):
    """Pages of small records: each of another kind than the rest of its page, and like ones on
    other pages."""
    kinds = [random.Random(f"kind {kind}").randbytes(48).hex() for kind in range(400)]
    rng = random.Random(seed)
    pages = []
    for _ in range(count):
        page = b"".join(f"{rng.choice(kinds)}={rng.getrandbits(40):x};".encode() for _ in range(40))
        pages.append(page[:PAGE])
    return b"".join(pages)


@pytest.fixture(scope="module")
def pages():
    return np.frombuffer(record_pages(1, 300), np.uint8).reshape(-1, PAGE)


@pytest.fixture(scope="module")
def raw():
    """A dictionary of no format: pages like those to come."""
    return record_pages(2, 8)


@pytest.fixture(scope="module")
def trained(pages):
    try:
        return train_dictionary(record_pages(3, 1000), 32 << 10)
    except CompressorNotFound as error:
        pytest.skip(str(error))


def until(condition, seconds=20):
    """Wait for something that another thread is about to do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


# ---- what it is for ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raw", "trained"])
def test_pages_of_small_records_get_smaller(engine, pages, kind, request):
    dictionary = request.getfixturevalue(kind)
    sizes = {}
    for given in (None, dictionary):
        z = engine("zstd:3", dictionary=given)
        assert (z.store_many(range(len(pages)), pages) >= 0).all()
        assert (z.load_many(range(len(pages))) == pages).all()
        assert z[7] == pages[7].tobytes()
        sizes[given] = z.stats().compressed_bytes
    assert sizes[dictionary] < sizes[None] / 1.3


@pytest.mark.parametrize("page_size", [16384, 65536])
def test_larger_pages(engine, raw, page_size):
    z = engine("zstd:3", page_size=page_size, dictionary=raw)
    pages = np.frombuffer(record_pages(4, 64), np.uint8).reshape(-1, page_size)
    z.store_many(range(len(pages)), pages)
    assert (z.load_many(range(len(pages))) == pages).all()


@pytest.mark.parametrize("spec", ["zstd:-5", "zstd:1", "zstd:9", "zstd:19"])
def test_levels(pages, raw, spec):
    c = open_compressor(spec, dictionary=raw)
    plain = open_compressor(spec)
    page = pages[0].tobytes()
    packed = c.compress(page)
    assert c.decompress(packed, PAGE) == page
    assert len(packed) < len(plain.compress(page))


def test_any_buffer_is_a_dictionary(raw):
    a = open_compressor("zstd:3", dictionary=raw)
    assert a is open_compressor("zstd:3", dictionary=bytearray(raw))
    assert a is open_compressor("zstd", dictionary=np.frombuffer(raw, np.uint8))
    assert a.dictionary == raw
    assert open_compressor("zstd:3").dictionary is None


# ---- names ---------------------------------------------------------------------------------------


def test_names_tell_dictionaries_apart(engine, raw):
    z = engine("zstd:3", dictionary=raw)
    name = z.compressor
    assert name.startswith("zstd:3+dict:")
    assert int(name.removeprefix("zstd:3+dict:"), 16) >= 0
    assert z.parameters["compressor"] == z.pools()[0].compressor == name
    assert open_compressor("zstd:3", dictionary=raw[:-1]).spec not in (name, "zstd:3")
    assert open_compressor("zstd:4", dictionary=raw).spec == name.replace(":3", ":4")
    assert {i.name for i in zswap.compressors() if i.dictionary} == {"zstd"}


def test_a_name_can_be_used_as_long_as_the_dictionary_is(engine, pages, raw):
    z = engine("zstd:3", dictionary=raw)
    z[0] = pages[0]
    name = z.compressor
    z.compressor = "lz4"
    z.parameters["compressor"] = name
    assert [(p.compressor, p.current) for p in z.pools() if p.stored_pages] == [(name, True)]
    z.close()
    del z
    with pytest.raises(CompressorNotFound, match="give the dictionary itself"):
        open_compressor("zstd:3+dict:00000000")
    with pytest.raises(CompressorNotFound, match="lz4"):
        open_compressor("lz4+dict:00000000")


def test_another_allocator_keeps_the_dictionary(engine, pages, raw):
    z = engine("zstd:3", dictionary=raw)
    name = z.compressor
    z[0] = pages[0]
    z.zpool = "zbud"
    z[1] = pages[0]
    assert [(p.compressor, p.zpool) for p in z.pools()] == [(name, "zbud"), (name, "zsmalloc")]
    assert len(set(z.compressed_sizes([0, 1]).tolist())) == 1


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compressor", "dictionary", "error", "names"),
    [
        ("lz4", b"x" * 100, ValueError, "lz4.*no dictionary.*zstd"),
        ("zstd", b"", ValueError, "0 bytes.*8"),
        ("zstd", b"1234567", ValueError, "7 bytes.*8"),
        ("zstd", TRAINED + bytes(100), ValueError, "damaged"),
        ("zstd", TRAINED + random.Random(1).randbytes(5000), ValueError, "damaged"),
        ("zstd", "text of some length", TypeError, "str"),
        ("zstd", 5000, TypeError, "int"),
    ],
    ids=lambda v: str(v)[:12],
)
def test_bad_dictionaries(engine, compressor, dictionary, error, names):
    with pytest.raises(error, match=names):
        engine(compressor, dictionary=dictionary)
    z = engine("lz4")
    z[0] = b"p" * 8 + bytes(PAGE - 8)
    with pytest.raises(error, match=names):
        z.recompress(compressor, dictionary=dictionary)
    assert [p.compressor for p in z.pools()] == ["lz4:1"]


def test_a_dictionary_too_large(raw):
    with pytest.raises(ValueError, match="16777216"):
        open_compressor("zstd", dictionary=bytes((1 << 24) + 1))


def test_a_trained_dictionary_cut_off_in_its_header(trained):
    with pytest.raises(ValueError, match="damaged"):
        open_compressor("zstd", dictionary=trained[:40])


def test_an_open_compressor_takes_no_other_dictionary(raw):
    with pytest.raises(ValueError, match="open already"):
        open_compressor(open_compressor("zstd"), dictionary=raw)


def test_registered_compressors_take_none(codec, raw):
    with pytest.raises(ValueError, match="no dictionary"):
        open_compressor(codec(), dictionary=raw)


# ---- which page goes with which dictionary -------------------------------------------------------


def test_another_dictionary_does_not_give_the_page_back(pages, raw):
    page = pages[0].tobytes()
    right, wrong = (
        open_compressor("zstd:3", dictionary=raw),
        open_compressor("zstd:3", dictionary=raw[::-1]),
    )
    packed = right.compress(page)
    with contextlib.suppress(Error):  # without checksums zstd may not notice
        assert wrong.decompress(packed, PAGE) != page
    assert right.decompress(packed, PAGE) == page


def test_each_page_meets_its_own_dictionary(engine, pages, raw):
    z = engine("zstd:3", dictionary=raw)
    dictionaries = [None, raw, raw[:5000], raw[5000:], raw[::-1]]
    offsets = list(range(50))
    for turn in range(3):  # each is met again, and its pool used again
        for number, dictionary in enumerate(dictionaries):
            z.compressor = open_compressor("zstd:3", dictionary=dictionary)
            mine = offsets[number::5][turn::3]
            z.store_many(mine, pages[mine])
    pools = z.pools()
    assert len(pools) == len({p.compressor for p in pools}) == len(dictionaries)
    assert (z.load_many(offsets) == pages[offsets]).all()
    z._validate()


def test_switching_while_others_store(engine, pages, raw):
    z = engine("zstd:1", dictionary=raw)
    opened = [open_compressor("zstd:1", dictionary=d) for d in (raw, raw[::-1], None)]
    done = threading.Event()
    failures = []
    rounds = [0, 0]

    def work(number):
        rng = random.Random(number)
        held = {}
        try:
            while not done.is_set() or rounds[number] < 20:
                mine = [2 * o + number for o in rng.sample(range(100), 20)]
                chosen = rng.choices(range(len(pages)), k=20)
                assert (z.store_many(mine, pages[chosen]) >= 0).all()
                held.update(zip(mine, chosen, strict=True))
                look = rng.sample(sorted(held), 10)
                assert (z.load_many(look) == pages[[held[o] for o in look]]).all()
                rounds[number] += 1
            assert (z.load_many(list(held)) == pages[list(held.values())]).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(60):
        z.compressor = opened[turn % 3]
        z.stats()  # which lets go of compressors that no pool has any more
        if turn % 20 == 0:
            z.recompress("zstd:3", dictionary=raw[:9000], max_pages=20)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures


def test_recompression(engine, pages, raw):
    z = engine("zstd:3")
    z.store_many(range(100), pages[:100])
    z.compact()
    done = z.recompress("zstd:3", dictionary=raw)
    assert done.moved > 80
    assert done.bytes_after < done.bytes_before / 1.3
    assert (z.load_many(range(100)) == pages[:100]).all()
    assert z.compressor == "zstd:3"


def test_it_is_freed_with_its_pool(engine, pages, raw):
    z = engine("zstd:3", dictionary=raw)
    z.store_many(range(20), pages[:20])
    name = z.compressor
    dictionary = weakref.ref(open_compressor(name))
    z.compressor = "lz4"
    z.invalidate_range(0, 19)
    gc.collect()
    z.stats()
    assert dictionary() is not None
    assert z[19] == pages[19].tobytes()
    z.invalidate(19)
    until(lambda: len(z.pools()) == 1)
    until(lambda: (z.stats(), dictionary() is None)[1])
    with pytest.raises(CompressorNotFound):
        open_compressor(name)


def test_it_is_freed_when_no_page_ever_came(engine, raw):
    z = engine("lz4")
    seen = []
    for length in range(1000, 1010):
        z.compressor = open_compressor("zstd:3", dictionary=raw[:length])
        seen.append(weakref.ref(open_compressor(z.compressor)))
    z.compressor = "lz4"
    until(lambda: (z.stats(), not any(c() for c in seen))[1])


# ---- making one ----------------------------------------------------------------------------------


def test_training(trained):
    assert trained.startswith(TRAINED)
    assert 1000 < len(trained) <= 32 << 10
    assert train_dictionary(record_pages(3, 1000), 32 << 10) == trained
    small = train_dictionary(record_pages(3, 1000), size=1000)
    assert 256 <= len(small) <= 1000


def test_training_on_larger_pages(trained):
    assert train_dictionary(record_pages(3, 400), 4096, page_size=16384).startswith(TRAINED)


def test_same_filled_pages_are_left_out(pages):
    mixed = np.zeros((40, PAGE), np.uint8)
    mixed[::2] = pages[:20]
    mixed[1::4] = 7
    mixed[3] = np.tile(np.arange(8, dtype=np.uint8), PAGE // 8)
    mixed[5, 100] = 1  # begins and ends alike
    taken = trainer.sample_pages(mixed, PAGE, 1000)
    wanted = sorted([*range(0, 40, 2), 5])
    assert (taken == mixed[wanted]).all()
    taken = trainer.sample_pages(mixed, PAGE, 7)
    assert (taken == mixed[wanted][::3]).all()


def test_training_learns_from_a_part_of_many_pages(pages):
    assert (trainer.sample_pages(pages, PAGE, 100) == pages[::3]).all()


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ((b"",), ValueError, "0 pages.*16"),
        ((bytes(100 * PAGE),), ValueError, "0 pages.*16"),
        ((b"x" * 100,), ValueError, "whole pages of 4096"),
        ((np.zeros((100, 2 * PAGE), np.uint8)[:, ::2],), ValueError, "contiguous"),
        ((5,), TypeError, "int"),
        (("text",), TypeError, "str"),
        ((bytes(PAGE), 255), ValueError, "255.*256"),
        ((bytes(PAGE), 2 << 20), ValueError, "1048576"),
        ((bytes(PAGE), True), ValueError, "True"),
        ((bytes(PAGE), 1024.0), ValueError, "1024.0"),
    ],
)
def test_bad_training_arguments(arguments, error, names):
    with pytest.raises(error, match=names):
        train_dictionary(*arguments)


def test_a_bad_page_size():
    with pytest.raises(ValueError, match=r"5000.*4096"):
        train_dictionary(bytes(5000), page_size=5000)


def test_without_a_dictionary_builder(monkeypatch, pages):
    monkeypatch.setenv("ZSWAP_LIBZDICT", "/nonexistent/lib.so")
    with pytest.raises(CompressorNotFound) as caught:
        train_dictionary(pages)
    for part in (
        "/nonexistent/lib.so",
        "pip install zstandard",
        "apt install libzstd1",
        "ZSWAP_LIBZDICT",
    ):
        assert part in str(caught.value)
