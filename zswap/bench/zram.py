"""A free zram device of the running kernel: taken, used, and given back as it was."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import platform
import re
import time
from pathlib import Path

from zswap.bench.corpora import PAGE
from zswap.bench.rows import Job, Nanoseconds, Order, Row, RowMissing, together

__all__ = ["REQUEST", "Zram", "ZramRow", "zsmalloc_chain"]

#: Bytes written or read by one request.
REQUEST = 128 * 1024
BLOCK = Path("/sys/block")


def zsmalloc_chain() -> int | None:
    """Most pages in a zspage of the running kernel, from its configuration; None where it does not tell."""
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
    """A zram device that nobody uses (disksize 0), as root.  `close` gives it back; so does the end of a with block.

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
        devices = sorted(BLOCK.glob("zram*"))
        if not devices:
            raise RowMissing("there is no zram device; `modprobe zram` makes one where the kernel has it")
        for self.sys in devices:
            self.dev = Path("/dev") / self.sys.name
            try:
                if int(self.read("disksize")) == 0 and self._take():
                    break
            except OSError:
                continue
        else:
            raise RowMissing(f"every zram device is in use ({', '.join(path.name for path in devices)})")
        offered = self.read("comp_algorithm")
        names = [name.strip("[]") for name in offered.split()]
        self._before = next((name.strip("[]") for name in offered.split() if name.startswith("[")), None)
        if algorithm not in names:
            self._let_go()
            raise RowMissing(f"{self.sys.name} has no {algorithm}; it has {', '.join(names)}")
        self.algorithm = algorithm

    def _take(self) -> bool:
        """Keep other runs of this away, by a lock on the directory: with the device open it could not be reset."""
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
        return (self.sys / name).read_text().strip()

    def write(self, name: str, value: object) -> None:
        (self.sys / name).write_text(f"{value}\n")

    def mm_stat(self) -> dict[str, int]:
        """What the device says of its memory."""
        names = ("orig", "payload", "used", "limit", "used_max", "same", "compacted", "raw", "raw_since")
        return dict(zip(names, map(int, self.read("mm_stat").split()), strict=False))

    def empty(self, nbytes: int) -> None:
        """Make it a device of that size without any page."""
        self._reset()
        self.write("comp_algorithm", self.algorithm)
        self.write("disksize", nbytes)

    def _reset(self) -> None:
        for attempt in range(50):
            try:
                self.write("reset", 1)
                break
            except OSError as error:  # something (udev, say) has just opened it
                if attempt == 49:
                    way = f"echo 1 > {self.sys}/reset; echo {self._before} > {self.sys}/comp_algorithm"
                    raise OSError(f"{self.dev} cannot be reset ({error.strerror}); once nobody uses it: {way}") from error
                time.sleep(0.1)

    def close(self) -> None:
        """Empty the device and set it back."""
        if self._lock < 0:
            return
        while True:  # a second Ctrl-C must not leave the device behind
            try:
                self._reset()
                if self._before is not None:
                    self.write("comp_algorithm", self._before)
                break
            except KeyboardInterrupt:
                continue
        self._let_go()

    def transfer(self, view: memoryview, *, write: bool, first: int = 0, stop: int | None = None) -> None:
        """Write bytes first .. stop - 1 of `view`, which is page-aligned, to their place on the device, or read them back."""
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
    """Kernel zram, with O_DIRECT, 128 KiB in one request.  Its memory is mm_stat's mem_used_total: the table is not in it."""

    name = "zram"
    random = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.zram = Zram(job.compressor.partition(":")[0])

    def clear(self) -> None:
        self.zram.empty(self.job.pages.nbytes)

    def _transfer(self, view: memoryview, write: bool, threads: int) -> int:
        def work(number: int) -> None:
            part = self.part(number, threads)
            self.zram.transfer(view, write=write, first=part.start * PAGE, stop=part.stop * PAGE)

        return together(threads, work)

    def store(self, threads: int = 1) -> int:
        return self._transfer(self.job.pages.reshape(-1).data, True, threads)

    def load(self, order: Order, threads: int = 1) -> int:
        return self._transfer(self.job.out.reshape(-1).data, False, threads)

    def store_each(self, ns: Nanoseconds) -> bool:
        return False

    def payload(self) -> int | None:
        return self.zram.mm_stat()["payload"]

    def resident(self, grown: int) -> int | None:
        return self.zram.mm_stat()["used"]

    def close(self) -> None:
        self.zram.close()
