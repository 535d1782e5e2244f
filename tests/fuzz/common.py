"""What the drives share: reading choices from a fuzzer's bytes, and buffers that end where memory
does."""

import ctypes
import mmap
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import hooks  # noqa: F401 (it makes _validate)

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


class Data:
    """A fuzzer's bytes, read as choices.  When they are used up, everything is 0 or empty."""

    def __init__(self, data):
        self.data, self.at = bytes(data), 0

    def take(self, n):
        """Up to n bytes."""
        self.at += n
        return self.data[self.at - n : self.at]

    def rest(self):
        """All that are left."""
        return self.take(len(self.data))

    def number(self, low, high):
        """A whole number in low..high."""
        wide = (high - low).bit_length() + 7 >> 3
        return low + int.from_bytes(self.take(wide), "little") % (high - low + 1)

    def pick(self, choices):
        """One of them."""
        return choices[self.number(0, len(choices) - 1)]

    def more(self):
        """Whether something is left."""
        return self.at < len(self.data)


class Guarded:
    """Memory behind which there is none: who reads or writes beyond its end is killed."""

    def __init__(self, size):
        self.size = -size % PAGE + size
        self.map = mmap.mmap(-1, self.size + PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        if libc.mprotect(start + self.size, PAGE, 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")

    def last(self, n):
        """The last n bytes."""
        return memoryview(self.map)[self.size - n : self.size]

    def holding(self, data):
        """The last bytes, filled with these."""
        view = self.last(len(data))
        view[:] = data
        return view


def mutate(data, base):
    """Change `base` as a fuzzer's bytes say: flips, other bytes, cuts, repetitions."""
    out = bytearray(base)
    for _ in range(data.number(1, 8)):
        how, at = data.number(0, 5), data.number(0, max(len(out) - 1, 0))
        if how == 0 and out:
            out[at] ^= 1 << data.number(0, 7)
        elif how == 1 and out:
            out[at] = data.pick((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
        elif how == 2:
            out[at : at + 4] = data.take(data.number(0, 8))
        elif how == 3:
            del out[at:]
        elif how == 4:
            del out[at : at + data.number(1, 16)]
        else:
            out[at:at] = out[at : at + data.number(1, 64)]
    return bytes(out)


def page_of(data, size=PAGE):
    """A page of one kind or another."""
    kind, seed = data.number(0, 3), data.number(0, 0xFFFF)
    word = (seed * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "little")
    if kind == 0:
        return word * (size // 8)
    text = f"page {seed} of what a program holds, ".encode() * size
    if kind == 1:
        return text[:size]
    noise = b"".join(
        ((seed + n) * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "little") for n in range(size // 8)
    )
    return noise if kind == 2 else (noise[: size // 3] + text)[:size]
