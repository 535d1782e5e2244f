"""Shared libraries, opened by dlopen."""
from posix.dlfcn cimport dlerror, dlopen, dlsym, RTLD_LOCAL, RTLD_NOW

from zswap_core.fault cimport fault, Site

import os

from zswap_core.errors import CompressorNotFound
from zswap_core.libraries.find import candidates, out_of_memory


cdef extern from "<dlfcn.h>" nogil:
    ctypedef struct Dl_info:
        const char *dli_fname
    int dladdr(const void *address, Dl_info *info)


cdef class Library:
    """A shared library.

    It stays open for the life of the process: closing it would pull the code from under contexts
    still in use.
    """

    cdef void *symbol(self, str name) except NULL:
        """The address of a function; LookupError when the library lacks it."""
        cdef void *address = dlsym(self.handle,
                                   name.encode()) if fault(Site.LIBRARY_SYMBOL) == 0 else NULL
        if address == NULL:
            raise LookupError(f"it has no {name}")
        return address


cdef str last_dlerror():
    cdef const char *text = dlerror()
    return "cannot be opened" if text == NULL else os.fsdecode(text)


cdef Library try_open(object source, str origin, str what):
    """One candidate.  OSError or LookupError says why it will not do."""
    cdef Library lib = Library.__new__(Library)
    cdef Dl_info info
    cdef void *address = NULL
    cdef void *version

    # RTLD_NOW: no call may end up in the dynamic linker later, least of all one made while serving
    # a page fault.
    lib.handle = dlopen(os.fsencode(what), RTLD_NOW
                        | RTLD_LOCAL) if fault(Site.LIBRARY_OPEN) == 0 else NULL
    if lib.handle == NULL:
        raise OSError(last_dlerror())
    for name in source.symbols:
        address = lib.symbol(name)

    if source.version_symbol is not None:
        version = lib.symbol(source.version_symbol)
        lib.version = (<const char *(*)() noexcept nogil> version)().decode("ascii", "replace")
        if version_tuple(lib.version) < source.minimum:
            oldest = ".".join(map(str, source.minimum))
            raise LookupError(f"it is version {lib.version}, and {oldest} is the oldest that will "
                              "do")
    lib.library = source.library
    lib.origin = origin
    lib.path = os.fsdecode(info.dli_fname) if dladdr(address, &info) else what
    return lib


def version_tuple(text):
    """Turn "1.5.7" or "1.5.7-dev" into (1, 5, 7)."""
    numbers = []
    for part in text.partition("-")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


cpdef Library open_library(object source, object path=None):
    """Open the best candidate for a library.

    Parameters
    ----------
    source : zswap_core.libraries.find.Source
        The library wanted.
    path : str, optional
        The file to open; no other place is then looked at.

    Raises
    ------
    CompressorNotFound
        With what was tried, and what to do about it.
    """
    tried = []
    for origin, what in candidates(source, path):
        try:
            return try_open(source, origin, what)
        except (OSError, LookupError) as why:
            if out_of_memory(str(why)):
                raise MemoryError(f"no memory to load {source.library}: {why}") from None
            tried.append(f"{what} ({str(why).removeprefix(f'{what}: ')})")
    raise CompressorNotFound(
        f"{source.library} was not found; tried {', '.join(tried)}. "
        f"To get it: {source.remedy}; or let ${source.env} name the library's file"
    )
