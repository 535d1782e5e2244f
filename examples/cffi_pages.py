"""Pages stored and loaded through the functions of zswap.h, by cffi: no compiler, and no GIL.

    pip install cffi

What calls by function pointers, numba for one, has them in the same way.
"""

import ctypes
import re
from pathlib import Path

from cffi import FFI

import zswap
import zswap_core
import zswap_core.api

PAGE = 4096


def table(ffi):
    """Tell cffi what zswap.h declares, and give the table."""
    header = (Path(zswap_core.get_include()) / "zswap" / "zswap.h").read_text()
    header = re.sub(r"#ifdef Py_PYTHON_H.*?\n#endif", "", header, flags=re.DOTALL)
    ffi.cdef(re.sub(r"^#.*", "", header, flags=re.MULTILINE))
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ffi.cast("zswap_api *", pointer(zswap_core.api.v1, b"zswap_core.api.v1"))


def reference(ffi, api, engine):
    """Open an engine: the one function that needs the GIL, which cffi gives away and ctypes not."""
    address = int(ffi.cast("uintptr_t", api.open))
    opened = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(address)(engine)
    return ffi.cast("zswap_engine *", opened)


def main():
    """Store pages, load them, and say what they take."""
    ffi = FFI()
    api = table(ffi)
    with zswap.ZSwap(max_pool_bytes="64MiB") as z:
        engine = reference(ffi, api, z)
        pages = {n: (b"page %d " % n * PAGE)[:PAGE] for n in range(1000)}
        for offset, page in pages.items():
            status = api.store(engine, 0, offset, page)
            assert status >= 0, ffi.string(api.status_text(status))
        room = ffi.new("char[]", PAGE)
        for offset, page in pages.items():
            assert api.load(engine, 0, offset, room) >= 0
            assert ffi.buffer(room)[:] == page
        figures = ffi.new("zswap_figures *", {"struct_size": ffi.sizeof("zswap_figures")})
        api.figures(engine, figures)
        print(f"{figures.stored_pages} pages in {figures.pool_total_size} bytes")
        api.unref(engine)


if __name__ == "__main__":
    main()
