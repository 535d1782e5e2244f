"""Opening a file of any content and length as a swap file: refused and left as it is, or opened and
good for pages."""

import os
import struct
import tempfile
import zlib

from common import Data, mutate

import zswap

HEADER = struct.Struct("<16sIIQ16sII")
MAGIC = b"\x89zswap swap\r\n\x1a\n\0"
LARGEST = 1 << 24
folder = tempfile.TemporaryDirectory(prefix="zswap-fuzz-")
path = os.path.join(folder.name, "swap")


def content_of(data):
    """What the file holds, and its length."""
    if data.number(0, 7) == 0:
        content = data.rest()
        return content, len(content)
    page_size = data.pick(
        (4096, 4096, 16384, 65536, 0, 512, 4097, 0xFFFFFFFF, data.number(0, 0xFFFFFFFF))
    )
    pages = data.pick(
        (1, 2, data.number(0, 60), data.number(0, 2**64 - 1), 2**64 // max(page_size, 1) % 2**64, 0)
    )
    version = data.pick((1, 1, 1, 1, 0, 2, 0xFFFFFFFF))
    state = data.pick((0, 0, 1, 2, 3, data.number(0, 0xFFFFFFFF)))
    header = HEADER.pack(
        MAGIC,
        version,
        page_size,
        pages,
        data.take(16).ljust(16, b"\0"),
        state,
        data.number(0, 99999),
    )
    header = header.ljust(4092, b"\0")
    header += zlib.crc32(header).to_bytes(4, "little")
    if data.number(0, 3) == 0:
        header = mutate(data, header)
        if len(header) >= 4096 and data.number(0, 1):
            header = header[:4092] + zlib.crc32(header[:4092]).to_bytes(4, "little") + header[4096:]
    length = (pages + 1) * page_size % (1 << 64)
    if data.number(0, 3) == 0 or length > LARGEST:
        length = data.pick((0, 4095, 4096, 4097, data.number(0, LARGEST)))
    return header[:length], length


def use(file, data):
    """It is as good as new."""
    size, last = file.page_size, file.nr_pages - 1
    offsets = sorted({0, last, data.number(0, last)})
    out = bytearray(len(offsets) * size)
    file.read_pages(offsets, out)
    assert not any(out), "what was there before was read"
    pages = bytes([data.number(1, 255)]) * len(out)
    file.write_pages(offsets, pages)
    file.read_pages(offsets, out)
    assert out == pages
    try:
        file.read_pages([last + 1], bytearray(size))
    except ValueError:
        pass
    else:
        raise AssertionError("it read beyond its end")


def one_input(data):
    """Try one."""
    data = Data(data)
    size = data.pick((None, 4096, "64KiB", 1 << 20, 0, -1, "x", 100_000, 65536, 1 << 63))
    page_size = data.pick((4096, 4096, 16384, 65536, 4095))
    direct, preallocate = bool(data.number(0, 1)), data.number(0, 7) == 7
    content, length = content_of(data)
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
        file.truncate(length)
    try:
        file = zswap.SwapFile(path, size, direct, preallocate, page_size)
    except (zswap.BackingError, ValueError):
        with open(path, "rb") as kept:
            found = kept.read(len(content))
        # One that was a swap file and could not become one again may be empty now; nothing else has
        # changed.
        assert (os.stat(path).st_size, found) == (length, content) or content.startswith(MAGIC), (
            "a refused file was changed"
        )
    else:
        assert length == 0 or content.startswith(MAGIC), "a foreign file was taken"
        with file:
            use(file, data)
        with zswap.SwapFile(path, page_size=page_size) as again:
            assert not again.left_open
    os.unlink(path)
