"""lref: every variant writes the same bytes and reads the others'; the format is what docs/lref.md
says; damage; limits."""

import ctypes
import mmap
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zswap
from hooks import ROOT
from zswap_core.compressors.lref import open_lref, variants
from zswap_core.compressors.registry import open_compressor
from zswap_core.errors import CompressorNotFound, PageCorruptError

PAGE = 4096
RAW, PIECE, PIECES, LZ4, THEN_LZ4, ZSTD, THEN_ZSTD = range(0xA0, 0xA7)
# lref alone, whatever a page looks like
VARIANTS = [open_lref(0, variant=name) for name in variants()]
FIXED = dict(enumerate((0x03, 0x01, 0x3F, 0xFF, 0x0F, 0x10, 0x07, 0x02, 0xF0, 0x30, 0x7F, 0xC0), 1))
FROZEN = (
    "adde7fa8adde7f5001adde7ff801adde7fa002adde7f4803adde7ff00398044005e80590063807e00788083009d809800a280bd00b780c20"
    "0dc80d700e180fc00f68101011b81160120813b013581415151616171818191a1a1b1c1c1d1e1e1f2020212222232424252626272828292a"
    "2a2b2b2c2d2d2e2f2f303131323333343535360102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425"
    "262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f3839393a3b3b3c3d3d3e3f3f4040414242434444454646474848494a4a78"
    "4b204cc84c704d184ec04e684f1050b85060510852b05258530054a8545055f855a0564857f05798584059e859905a385be05b885c305dd8"
    "5d805e285fd05f78602061c86170621863c06368641065b86560660867b06758680069a869506af86aa06b486cf06c986d406ee86e906f2c"
    "2dfe00dddd111111111111111111111111118888888888888888888888888888888888888888888888888888404444448888888888888888"
    "8888888888881811111111111111111111111111111111111111111111111111111101499224499224499224499224499224499224499224"
    "49922449922449922449fe27499224499224499224499224499224499224499224499224499224499224490259022f0000fcffffffffffff"
    "ff0410000000080000ffffffffffffffffa1"
)
few = settings(derandomize=True, deadline=None, database=None, max_examples=60)


# ---- the format, once more, as plainly as can be -------------------------------------------------


def unpack_piece(data, page):
    """What docs/lref.md says, with no thought of speed: appends a piece to `page`."""
    own, ref, new, masked = (
        data[-27:-24],
        *(int.from_bytes(data[i : i + 8], "little") for i in (-24, -16, -8 + len(data))),
    )
    data = data[:-27]

    def take(n):
        nonlocal data
        assert n <= len(data)
        data, taken = data[: len(data) - n], data[len(data) - n :]
        return taken

    assert new & ~ref == 0
    distances = list(take(new.bit_count()))
    which = list(take(masked.bit_count()))
    n = sum(map(int.bit_count, which))
    codes = [code for byte in take((n + 1) // 2) for code in (byte & 15, byte >> 4)][:n]
    known = FIXED | {13 + k: mask for k, mask in enumerate(own)}
    masks = [known.get(code, 0) for code in codes]
    escapes = list(take(masks.count(0)))
    masks = [mask or escapes.pop(0) for mask in masks]
    kept, distance = list(data), 64
    assert len(kept) == sum(map(int.bit_count, masks))
    for line in range(64):
        old = bytes(64)
        if ref >> line & 1:
            distance = 56 + 8 * distances.pop(0) if new >> line & 1 else distance
            assert 64 <= distance <= len(page)
            old = page[len(page) - distance :][:64]
        lit = which.pop(0) if masked >> line & 1 else 0
        for word in range(8):
            mask = masks.pop(0) if lit >> word & 1 else 0
            page += bytes(kept.pop(0) if mask >> i & 1 else old[8 * word + i] for i in range(8))


def unpack(payload):
    data, mark = payload[:-1], payload[-1]
    if mark == RAW:
        return data
    page = bytearray()
    if mark == PIECE:
        unpack_piece(data, page)
        return bytes(page)
    assert mark == PIECES
    count = data[-1] + 1
    sizes = [
        int.from_bytes(data[i : i + 2], "little")
        for i in range(len(data) - 2 * count + 1, len(data) - 1, 2)
    ]
    data = data[: len(data) - 2 * count + 1]
    for size in [*sizes, len(data) - sum(sizes)]:
        piece, data = data[:size], data[size:]
        if size == PAGE:
            page += piece
        else:
            unpack_piece(piece, page)
    return bytes(page)


# ---- pages ---------------------------------------------------------------------------------------


def heap(seed, size=PAGE):
    """Records at a stride, each a little unlike the one before; the stride changes now and then,
    and need not be of words."""
    rnd = random.Random(seed)
    page, stride = bytearray(), 8 * rnd.randrange(1, 40)
    record = bytearray(rnd.choice((0, 0, 0, 1, 255, rnd.randrange(256))) for _ in range(stride))
    while len(page) < size:
        for _ in range(rnd.choice((0, 1, 1, 2, stride // 4))):
            record[rnd.randrange(len(record))] = rnd.randrange(256)
        page += record
        if rnd.random() < 0.05:
            record = bytearray(
                rnd.randbytes(rnd.randrange(1, 300))
                if rnd.random() < 0.5
                else bytes(rnd.randrange(1, 300))
            )
            stride = len(record)
    return bytes(page[:size])


def counts(lit):
    """A page whose lines keep so many bytes each: every boundary of the counts."""
    rnd = random.Random(lit)
    return b"".join(
        bytes(rnd.randrange(1, 256) if i < lit else 0 for i in range(64)) for _ in range(64)
    )


EDGES = [
    *(counts(n) for n in (0, 1, 7, 8, 9, 15, 16, 31, 32, 33, 63, 64)),
    bytes(64) + b"\1" * 64 + bytes(PAGE - 128),  # one line
    b"\1" * 64 + bytes(PAGE - 64),
    bytes(PAGE - 1) + b"\1",
    *(
        random.Random(d).randbytes(d) * (PAGE // d + 1)
        for d in (56, 64, 72, 2088, 2096, 2104, 2097, 513)
    ),
    *(bytes([value]) * PAGE for value in (1, 128, 255)),
    bytes(range(256)) * 16,
]
EDGES = [page[:PAGE] for page in EDGES]
HEAPS = [heap(seed) for seed in range(40)]
pages = st.one_of(
    st.builds(heap, st.integers(0, 1 << 32), st.sampled_from((PAGE, 2 * PAGE, 16384, 65536))),
    st.builds(
        lambda size, seed, cut, other: (heap(seed, size)[:cut] + heap(other, size))[:size],
        st.sampled_from((PAGE, 16384)),
        st.integers(0, 99),
        st.integers(0, PAGE),
        st.integers(0, 99),
    ),
    st.lists(
        st.sampled_from([bytes(64), b"\xff" * 64, bytes(range(64)), b"word" * 16]),
        min_size=64,
        max_size=64,
    ).map(b"".join),
)


def packed_by_all(page, cap=None):
    made = [c.compress(page, cap) for c in VARIANTS]
    assert made.count(made[0]) == len(made), [
        name for name, one in zip(variants(), made, strict=True) if one != made[0]
    ]
    return made[0]


def test_there_are_variants():
    assert variants()[-1] == "portable"
    flags = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    assert ("avx2" in variants()) == (" avx2 " in flags and " bmi2 " in flags)
    assert ("avx512" in variants()) == ("avx512_vbmi2" in flags)


@pytest.mark.parametrize("page", EDGES + HEAPS)
def test_same_bytes_and_read_by_all(page):
    packed = packed_by_all(page)
    assert all(c.decompress(packed, len(page)) == page for c in VARIANTS)
    assert unpack(packed) == page


@few
@given(pages)
def test_any_page(page):
    packed = packed_by_all(page)
    assert all(c.decompress(packed, len(page)) == page for c in VARIANTS)
    assert unpack(packed) == page


@pytest.fixture
def between_guards():
    """Copy pages to memory that begins, or ends, where none may be touched."""
    size, guard = 4 * PAGE, mmap.PAGESIZE
    memory = mmap.mmap(-1, size + 2 * guard)
    whole = (ctypes.c_uint8 * len(memory)).from_buffer(memory)
    first = ctypes.addressof(whole) + guard
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for at in (first - guard, first + size):
        assert libc.mprotect(at, guard, 0) == 0

    def place(page, front):
        at = first if front else first + size - len(page)
        ctypes.memmove(at, bytes(page), len(page))
        return np.frombuffer((ctypes.c_uint8 * len(page)).from_address(at), np.uint8)

    yield place
    for at in (first - guard, first + size):
        assert libc.mprotect(at, guard, mmap.PROT_READ | mmap.PROT_WRITE) == 0


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("pieces", [1, 4])
def test_nothing_beside_a_page_is_read(between_guards, pieces, front):
    rng = random.Random(pieces)
    lines = [{line} for line in (0, 1, 2, 62, 63)]
    lines += [{0, 1}, {0, 63}, {62, 63}, set(range(64)), set(range(63)), set(range(1, 64))]
    lines += [set(rng.sample(range(64), rng.randrange(1, 12))) for _ in range(40)]
    for some in lines:
        page = bytearray(pieces * PAGE)
        for line in some:
            for at in range(line * 64, len(page), PAGE):
                page[at : at + 64] = bytes(
                    rng.choice([0, 0, 1, rng.randrange(256)]) for _ in range(64)
                )
                page[at + rng.randrange(64)] = 7
        placed = between_guards(page, front)
        packed = {bytes(variant.compress(placed)) for variant in VARIANTS}
        assert len(packed) == 1


def test_marks():
    """What a page looks like decides what is done with it."""
    rnd = random.Random(0)
    text = " ".join(
        rnd.choice(("page", "swap", "held", "entry", "kept")) for _ in range(2000)
    ).encode()[:PAGE]
    noise = rnd.randbytes(PAGE)
    some = b"".join((0x7F00DEAD0000 + 48 * i).to_bytes(8, "little") for i in range(8192))
    marks = [
        [open_lref(level).compress(page)[-1] for page in (some[:PAGE], some, text, noise)]
        for level in (1, 2, 3)
    ]
    assert marks[0] == [PIECE, PIECES, LZ4, RAW]
    assert marks[1] == [THEN_LZ4, THEN_LZ4, LZ4, RAW]
    assert marks[2] == [THEN_ZSTD, THEN_ZSTD, ZSTD, RAW]


def test_a_second_opinion():
    """What lref does little for is given to the other one, too, also where it does not fit at all;
    whichever is smaller counts, and a low limit is no reason to ask."""
    rnd = random.Random(0)
    lines = [rnd.randbytes(30) + bytes(34) for _ in range(36)]  # this half looks like a heap
    page = (b"".join(lines) + rnd.randbytes(1019) * 2)[:PAGE]
    c, alone = open_lref(1), VARIANTS[0].compress(page)
    packed = c.compress(page)
    assert len(alone) > PAGE * 3 // 4 > len(packed) + 100
    assert packed[-1] == LZ4
    assert c.decompress(packed, PAGE) == page
    assert c.compress(page, len(alone) - 1) == packed
    assert c.compress(page, len(packed)) is None

    noisy = b"".join(rnd.randbytes(6) + bytes(2) for _ in range(512))  # no four alike in a row
    noisy = noisy[:-256] + noisy[2048:2304]  # of which LZ4 makes something, but less
    assert (
        PAGE * 3 // 4 < len(c.compress(noisy)) < len(open_compressor("lz4").compress(noisy)) < PAGE
    )
    assert c.compress(noisy)[-1] == PIECE


def test_it_shrinks_what_it_is_for():
    rng = np.random.default_rng(0)
    words = np.zeros((512, 64), np.uint64)
    words[:, ::4] = 0x5555_5555_0000 + rng.integers(0, 8, (512, 16)) * 400
    words[:, 1::4] = rng.integers(0, 256, (512, 16))
    words[:, 2::4] = 0x7F00_0000_0000 + (rng.integers(0, 4096, (512, 16)) << 4)
    all_pages = words.view(np.uint8).reshape(-1, PAGE)

    def total(spec):
        c = open_compressor(spec)
        return sum(len(c.compress(page)) for page in all_pages)

    assert total("lref") < 0.8 * total("lz4")
    assert total("lref:2") <= total("lref")
    assert total("lref:3") < 0.95 * total("lref")


def test_larger_pages_look_back_into_earlier_pieces():
    page = random.Random(1).randbytes(2048)
    page = bytes(2048) + page + page + bytes(2048)  # the second piece begins as the first ended
    two = VARIANTS[0].compress(page)
    assert two[-1] == PIECES
    assert len(two) < 2048 + 2 * 400


@pytest.mark.parametrize("page", [HEAPS[0], HEAPS[7], heap(5, 16384), EDGES[3]])
def test_every_cap(page):
    """A result is never longer than asked for, all variants give up at the same cap, and none
    writes beyond it."""
    full = packed_by_all(page)
    for cap in {0, 1, 2, 27, 28, 29, 100, len(full) // 2, *range(len(full) - 40, len(full) + 2)}:
        made = packed_by_all(page, cap)
        assert (made is None) == (cap < len(full)), cap
        assert made is None or made == full
    for c in VARIANTS:
        out = bytearray(b"\xa5" * (len(full) + 64))
        assert c.compress_into(page, memoryview(out)[: len(full)]) == len(full)
        assert out[len(full) :] == b"\xa5" * 64


def outcome(c, packed, size):
    memory = bytearray(size)
    try:
        return bytes(memory[: c.decompress_into(packed, memory)])
    except PageCorruptError:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("size", [PAGE, 16384])
def test_variants_agree_on_damage(size):
    rnd = random.Random(size)
    seen = set()
    for n in range(600):
        packed = bytearray(VARIANTS[0].compress(heap(n % 20, size)))
        for _ in range(rnd.randrange(1, 4)):
            at = rnd.choice(
                (rnd.randrange(len(packed)), len(packed) - 1 - rnd.randrange(min(200, len(packed))))
            )
            packed[at] = rnd.choice((packed[at] ^ 1 << rnd.randrange(8), rnd.randrange(256)))
        if rnd.random() < 0.1:
            del packed[rnd.randrange(len(packed)) :]
        found = [outcome(c, packed, size) for c in VARIANTS]
        assert found.count(found[0]) == len(found)
        seen.add(found[0] is None)
    assert seen == {True, False}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes([PIECE]),
        bytes(26) + bytes([PIECE]),
        bytes(27 + 1) + bytes([PIECE]),  # a byte that no mask asks for
        bytes(3)
        + b"\1"
        + bytes(7)
        + bytes(8)
        + bytes(8)
        + bytes([PIECE]),  # the first line refers to what is before the page
        b"\x09"
        + bytes(3 + 8)
        + b"\2"
        + bytes(7 + 8)
        + bytes([PIECE]),  # a new distance for a line that has none
        b"\x09"
        + bytes(3)
        + b"\2"
        + bytes(7)
        + b"\2"
        + bytes(7)
        + bytes(8)
        + bytes([PIECE]),  # 128 back from line 1
        b"\x00"
        + bytes(3)
        + b"\2"
        + bytes(7)
        + b"\2"
        + bytes(7)
        + bytes(8)
        + bytes([PIECE]),  # 56 back: too near
        b"\xff" * 27 + bytes([PIECE]),
        bytes([0, PIECES]),
        bytes([255, PIECES]),
        bytes(27) + b"\xff\xff\1" + bytes([PIECES]),  # a piece of 65535 bytes
        bytes(100) + bytes([THEN_LZ4]),
        bytes(100) + b"\x00",
        bytes(100) + b"\xff",
    ],
)
def test_refused(payload):
    for c in VARIANTS:
        with pytest.raises(PageCorruptError):
            c.decompress(payload, PAGE)
    assert VARIANTS[0].decompress(bytes(27) + bytes([PIECE]), PAGE) == bytes(PAGE)


@pytest.mark.parametrize("size", [55, PAGE, 65535])
def test_sizes_of_pieces_are_not_believed(size):
    def two(first):
        return bytes(54) + first.to_bytes(2, "little") + bytes([1, PIECES])

    for c in VARIANTS:
        assert c.decompress(two(27), 2 * PAGE) == bytes(2 * PAGE)
        with pytest.raises(PageCorruptError):
            c.decompress(two(size), 2 * PAGE)


def test_a_payload_is_read_by_later_versions():
    """Frozen: made when the format was, and to be read for ever."""
    page = bytearray(PAGE)
    for i in range(0, PAGE, 24):
        page[i : i + 8] = (0x7F00DEAD0000 + 7 * i).to_bytes(8, "little")
    del page[PAGE:]
    page[2000:2064] = bytes(range(64))
    payload = bytes.fromhex(FROZEN)
    assert all(c.decompress(payload, PAGE) == page for c in VARIANTS)
    assert unpack(payload) == page


@pytest.mark.parametrize(
    "name",
    ["avx9", "AVX2", "neon" if sys.platform == "linux" and "avx2" in variants() else "sse41"],
)
def test_an_unknown_variant(monkeypatch, name):
    monkeypatch.setenv("ZSWAP_LREF", name)
    with pytest.raises(
        CompressorNotFound, match=rf"ZSWAP_LREF asks for '{name}'; this processor has .*portable"
    ):
        open_lref(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", variants())
def test_a_variant_by_name(python, name):
    code = "import zswap; print(next(i.version for i in zswap.compressors() if i.name == 'lref'))"
    out = python(code, ZSWAP_LREF=name)
    assert out.strip() == f"1 ({name})"


@pytest.mark.parametrize("name", variants())
def test_auto(monkeypatch, name):
    """lref where vectors make it the faster one, else lz4; what it stands for is what is seen."""
    monkeypatch.setenv("ZSWAP_LREF", name)
    expected = "lref:1" if name in ("avx512", "avx2", "neon") else "lz4:1"
    assert open_compressor("auto").spec == expected
    with zswap.ZSwap("auto", max_pool_bytes="1MiB") as z:
        z[0] = HEAPS[0]
        assert z.compressor == expected
        z.compressor = "zstd:1"
        z.parameters["compressor"] = "auto"
        assert z.compressor == z.pools()[0].compressor == expected
        z.recompress("auto")
        assert z[0] == HEAPS[0]


def test_auto_is_no_name(monkeypatch):
    with pytest.raises(CompressorNotFound, match="there is no compressor 'autos'"):
        open_compressor("autos")
    with pytest.raises(ValueError, match="'auto' stands for lref or lz4 and has no levels"):
        open_compressor("auto:1")
    with pytest.raises(ValueError, match="takes no dictionary"):
        open_compressor("auto", dictionary=bytes(64))
    with pytest.raises(ValueError, match="it stands for lref or lz4"):
        zswap.register_compressor("auto", bytes, bytes)
    assert "auto" not in [info.name for info in zswap.compressors()]
    monkeypatch.setenv("ZSWAP_LREF", "avx9")
    with pytest.raises(CompressorNotFound, match="ZSWAP_LREF asks for 'avx9'"):
        open_compressor("auto")


@pytest.mark.parametrize("spec", ["lref", "lref:2", "lref:3"])
@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_in_an_engine(spec, page_size):
    some = [heap(n, page_size) for n in range(30)] + [
        random.Random(1).randbytes(page_size),
        bytes(page_size),
    ]
    with zswap.ZSwap(spec, page_size=page_size, checksum=True, max_pool_bytes="64MiB") as z:
        assert (z.store_many(range(len(some)), b"".join(some)) >= 0).all()
        assert [z[n] for n in range(len(some))] == some
        assert z.load_many(range(len(some))).tobytes() == b"".join(some)
        z.recompress("lz4")
        assert [z[n] for n in range(len(some))] == some
        z._validate()


def test_the_engine_tells_it_what_is_worth_it():
    """A page that would take a whole one of the allocator's is given up, and no byte of it copied
    in vain."""
    noise = random.Random(0).randbytes(PAGE)
    poor = heap(1)[:8] + random.Random(1).randbytes(PAGE - 8)
    with zswap.ZSwap("lref", max_pool_bytes="1MiB") as z:
        z[0], z[1], z[2] = noise, poor, HEAPS[1]
        assert z.stats().stored_incompressible_pages == 2
        assert (z[0], z[1], z[2]) == (noise, poor, HEAPS[1])
        z.parameters["reject_compress_poor"] = True
        assert z.store_many([3, 4], noise + poor).tolist() == [zswap.Status.COMPRESS_POOR] * 2
        assert z.stats().reject_compress_poor == 2


@pytest.mark.slow
def test_no_jump_depends_on_what_a_page_holds(tmp_path):
    """In the AVX-512 variant jumps are only where a loop goes on or ends, where the room does, and
    where a payload is refused; what depends on bytes is chosen by masks instead."""
    folder = ROOT / "zswap_core" / "lref"
    if "avx2" not in variants() or not (folder / "lref.c").exists():
        pytest.skip("not x86-64, or the sources are not here")
    if not (shutil.which("gcc") and shutil.which("objdump")):
        pytest.skip("there is no gcc or no objdump")
    made = str(tmp_path / "avx512.o")
    command = ["gcc", "-O3", "-g", f"-I{folder}", "-c", str(folder / "lref_avx512.c"), "-o", made]
    subprocess.run(command, check=True, timeout=120)
    sources = {name: (folder / name).read_text().splitlines() for name in os.listdir(folder)}

    def jumps_of(function):
        command = ["objdump", "-d", "-l", "--no-show-raw-insn", f"--disassemble={function}", made]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert "vpcompressb" in done.stdout or "vpexpandb" in done.stdout
        at, jumps = "", set()
        for text in done.stdout.splitlines():
            if place := re.match(r"\S*/(\S+):(\d+)(?: |$)", text):
                at = dict(enumerate(sources.get(place[1], []), 1)).get(int(place[2]), text).strip()
            elif re.match(r" +[0-9a-f]+:\s+j(?!mp)", text):
                jumps.add(at)
        return {at for at in jumps if not at.startswith("for (")}

    # where the loops over lines say so, and once a piece
    in_loops = {"if (room >= 64)"}
    room = {"if (count_bits64(mask) + HEAD > (size_t) (end - out))"}
    once = {
        "if (n < 4)",
        "if (n == 0)",
        "if (most >> 8 == 1)",
        "if (own[0] != 0) {",
        "if (lines->first) {             /* there is nothing before it */",
        "lines->first = first = at == 0 && n > 0 && lines->full[0] == 0;",
        "if (n_lits + n_codes + n_words + n_distances + HEAD > cap)",
        "if (size > cap)",
    }
    jumps = jumps_of("lref_avx512_pack")
    assert jumps <= in_loops | room | once, jumps - in_loops - room - once
    assert in_loops | room <= jumps
    jumps = jumps_of("lref_avx512_unpack")
    refused = {at for at in jumps if at.startswith(("if (n < ", "if ((has_new", "if ((bad"))}
    refused |= {"if (spread_masks(kept, which, words, has_mask, masks) != n)"}
    assert jumps - refused == in_loops, jumps - refused


@pytest.mark.slow
def test_the_c_alone(tmp_path):
    """A second of the fuzzer without a fuzzer: see tests/fuzz/lref.c."""
    folder, compiler = ROOT / "zswap_core" / "lref", shutil.which("cc") or shutil.which("gcc")
    if not (folder / "lref.c").exists() or compiler is None:
        pytest.skip("the sources or a C compiler are not here")
    sources = sorted(map(str, folder.glob("*.c")))
    native = ["-mpopcnt"] if "sse41" in variants() else []
    emulated = []
    if "sse41" in variants():
        sources.remove(str(folder / "lref_avx512.c"))
        emulated = ["-DEMULATE_AVX512", "-msse4.1", str(ROOT / "tests" / "fuzz" / "lref_avx512.c")]
    program = tmp_path / "fuzz"
    command = [
        compiler,
        "-std=gnu11",
        "-O1",
        *native,
        f"-I{folder}",
        str(ROOT / "tests" / "fuzz" / "lref.c"),
        *emulated,
        *sources,
    ]
    subprocess.run([*command, "-o", str(program)], check=True, timeout=120)
    done = subprocess.run(
        [str(program), "1", str(os.getpid())], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "no fault, no difference" in done.stdout
    if emulated:
        assert "avx512" in done.stdout
