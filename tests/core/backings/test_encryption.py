"""Encrypted swap files: the cipher against published vectors, the file and the process's memory
against a search."""

import copy
import errno
import mmap
import os
import pickle
import random
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import hooks
from hooks.cipher import crypt, fail_inits, fail_updates, has_key, masked_key
from zswap import SwapFile, ZSwap
from zswap_core.backings import open_backing
from zswap_core.errors import BackingError
from zswap_core.libraries import ciphers

pytestmark = pytest.mark.slow

PAGE = 4096
NO_LIBRARY = {"soname": "libnone.so.9", "older": ("libnone.so.8",)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "swap"


def pages_of(seed, n, page_size=PAGE):
    return random.Random(seed).randbytes(n * page_size)


def read(file, *offsets):
    out = bytearray(len(offsets) * file.page_size)
    file.read_pages(offsets, out)
    return bytes(out)


# ---- the cipher ----------------------------------------------------------------------------------

IEEE_KEY = bytes.fromhex(
    "2718281828459045235360287471352662497757247093699959574966967627"
    "3141592653589793238462643383279502884197169399375105820974944592"
)
# IEEE 1619-2007, annex B, vectors 10 to 14 (XTS-AES-256): the data unit's number; how its
# ciphertext begins and ends.
IEEE_1619 = [
    (0xFF, "1c3b3a102f770386e4836c99e370cf9b", "a9fcea70b9c6e693e148c151"),
    (0xFFFF, "77a31251618a15e6b92d1d66dffe7b50", "42af8100cb9d59cef9645803"),
    (0xFFFFFF, "e387aaa58ba483afa7e8eb469778317e", "f52dd6888c309f5a7d712826"),
    (0xFFFFFFFF, "bf53d2dade78e822a4d949a9bc6766b0", "abb152c4a93411373aaa8220"),
    (0xFFFFFFFFFF, "64497e5a831e4a932c09be3e5393376d", "ad5b0d59631c531f6a0a57b9"),
]
VECTOR_10 = bytes.fromhex(
    "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345be"
    "fecb4bb188fd5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0c5cd4d5fff9dac89aeba122961d03a757123e987"
    "0f8acf1000020887891429ca2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa75421c790dfe1de"
    "1834f280d7667b327f6c8cd7557e12ac3a0f93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec583e9645e07b8d96"
    "70655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1505e"
    "b309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44"
    "a0f90c29a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e291"
    "0900575da401fc07059f645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed43851ad77f16f541dfd269d50d6a5f14fb0a"
    "ab1cbb4c1550be97f7ab4066193c4caa773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151"
)
PLAIN = bytes(range(256)) * 2


@pytest.mark.parametrize(("unit", "begins", "ends"), IEEE_1619)
def test_published_vectors(unit, begins, ends):
    sealed = crypt(IEEE_KEY, unit, PLAIN, True)
    assert sealed.hex().startswith(begins)
    assert sealed.hex().endswith(ends)
    if unit == 0xFF:
        assert sealed == VECTOR_10
    assert crypt(IEEE_KEY, unit, sealed, False) == PLAIN
    assert crypt(IEEE_KEY, unit + 1, sealed, False) != PLAIN


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_a_run_is_its_pages_one_by_one(page_size):
    data = b"the same page over and over!".ljust(page_size, b".") * 5
    run = crypt(IEEE_KEY, (1 << 40) + 254, data, True, page_size)
    single = [crypt(IEEE_KEY, (1 << 40) + 254 + i, data[:page_size], True) for i in range(5)]
    assert run == b"".join(single)
    assert len(set(single)) == 5  # no two places have the same ciphertext
    assert len({run[i : i + 16] for i in range(0, len(run), 16)}) == len(run) // 16
    assert crypt(IEEE_KEY, (1 << 40) + 254, run, False, page_size) == data


def test_without_libcrypto(path, monkeypatch):
    monkeypatch.setattr(ciphers, "LIBCRYPTO", ciphers.LIBCRYPTO._replace(**NO_LIBRARY))
    with pytest.raises(
        BackingError,
        match=r"encrypt=True needs libcrypto.*libnone\.so\.9.*libnone\.so\.8.*apt install",
    ) as caught:
        SwapFile(path, "64KiB", encrypt=True)
    assert caught.value.errno == errno.ENOENT
    assert str(path) in str(caught.value)
    assert not path.exists()
    with SwapFile(path, "64KiB") as file:
        assert not file.encrypted


def test_a_libcrypto_of_ones_choice(path, monkeypatch):
    monkeypatch.setenv("ZSWAP_LIBCRYPTO", __file__)
    with pytest.raises(BackingError, match=r"test_encryption\.py .*\$ZSWAP_LIBCRYPTO"):
        SwapFile(path, "64KiB", encrypt=True)


# ---- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [4096, 16384])
@pytest.mark.parametrize("direct", [True, False])
def test_the_pages_come_back_and_are_not_in_the_file(path, direct, page_size):
    rng = random.Random(page_size + direct)
    n = 200
    pages = {}
    with SwapFile(path, n * page_size, direct=direct, page_size=page_size, encrypt=True) as file:
        assert file.encrypted
        assert "encrypted" in repr(file)
        for step in range(40):
            count = rng.choice([1, 2, 70, 100])
            offsets = (
                sorted(rng.sample(range(n), count)) if step % 2 else list(range(step, step + count))
            )
            memory = memoryview(mmap.mmap(-1, (count + 1) * page_size))
            memory = memory[8 * (step % 3) :][: count * page_size]  # aligned for O_DIRECT, and not
            memory[:] = before = rng.randbytes(count * page_size)
            file.write_pages(offsets, memory)
            assert memory == before  # the caller's own are not encrypted in place
            pages.update(
                (o, before[i * page_size : (i + 1) * page_size]) for i, o in enumerate(offsets)
            )
            offsets = rng.sample(sorted(pages), rng.randrange(1, min(len(pages), 100) + 1))
            if step % 3:
                offsets.sort()
            memory = memoryview(mmap.mmap(-1, (len(offsets) + 1) * page_size))[8 * (step % 2) :][
                : len(offsets) * page_size
            ]
            file.read_pages(offsets, memory)
            assert memory == b"".join(pages[o] for o in offsets)
        content = path.read_bytes()
        for o, page in pages.items():
            assert page[:32] not in content
            assert page[-32:] not in content
            assert content[(1 + o) * page_size :][:page_size] != page
        assert masked_key(file)[:8] not in content


def test_plain_pages_would_have_been_found(path):
    page = pages_of(1, 1)
    with SwapFile(path, "64KiB") as file:
        file.write_pages([3], page)
        assert page in path.read_bytes()


def test_places_and_openings_differ(path):
    page = pages_of(2, 1)

    def sealed(*offsets):
        with SwapFile(path, "64KiB", encrypt=True) as file:
            file.write_pages(offsets, page * len(offsets))
            content = path.read_bytes()
            return [content[(1 + o) * PAGE :][:PAGE] for o in offsets]

    first, second = sealed(1, 2), sealed(1, 2)
    assert len({*first, *second}) == 4
    with SwapFile(
        path, "64KiB", encrypt=True
    ) as file:  # a documented limit: the same page at the same place is seen
        file.write_pages([5], page)
        before = path.read_bytes()
        file.write_pages([5], pages_of(3, 1))
        assert path.read_bytes()[6 * PAGE :][:PAGE] != before[6 * PAGE :][:PAGE]
        file.write_pages([5], page)
        assert path.read_bytes()[6 * PAGE :][:PAGE] == before[6 * PAGE :][:PAGE]


def test_a_moved_page_decrypts_to_garbage(path):
    with SwapFile(path, "64KiB", direct=False, encrypt=True) as file:
        file.write_pages([1, 2], pages_of(4, 2))
        with path.open("r+b", buffering=0) as raw:
            os.pwrite(raw.fileno(), os.pread(raw.fileno(), PAGE, 2 * PAGE), 3 * PAGE)
        assert read(file, 1) == pages_of(4, 2)[:PAGE]
        assert len(set(np.frombuffer(read(file, 2), np.uint8))) > 200
        assert read(file, 2) not in (pages_of(4, 2)[:PAGE], pages_of(4, 2)[PAGE:])


@pytest.mark.parametrize("shift", [0, 8])
def test_many_threads_at_once(path, shift):
    n, threads = 64, 12  # more than there are contexts
    barrier = threading.Barrier(threads)

    def work(k):
        mine = range(k * n, (k + 1) * n)
        rng = random.Random(k)
        memory = memoryview(mmap.mmap(-1, (n + 1) * PAGE))[shift:][: n * PAGE]
        barrier.wait()
        for turn in range(6):
            pages = rng.randbytes(n * PAGE)
            memory[:] = pages
            file.write_pages(mine, memory)
            if turn % 2:
                for i in rng.sample(range(n), 10):
                    file.read_pages([mine[i]], memory[:PAGE])
                    assert memory[:PAGE] == pages[i * PAGE :][:PAGE]
            file.read_pages(mine, memory)
            assert memory == pages

    with (
        SwapFile(path, threads * n * PAGE, encrypt=True) as file,
        ThreadPoolExecutor(threads) as pool,
    ):
        list(pool.map(work, range(threads)))


def test_a_failing_libcrypto_is_an_error(path):
    memory = mmap.mmap(-1, 4 * PAGE)
    memory[:] = pages = pages_of(5, 4)
    with SwapFile(path, "64KiB", encrypt=True) as file:
        file.write_pages(range(4), memory)
        before = path.read_bytes()
        for after in (0, 1, 3):
            fail_updates(file, after)
            with pytest.raises(
                BackingError, match=r"cannot write 4 pages.*libcrypto could not encrypt"
            ) as caught:
                file.write_pages(range(4), memory)
            assert caught.value.errno == errno.EKEYREJECTED
            assert memory[:] == pages
            assert path.read_bytes() == before  # of this run nothing was written
            fail_updates(file, after)
            with pytest.raises(BackingError, match="cannot read 4 pages"):
                file.read_pages(range(4), memory)
            memory[:] = pages
        fail_updates(file, 1 << 30)
        file.read_pages(range(4), memory)
        assert memory[:] == pages
        assert (file.stats()["write_failures"], file.stats()["read_failures"]) == (3, 3)
        fail_inits(file)
        with pytest.raises(BackingError, match="libcrypto"):
            file.write_pages([0], memory[:PAGE])


def test_an_engine_keeps_its_pages_when_libcrypto_fails(path, engine):
    with SwapFile(path, "1MiB", encrypt=True) as file:
        z = engine(backing=file, shrinker_enabled=False)
        pages = pages_of(6, 16)
        z.store_many(range(16), pages)
        fail_updates(file, 0)
        assert z.shrink(16) == 0
        assert z.stats().reject_reclaim_fail >= 16
        fail_updates(file, 1 << 30)
        assert z.shrink(16) == 16
        assert z.load_many(range(16)).tobytes() == pages
        fail_updates(file, 0)
        with pytest.raises(BackingError, match="backing store failed"):
            z.load(3)
        fail_updates(file, 1 << 30)
        assert z[3] == pages[3 * PAGE :][:PAGE]
        z.close()


def test_an_engine_over_a_path(path, engine):
    z = engine(backing=path, encrypt=True, max_pool_bytes="64MiB", shrinker_enabled=False)
    pages = pages_of(7, 64)
    z.store_many(range(64), pages)
    assert z.shrink(64) == 64
    with path.open("rb") as file:
        content = file.read(70 * PAGE)
    assert content.startswith(b"\x89zswap")
    assert len(set(content[PAGE : 2 * PAGE])) > 200
    assert not any(pages[i * PAGE :][:24] in content for i in range(64))
    assert z.load_many(range(64)).tobytes() == pages
    assert "encrypted" in repr(z)


def test_encrypt_has_to_be_kept(path, memory_store, engine):
    with (
        SwapFile(path, "64KiB") as plain,
        pytest.raises(ValueError, match="does not encrypt; open a SwapFile with"),
    ):
        open_backing(plain, encrypt=True)
    with pytest.raises(ValueError, match="has to encrypt by itself"):
        ZSwap(backing=memory_store(), encrypt=True)
    with pytest.raises(ValueError, match="needs a backing"):
        ZSwap(encrypt=True)
    with SwapFile(path, "64KiB", encrypt=True) as file:
        assert open_backing(file, encrypt=True) is file
        engine(backing=file, encrypt=True).close()


CLEAR = b"not for others' eyes " * 8


def in_clear(z, area, path):
    """Whether a page of this area lies in its file as it is."""
    z.store(5, (CLEAR + os.urandom(2000)).ljust(PAGE, b"x"), swap_type=area)
    assert z.shrink(99) > 0
    with path.open("rb") as file:
        return CLEAR in file.read(1 << 20)


@pytest.mark.parametrize("said", ["to the engine", "to an area", "by a file"])
def test_every_later_file_is_encrypted(path, engine, memory_store, said):
    """Once one is, wherever that was said; in clear only when that is said."""
    first, second, third, fourth = (
        path.with_name(name) for name in ("first", "second", "third", "fourth")
    )
    options = {"shrinker_enabled": False}
    if said == "to the engine":
        z = engine(backing=first, encrypt=True, **options)
    elif said == "by a file":
        z = engine(backing=SwapFile(first, "64KiB", encrypt=True), **options)
    else:
        z = engine(**options)
        assert not z.encrypt
        z.swapoff(0)
        z.swapon(0, backing=first, encrypt=True)
    assert z.encrypt
    assert "encrypted" in repr(z)
    assert not in_clear(z, 0, first)
    z.swapon(1, backing=second)
    assert not in_clear(z, 1, second)
    assert (z.stats().backed_areas, z.stats().encrypted_areas) == (2, 2)
    assert "in 2 stores, 2 encrypted" in str(z.stats())
    z.swapon(9)  # an area without a file
    # What cannot be had so is refused, and nothing is left of it.
    with SwapFile(third, "64KiB") as plain:
        with pytest.raises(ValueError, match=r"does not encrypt.*encrypt=False"):
            z.swapon(2, backing=plain)
        assert not plain.attached
        with pytest.raises(ValueError, match=r"encrypt by itself.*encrypt=False"):
            z.swapon(2, backing=memory_store())
        with pytest.raises(TypeError, match="encrypt is 'no'"):
            z.swapon(2, backing=fourth, encrypt="no")
        assert not fourth.exists()
        z.swapon(2, backing=plain, encrypt=False)
        assert in_clear(z, 2, third)
        z.swapon(3, backing=fourth, encrypt=False)
        assert in_clear(z, 3, fourth)
        z.swapon(4, backing=memory_store(), encrypt=False)
        assert (z.stats().backed_areas, z.stats().encrypted_areas) == (5, 2)
        z.swapoff(1)
        z.swapon(1, backing=second)  # as before
        assert not in_clear(z, 1, second)
        z.close()


def test_in_clear_by_default_and_when_said(path, engine):
    for encrypt in (None, False):
        z = engine(backing=path, encrypt=encrypt, shrinker_enabled=False)
        assert not z.encrypt
        assert "encrypted" not in repr(z)
        assert in_clear(z, 0, path)
        second = path.with_name("second")
        z.swapon(1, backing=second)
        assert in_clear(z, 1, second)
        z.swapon(2, backing=path.with_name("third"), encrypt=True)
        z.swapon(3, backing=path.with_name("fourth"))
        assert in_clear(z, 3, path.with_name("fourth")) == (encrypt is False)
        assert z.stats().encrypted_areas == (1 if encrypt is False else 2)
        z.close()


# ---- the key -------------------------------------------------------------------------------------


def test_closing_wipes_the_key(path):
    file = SwapFile(path, "64KiB", encrypt=True)
    other = SwapFile(path.with_name("other"), "64KiB", encrypt=True)
    assert has_key(file)
    assert masked_key(file) != masked_key(other)
    file.close()
    assert not has_key(file)
    assert has_key(other)
    other.close()


def test_nothing_of_it_can_be_copied_out(path):
    cipher = ciphers.Cipher("a file's")
    with SwapFile(path, "64KiB", encrypt=True) as file:
        for thing in (file, cipher):
            with pytest.raises(TypeError):
                copy.copy(thing)
            with pytest.raises(TypeError):
                pickle.dumps(thing)
        assert [name for name in dir(cipher) if not name.startswith("__")] == []
        assert [name for name in dir(file) if "cipher" in name or "key" in name] == []


HELPER = """
import mmap, os, sys
from zswap import SwapFile
from hooks.cipher import fail_updates, has_key, key_address, leak_key, masked_key
file = SwapFile(sys.argv[1], "1MiB", encrypt=True)
def say(*what):
    print(*what, flush=True)
def use():
    memory = mmap.mmap(-1, 64 * 4096)
    memory[:] = os.urandom(64 * 4096)
    for shift in (0, 8):
        part = memoryview(memory)[shift : shift + 32 * 4096]
        for offsets in (range(32), range(0, 64, 2)):
            file.write_pages(offsets, part)
            file.read_pages(offsets, part)
    fail_updates(file, 3)
    for call in (file.write_pages, file.read_pages):
        try:
            call(range(32), part)
        except OSError:
            pass
say(masked_key(file).hex(), key_address(file))
"""


class Other:
    """A program of its own that is told when to go on."""

    def __init__(self, source, *args):
        env = {**os.environ, "PYTHONPATH": hooks.PATH}
        self.process = subprocess.Popen(
            [sys.executable, "-c", HELPER + source, *map(str, args)],
            env=env,
            cwd=Path(args[0]).parent,  # where no sources lie about
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        mask, address = self.hear().split()
        self.key = bytes(byte ^ 0xA5 for byte in bytes.fromhex(mask))
        self.address = int(address)

    def hear(self):
        return self.process.stdout.readline()

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.communicate()

    def found(self, pid=None):
        """Where a part of the key lies, in whatever this process may write to."""
        places = []
        parts = [self.key[i : i + 16] for i in range(0, 64, 16)]
        with (
            open(f"/proc/{pid or self.process.pid}/maps") as maps,
            open(f"/proc/{pid or self.process.pid}/mem", "rb", 0) as memory,
        ):
            for line in maps:
                start, end = (int(x, 16) for x in line.split()[0].split("-"))
                if "rw" not in line or "[vvar" in line:
                    continue
                memory.seek(start)
                try:
                    text = memory.read(end - start)
                except OSError:
                    continue
                places += [start + at for part in parts if (at := text.find(part)) >= 0]
        return places


searches = pytest.mark.skipif(
    "ZSWAP_SANITIZED" in os.environ, reason="the sanitizer's memory is endless"
)


@searches
def test_the_key_is_in_its_own_page_alone(path):
    program = """
use()
say("used")
sys.stdin.readline()
leak_key(file)
say("leaked")
sys.stdin.readline()
file.close()
assert not has_key(file)
say("closed")
sys.stdin.readline()
"""
    with Other(program, path) as other:
        assert other.hear() == "used\n"
        places = other.found()
        assert places == [other.address + i for i in range(0, 64, 16)]
        other.go_on()
        assert other.hear() == "leaked\n"  # the search finds what it looks for
        assert len(other.found()) > 4
        other.go_on()
        assert other.hear() == "closed\n"
        assert other.address not in other.found()


def test_the_key_page_is_kept_from_dumps_and_swap(path):
    with Other("sys.stdin.readline()", path) as other:
        smaps = Path(f"/proc/{other.process.pid}/smaps").read_text().splitlines()
        flags, inside = [], False
        for line in smaps:
            if "-" in line.split()[0] and ":" not in line.split()[0]:
                start, end = (int(x, 16) for x in line.split()[0].split("-"))
                inside = start <= other.address < end
            elif inside and line.startswith("VmFlags:"):
                flags = line.split()[1:]
        assert {"dd", "wf"} <= set(flags)
        allowed = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] >= 65536 or os.geteuid() == 0
        if allowed and "ZSWAP_SANITIZED" not in os.environ:  # the sanitizer locks nothing
            assert "lo" in flags


@pytest.mark.skipif(
    "ZSWAP_SANITIZED" in os.environ, reason="the sanitizer says of everything that it is locked"
)
def test_a_key_that_cannot_be_locked_is_not_passed_over(python):
    program = """
import os, resource, tempfile, warnings
from zswap import SwapFile
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
folder = tempfile.mkdtemp(dir="/tmp")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with SwapFile(folder + "/swap", "64KiB", encrypt=True) as file:
        file.write_pages([1], bytes(4096))
    SwapFile(folder + "/swap", "64KiB").close()
os.unlink(folder + "/swap")
os.rmdir(folder)
for warning in caught:
    print(warning.category.__name__, warning.message)
"""
    (line,) = python(program).splitlines()
    assert line.startswith("RuntimeWarning")
    assert "cannot be locked in memory" in line
    assert "ulimit -l" in line


@searches
def test_a_forked_child_has_no_key(path):
    program = """
use()
pid = os.fork()
if not pid:
    assert not has_key(file)
    try:
        file.read_pages([0], bytearray(4096))
    except OSError as error:
        say(os.getpid(), error.errno)
    sys.stdin.readline()
    os._exit(0)
os.waitpid(pid, 0)
page = os.urandom(4096)
fail_updates(file, 1 << 30)
file.write_pages([7], page)
back = bytearray(4096)
file.read_pages([7], back)
say(back == page)
"""
    with Other(program, path) as other:
        child, code = map(int, other.hear().split())
        assert code == errno.EPERM
        assert other.found(child) == []
        assert other.found()
        other.go_on()
        assert other.hear() == "True\n"
