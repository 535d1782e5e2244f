"""The reader's program: it asks the kernel about another process, and may hang or be killed.

Whatever touches another process can block: its memory may lie on a FUSE server or behind a
userfaultfd that does not answer, and its owner may hold its locks.  So all of it is done here, in a
process of its own that `zswap.pages.watch` starts and, if it has to, leaves behind.  It knows
nothing of zswap, and of Python only what starts at once.

Requests come on standard input and answers go to standard output.  A request is a letter, the
length of what follows, and that; an answer is 0 or an errno, the length of what follows, and that.
Pages go through memory that both map.
"""

import array
import errno
import fcntl
import io
import itertools
import mmap
import os
import struct
import sys

PAGE = mmap.PAGESIZE
REQUEST = struct.Struct("=cQ")
ANSWER = struct.Struct("=iQ")
NO_SCAN = errno.ENOTTY  # the answer of a kernel that has no PAGEMAP_SCAN

# PAGEMAP_SCAN, from Linux 6.7 on: the kernel walks the page tables, skips holes, and tells the zero
# page apart.
PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
# size flags start end walk_end vec vec_len max_pages inverted mask anyof return
PM_SCAN_ARG = struct.Struct("=12Q")
IS_FILE, IS_PRESENT, IS_SWAPPED, IS_PFNZERO, IS_GUARD = 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 8
REGIONS = 1 << 15

EXCLUSIVE = 1 << 56  # the page is mapped once

#: The upper bits of a word of /proc/PID/pagemap: present, swapped, of a file (or of shared memory).
ANONYMOUS_AND_PRESENT = 0b100


class Target:
    """The files of one process, opened together.

    So all are of this process, even when another gets its number later.
    """

    def __init__(self, pid: int) -> None:
        self.fds: list[int] = []
        try:
            self.directory = self.open(f"/proc/{pid}", os.O_DIRECTORY)
            self.status = self.text("status")
            leader = self.field(b"Tgid")
            if leader != pid:  # a thread was named: its process is meant
                self.directory = self.open(f"/proc/{leader}", os.O_DIRECTORY)
                self.status = self.text("status")
            if self.field(b"VmSize") is None:
                self.use_another_thread()
            # The memory first: if the process starts another program meanwhile, this is of the one
            # that was, and ends.
            self.mem = self.open("mem")
            self.pagemap = self.open("pagemap")
            self.smaps = self.open("smaps")
        except OSError:
            self.close()
            raise

    def open(self, name: str, flags: int = 0) -> int:
        """Open a file of the process, kept until `close`."""
        under = None if name.startswith("/") else self.directory
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=under)
        self.fds.append(fd)
        return fd

    def close(self) -> None:
        """Close all files."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def text(self, name: str, directory: "int | None" = None) -> bytes:
        """Read a whole file of the process."""
        fd = os.open(
            name,
            os.O_RDONLY | os.O_CLOEXEC,
            dir_fd=self.directory if directory is None else directory,
        )
        try:
            parts = []
            while part := os.read(fd, 1 << 16):
                parts.append(part)
            return b"".join(parts)
        finally:
            os.close(fd)

    def field(self, key: bytes) -> "int | None":
        """Return a number of the process's status; None where it has none of that name."""
        return next(
            (
                int(line.split()[1])
                for line in self.status.splitlines()
                if line.startswith(key + b":")
            ),
            None,
        )

    def use_another_thread(self) -> None:
        """Go over to a thread with memory: the first has none when it ended before the others.

        There is none at all where this is no process with memory.
        """
        for tid in sorted(map(int, os.listdir(self.open("task", os.O_DIRECTORY)))):
            try:
                thread = self.open(f"task/{tid}", os.O_DIRECTORY)
                status = self.text("status", thread)
            except OSError:  # it has ended too
                continue
            if b"\nVmSize:" in status:
                self.directory, self.status = thread, status
                return
        raise OSError(errno.ENXIO, "no memory")

    def amounts(self) -> bytes:
        """Return what all mappings hold together; nothing where the kernel does not tell."""
        try:
            return self.text("smaps_rollup")
        except OSError:
            return b""

    def forget(self) -> None:
        """Have the kernel forget what has been touched."""
        fd = os.open("clear_refs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.directory)
        try:
            os.write(fd, b"1\n")
        finally:
            os.close(fd)

    def referenced(self) -> bytes:
        """Return for each mapping begin, end, and bytes: anonymous, resident, touched."""
        found = array.array("Q")
        text = b"\n" + self.text("smaps")
        for block in text.split(b"\nVmFlags:")[:-1]:
            head = block[block.index(b"\n", 1) + 1 :] if found else block[1:]
            begin, _, end = head.split(None, 1)[0].partition(b"-")
            if len(begin) < 16:  # not [vsyscall]
                found.extend((int(begin, 16), int(end, 16)))
                found.extend(amount(block, key) for key in (b"Anonymous", b"Rss", b"Referenced"))
        return found.tobytes()

    def areas(self, amounts: bool) -> bytes:
        """Return a line for each mapping.

        It is its line in maps, NUL, its flags, NUL, and, where wanted, its anonymous pages.
        """
        found = []
        rest = b"\n"  # as if the flags of a mapping had just been read
        while data := self.several(self.smaps):
            text = rest + data
            whole = text.rfind(b"\n") + 1
            blocks = text[:whole].split(b"\nVmFlags:")
            for before, behind in itertools.pairwise(blocks):
                begin = before.index(b"\n") + 1
                head = before[begin : before.find(b"\n", begin)]
                flags = behind[: behind.index(b"\n")]
                found.append(
                    b"%b\0%b\0%d\n" % (head, flags, anonymous_pages(before) if amounts else 0)
                )
            rest = blocks[-1] + text[whole:]
        return b"".join(found)

    def several(self, fd: int) -> bytes:
        """Read the next few MiB of a file that the kernel gives out by the page."""
        parts, size = [], 0
        while size < 4 << 20 and (part := os.read(fd, 1 << 16)):
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    def scan(self, start: int, end: int) -> bytes:
        """Find anonymous pages, as (begin, end, categories).

        Before them: how far it came, and whether guard pages are told apart.
        """
        regions = array.array("Q", bytes(24 * REGIONS))
        to = (regions.buffer_info()[0], REGIONS, 0)
        for guard in (IS_GUARD, 0):  # told apart from Linux 6.16 on
            unwanted, wanted = IS_FILE | IS_PFNZERO | guard, IS_PRESENT | IS_SWAPPED
            request = (PM_SCAN_ARG.size, 0, start, end, 0, *to, unwanted, unwanted, wanted, wanted)
            argument = bytearray(PM_SCAN_ARG.pack(*request))
            try:
                found = fcntl.ioctl(self.pagemap, PAGEMAP_SCAN, argument)
                break
            except OSError as error:
                if error.errno != errno.EINVAL or not guard:
                    raise
        walked = PM_SCAN_ARG.unpack(argument)[4]
        return struct.pack("=QQ", walked, bool(guard)) + regions[: 3 * found].tobytes()

    def read(self, spans: "list[int]", out: memoryview) -> bytes:
        """Read (address, bytes) pairs one behind another; return a byte for each page.

        It is 0 if the page was not read, 2 if other processes have it too, else 1.

        Only what is a present anonymous page right now: reading another would bring it in, from
        swap or from a file.
        """
        done = bytearray()
        for address, nbytes in zip(spans[::2], spans[1::2], strict=True):
            words = array.array(
                "Q", os.pread(self.pagemap, nbytes // PAGE * 8, address // PAGE * 8)
            )
            count = nbytes // PAGE
            if len(words) < count and not os.pread(self.mem, 1, address):
                raise OSError(errno.ESRCH, "ended")
            there = bytearray(word >> 61 == ANONYMOUS_AND_PRESENT for word in words) + bytes(
                count - len(words)
            )
            base, at = len(done) * PAGE, 0
            while (at := there.find(1, at)) >= 0:
                stop = there.find(0, at)
                stop = count if stop < 0 else stop
                try:
                    got = (
                        os.preadv(
                            self.mem,
                            [out[base + at * PAGE : base + stop * PAGE]],
                            address + at * PAGE,
                        )
                        // PAGE
                    )
                    if not got:
                        raise OSError(errno.ESRCH, "ended")
                except OSError as error:
                    if error.errno not in (errno.EIO, errno.EFAULT, errno.ENOMEM):
                        raise
                    got = 0
                if at + got < stop:  # that one is gone; go on behind it
                    there[at + got] = 0
                    got += 1
                at += got
            for index, word in enumerate(words):
                if there[index] and not word & EXCLUSIVE:
                    there[index] = 2
            done += there
        return bytes(done)


def amount(block: bytes, key: bytes) -> int:
    """Bytes that a mapping has of something according to smaps."""
    at = block.find(b"\n" + key + b":")
    return int(block[at + len(key) + 2 :].split(None, 1)[0]) * 1024 if at >= 0 else 0


def anonymous_pages(block: bytes) -> int:
    """Pages present and swapped that a mapping has according to smaps."""
    total = 0
    for key in (b"\nAnonymous:", b"\nSwap:"):
        if (at := block.find(key)) >= 0:
            total += -(-int(block[at + len(key) :].split(None, 1)[0]) * 1024 // PAGE)
    return total


def command(pid: int) -> bytes:
    """Return the command line, or the name in brackets when there is none."""
    with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
        words = cmdline.read(4096).rstrip(b"\0")
    if words:
        return words
    with open(f"/proc/{pid}/comm", "rb") as comm:
        return b"[" + comm.read().strip() + b"]"


def exactly(file: io.FileIO, length: int) -> bytes:
    """So many bytes of a pipe; fewer when the other end is closed."""
    parts = []
    while length and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def serve(pages: memoryview, requests: io.FileIO, answers: io.FileIO) -> None:
    """Answer until nobody asks any more."""
    target = None
    while len(head := exactly(requests, REQUEST.size)) == REQUEST.size:
        letter, length = REQUEST.unpack(head)
        payload = exactly(requests, length)
        try:
            numbers = array.array("Q", payload).tolist()
            code, answer = 0, b""
            if letter == b"c":
                answer = command(numbers[0])
            elif letter == b"o":
                if target is not None:
                    target.close()
                target = None
                target = Target(numbers[0])
                answer = target.status
            elif target is None:
                code = errno.EBADF
            elif letter == b"m":
                answer = target.text("mountinfo")
            elif letter == b"p":
                answer = target.text("stat") + target.amounts()
            elif letter == b"k":
                target.forget()
            elif letter == b"f":
                answer = target.referenced()
            elif letter == b"a":
                answer = target.areas(bool(numbers[0]))
            elif letter == b"s":
                answer = target.scan(*numbers)
            elif letter == b"w":
                answer = os.pread(target.pagemap, numbers[1] * 8, numbers[0] * 8)
            elif letter == b"r":
                answer = target.read(numbers, pages)
        except OSError as error:
            code, answer = error.errno or errno.EIO, b""
        rest = memoryview(ANSWER.pack(code, len(answer)) + answer)
        while rest:
            rest = rest[answers.write(rest) :]


if __name__ == "__main__":
    serve(memoryview(mmap.mmap(int(sys.argv[1]), 0)), io.FileIO(0), io.FileIO(1, "w"))
