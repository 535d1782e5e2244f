"""The same-filled scan and fill, on pages made to fool them."""

import mmap
import random
import struct

import pytest

from hooks.parts import fill, scan

SIZES = [4096, 16384, 65536]
WORDS = [
    0,
    1,
    0xFF,
    0xFFFFFFFFFFFFFFFF,
    0x0102030405060708,
    0x0101010101010101,
    0x8000000000000000,
    0x0000000100000001,
]


def moved(page, shift):
    """The page at an address of that remainder modulo 64."""
    room = mmap.mmap(-1, len(page) + 64)
    view = memoryview(room)[shift : shift + len(page)]
    view[:] = page
    return view


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("word", WORDS, ids=hex)
@pytest.mark.parametrize("shift", [0, 1, 7, 8, 33])
def test_one_word_repeated(size, word, shift):
    assert scan(moved(struct.pack("=Q", word) * (size // 8), shift)) == word


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 5])
def test_one_byte_makes_the_difference_wherever_it_is(size, shift):
    rng = random.Random(size)
    page = moved(struct.pack("=Q", 0x0102030405060708) * (size // 8), shift)
    # Both ends, the edges of vectors and of cache lines and of 4 KiB, and some at random.
    places = {
        p + d
        for p in (0, 8, 16, 32, 64, 128, 512, 1024, 4096, size // 2, size)
        for d in range(-9, 10)
    }
    places |= {rng.randrange(size) for _ in range(200)}
    for place in sorted(p for p in places if 0 <= p < size):
        for bit in (0x01, 0x80):
            page[place] ^= bit
            assert scan(page) is None, place
            page[place] ^= bit
    assert scan(page) == 0x0102030405060708


@pytest.mark.parametrize("period", [16, 24, 32, 64, 512, 2048])
def test_longer_periods_are_no_word(period):
    pattern = random.Random(period).randbytes(period)
    assert scan((pattern * (4096 // period + 1))[:4096]) is None


def test_first_and_last_word_alone_prove_nothing():
    word = b"12345678"
    for middle in (b"abcdefgh", b"87654321", b"12345679"):
        page = bytearray(word * 512)
        page[2048:2056] = middle
        assert scan(page) is None
    # Halves that are each same-filled, and ends that agree.
    assert scan(word * 200 + b"x" * 896 + word * 200) is None


def test_bytes_of_one_value_with_one_other():
    for place in range(4096):
        page = bytearray(4096)
        page[place] = 1
        assert scan(page) is None


@pytest.mark.parametrize("size", [8, 16, 24, 4088, *SIZES])
@pytest.mark.parametrize("word", WORDS, ids=hex)
@pytest.mark.parametrize("shift", [0, 3])
def test_fill_writes_the_page_and_nothing_else(size, word, shift):
    room = bytearray(b"\xa5" * (size + 64))
    fill(memoryview(room)[shift : shift + size], word)
    assert room[:shift] == b"\xa5" * shift
    assert room[shift : shift + size] == struct.pack("=Q", word) * (size // 8)
    assert room[shift + size :] == b"\xa5" * (64 - shift)


def test_fill_and_scan_are_inverse():
    rng = random.Random(8)
    page = bytearray(4096)
    for _ in range(200):
        word = rng.getrandbits(64)
        fill(page, word)
        assert scan(page) == word


def test_through_the_engine(engine):
    z = engine(max_pool_bytes=1 << 20)
    for offset, word in enumerate(WORDS):
        z.store(offset, struct.pack("=Q", word) * 512)
    assert z.stats().same_filled_pages == len(WORDS)
    assert z.stats().pool_total_size == 0
    for offset, word in enumerate(WORDS):
        assert z.load(offset) == struct.pack("=Q", word) * 512
    z.store(100, random.Random(0).randbytes(16) * 256)
    assert z.stats().same_filled_pages == len(WORDS)
