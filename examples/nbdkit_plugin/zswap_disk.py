"""A compressed RAM disk for nbdkit, for those without a C compiler; zswap-plugin.c is faster.

    nbdkit -U disk.sock python zswap_disk.py size=4G limit=512M backing=/var/tmp/disk

nbdkit was built with one Python, which must find zswap: set PYTHONPATH, or install it there.
"""

import os

import nbdkit

import zswap

API_VERSION = 2
PAGE, MIB = 4096, 1 << 20
PARAMETERS = ("size", "limit", "backing", "compressor", "encrypt")

given = {"compressor": "lz4", "encrypt": "true"}
disk = None  # a zswap.PageFile


def config(key, value):
    if key not in PARAMETERS:
        raise ValueError(f"there is no parameter {key!r}; there are {', '.join(PARAMETERS)}")
    if key in ("size", "limit"):
        value = nbdkit.parse_size(value)
    elif key == "backing":  # in the background the folder is another
        value = os.path.abspath(value)
    elif key == "encrypt" and value not in ("true", "false"):
        raise ValueError(f"encrypt={value}: true or false is needed")
    given[key] = value


def config_complete():
    if not given.get("size"):
        raise ValueError("size= is missing, or 0: how large the disk is to be, as size=4G")


def make():
    """The engine that the parameters ask for."""
    backing = None
    if "backing" in given:
        # twice: a page that changes takes another for a while
        room = -(-given["size"] // PAGE) * PAGE * 2
        backing = zswap.SwapFile(
            given["backing"], room, encrypt=given["encrypt"] == "true", unlink=True
        )
    return zswap.ZSwap(
        given["compressor"],
        max_pool_bytes=given.get("limit"),
        backing=backing,
        accept_threshold_percent=90 if backing else 100,
    )


def get_ready():
    """Have it said at the terminal what is wrong: nbdkit is about to go to the background."""
    make().close()


def after_fork():
    """Begin, since no engine survives a fork."""
    global disk
    disk = zswap.PageFile(make())
    disk.truncate(given["size"])


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def open(readonly):
    return 1


def get_size(handle):
    return given["size"]


def can_multi_conn(handle):
    return True


def can_fua(handle):
    return nbdkit.FUA_NATIVE


def pread(handle, buf, offset, flags):
    disk.readinto_at(buf, offset)


def pwrite(handle, buf, offset, flags):
    done = 0
    while done < len(buf):
        try:
            done += disk.write_at(memoryview(buf)[done:], offset + done)
        except OSError as error:
            nbdkit.set_error(error.errno)
            raise


def flush(handle, flags):
    """Nothing outlives the process, so nothing is more durable after it than before."""


def trim(handle, count, offset, flags):
    disk.punch(offset, count)


def zero(handle, count, offset, flags):
    if flags & nbdkit.FLAG_MAY_TRIM:
        disk.punch(offset, count)
        return
    for at in range(offset, offset + count, MIB):  # no hole is wanted
        pwrite(handle, bytes(min(MIB, offset + count - at)), at, flags)


def extents(handle, count, offset, flags):
    found, at, end = [], offset, offset + count
    while at < end:
        until = min(disk.seek(at, os.SEEK_HOLE), end)
        kind = 0
        if until == at:
            try:
                until = min(disk.seek(at, os.SEEK_DATA), end)
            except OSError:  # there is no more
                until = end
            kind = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
        found.append((at, until - at, kind))
        at = until
    return found
