"""A zram device of the running kernel: added or found free, used, and given back as it was."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import os
import platform
import re
import secrets
import time
from pathlib import Path

from zswap.bench.corpora import PAGE
from zswap.bench.rows import Job, Nanoseconds, Order, Row, RowMissing, together

__all__ = ["REQUEST", "Zram", "ZramRow", "zsmalloc_chain"]

#: Bytes written or read by one request.
REQUEST = 128 * 1024
BLOCK, CONTROL, DEV = Path("/sys/block"), Path("/sys/class/zram-control"), Path("/dev")


def _add() -> int | None:
    """Return the number of a device that the kernel makes for us; None where it does not.

    Nor where it could not be taken away again: to make one is to read, also of a read-only /sys.
    """
    if not os.access(CONTROL / "hot_remove", os.W_OK):
        return None
    with contextlib.suppress(OSError, ValueError):
        return int((CONTROL / "hot_add").read_text())
    return None


def _remove(number: int) -> None:
    """Take such a device away, unless somebody uses it by now."""
    for _ in range(50):
        if (BLOCK / f"zram{number}/disksize").read_text().strip() != "0":
            return
        try:
            (CONTROL / "hot_remove").write_text(f"{number}\n")
        except OSError:  # udev may look at it
            time.sleep(0.1)
        else:
            return


def zsmalloc_chain() -> int | None:
    """Return the most pages in a zspage of the running kernel, by its configuration.

    None where that does not tell.
    """
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{platform.release()}")):
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
            if match := re.search(r"^CONFIG_ZSMALLOC_CHAIN_SIZE=(\d+)", text, re.MULTILINE):
                return int(match[1])
            if "CONFIG_ZSMALLOC=" in text:
                return 4  # before Linux 6.3
    return None


class Zram:
    """A zram device of our own, as root; where none can be added, an unused one.

    `close` gives it back.

    Whoever sets up a device at the same moment must not lose it to us.  The kernel lets one alone
    set a size (EBUSY for the other), and no device be reset that is open: so a device is ours from
    the moment its size is set, and is held open.  Its size is one that nobody else would choose, by
    which we know it again before it is reset.

    Parameters
    ----------
    algorithm : str
        As in its comp_algorithm.

    Raises
    ------
    RowMissing
        Why there is none.
    """

    def __init__(self, algorithm: str) -> None:
        if os.geteuid() != 0:
            raise RowMissing("a zram device can be used by root only; run as root")
        self.algorithm = algorithm
        self._lock = self._held = -1
        self._size: int | None = None  # while it is ours
        self._before: str | None = None
        self.added = _add()
        devices = (
            [BLOCK / f"zram{self.added}"] if self.added is not None else sorted(BLOCK.glob("zram*"))
        )
        if not devices:
            raise RowMissing(
                "there is no zram device; `modprobe zram` makes one where the kernel has it"
            )
        why = f"every zram device is in use ({', '.join(path.name for path in devices)})"
        for self.sys in devices:
            self.dev = DEV / self.sys.name
            try:
                if int(self.read("disksize")) == 0 and self._take():
                    names = self._algorithms()
                    if algorithm not in names:
                        raise RowMissing(
                            f"{self.sys.name} has no {algorithm}; it has {', '.join(names)}"
                        )
                    self._claim(PAGE)
                    return
            except OSError as error:
                why = f"no zram device can be used ({self.sys.name}: {error.strerror})"
            except RowMissing:
                self.close()
                raise
            self.close()
        raise RowMissing(why)

    def _algorithms(self) -> list[str]:
        offered = self.read("comp_algorithm").split()
        self._before = next((name.strip("[]") for name in offered if name.startswith("[")), None)
        return [name.strip("[]") for name in offered]

    def _take(self) -> bool:
        """Lock out other runs of this, between a reset and the next claim too."""
        self._lock = os.open(self.sys, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._let_go()
            return False
        return True

    def _let_go(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Zram:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read(self, name: str) -> str:
        """Read a file of the device's in sysfs."""
        return (self.sys / name).read_text().strip()

    def write(self, name: str, value: object) -> None:
        """Write a file of the device's in sysfs."""
        (self.sys / name).write_text(f"{value}\n")

    def mm_stat(self) -> dict[str, int]:
        """Read what the device says of its memory."""
        names = (
            "orig",
            "payload",
            "used",
            "limit",
            "used_max",
            "same",
            "compacted",
            "raw",
            "raw_since",
        )
        return dict(zip(names, map(int, self.read("mm_stat").split()), strict=False))

    def empty(self, nbytes: int) -> None:
        """Make it a device of that size, or a little more, without any page."""
        self._release()
        self._claim(nbytes)

    def _claim(self, nbytes: int) -> None:
        """Make a device without a size ours."""
        self.write("comp_algorithm", self.algorithm)
        size = nbytes + PAGE * (1 + secrets.randbelow(4096))
        self.write("disksize", size)
        self._size = size
        self._held = os.open(self.dev, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        if not self._is_ours():
            raise OSError(errno.EBUSY, "somebody else has just set it up")

    def _is_ours(self) -> bool:
        """Whether it is still the device that we gave a size."""
        if self._size is not None and int(self.read("disksize")) != self._size:
            self._size = None
        return self._size is not None

    def _release(self) -> bool:
        """Make it a device without a size again, if it is ours; whether it was."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
        for attempt in range(50):
            if not self._is_ours():
                return False
            try:
                self.write("reset", 1)
                break
            except OSError as error:  # something (udev, say) has just opened it
                if attempt == 49:
                    way = (
                        f"echo 1 > {self.sys}/reset; echo {self._before} > "
                        f"{self.sys}/comp_algorithm"
                    )
                    raise OSError(
                        f"{self.dev} cannot be reset ({error.strerror}); once nobody uses it: {way}"
                    ) from error
                time.sleep(0.1)
        self._size = None
        return True

    def close(self) -> None:
        """Give it back as it was, or away; what is not ours any more is left alone."""
        if self._lock < 0 and self.added is None:
            return
        while True:  # a second Ctrl-C must not leave the device behind
            try:
                mine = self._release()
                if self.added is not None:
                    _remove(self.added)
                    self.added = None
                elif mine and self._before is not None:
                    with contextlib.suppress(OSError):  # the next one was faster
                        self.write("comp_algorithm", self._before)
                break
            except KeyboardInterrupt:
                continue
        self._let_go()

    def transfer(
        self, view: memoryview, *, write: bool, first: int = 0, stop: int | None = None
    ) -> None:
        """Write `view`, which is page-aligned, to its place on the device, or read it back.

        Only bytes first .. stop - 1 are moved.
        """
        stop = len(view) if stop is None else stop
        fd = os.open(self.dev, (os.O_WRONLY if write else os.O_RDONLY) | os.O_DIRECT | os.O_CLOEXEC)
        try:
            for at in range(first, stop, REQUEST):
                part = view[at : min(at + REQUEST, stop)]
                done = os.pwrite(fd, part, at) if write else os.preadv(fd, [part], at)
                if done != len(part):
                    raise OSError(f"{self.dev}: {done} bytes of {len(part)} at {at}")
        finally:
            os.close(fd)


class ZramRow(Row):
    """Kernel zram, with O_DIRECT, 128 KiB in one request.

    Its memory is mm_stat's mem_used_total, which leaves the table out.
    """

    name = "zram"
    random = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.zram = Zram(job.compressor.partition(":")[0])

    def clear(self) -> None:
        """Empty the device."""
        self.zram.empty(self.job.pages.nbytes)

    def _transfer(self, view: memoryview, write: bool, threads: int) -> int:
        def work(number: int) -> None:
            part = self.part(number, threads)
            self.zram.transfer(view, write=write, first=part.start * PAGE, stop=part.stop * PAGE)

        return together(threads, work)

    def store(self, threads: int = 1) -> int:
        """Write all pages; returns the nanoseconds."""
        return self._transfer(self.job.pages.reshape(-1).data, True, threads)

    def load(self, order: Order, threads: int = 1) -> int:
        """Read all pages, in order whatever is asked; returns the nanoseconds."""
        return self._transfer(self.job.out.reshape(-1).data, False, threads)

    def store_each(self, ns: Nanoseconds) -> bool:
        """Time no single page: a request is many."""
        return False

    def payload(self) -> int | None:
        """Bytes of the compressed pages."""
        return self.zram.mm_stat()["payload"]

    def resident(self, grown: int) -> int | None:
        """Bytes that the device's allocator takes, as it says itself."""
        return self.zram.mm_stat()["used"]

    def close(self) -> None:
        """Give the device back."""
        self.zram.close()
