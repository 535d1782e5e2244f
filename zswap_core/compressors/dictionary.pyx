"""Making dictionaries, with the part of libzstd that does so."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from zswap_core.buffers cimport Items, items_of
from zswap_core.libraries.bind cimport Library, open_library

import numpy as np

from zswap_core.buffers import plain_view
from zswap_core.libraries.find import LIBZDICT

ctypedef size_t (*train_call)(void *out, size_t cap, const void *samples, const size_t *sizes,
                              unsigned int n) noexcept nogil
ctypedef unsigned int (*is_error_call)(size_t code) noexcept nogil
ctypedef const char *(*error_name_call)(size_t code) noexcept nogil

SIZES = 256, 1 << 20
# bytes of samples for each byte of dictionary: more hardly betters it
SAMPLES = 100
FEWEST = 16                         # samples; from very few the library makes nothing


def sample_pages(pages, page_size, most):
    """Up to `most` pages, evenly spread over those that are not one repeated word: only they meet a
    compressor.

    Returns
    -------
    ndarray of uint8, shape (n, page_size)
    """
    words = np.frombuffer(pages, np.uint8).reshape(-1, page_size).view(np.uint64)
    alike = np.flatnonzero(words[:, 0] == words[:, -1])
    alike = alike[(words[alike] == words[alike, :1]).all(axis=1)]
    chosen = np.delete(np.arange(len(words)), alike)
    if len(chosen) > most:
        chosen = chosen[np.arange(most) * len(chosen) // most]
    return np.ascontiguousarray(words[chosen]).view(np.uint8)


def train_dictionary(pages, size=16 << 10, *, page_size=4096):
    """Make a dictionary of what pages have in common, for ``ZSwap("zstd:3", dictionary=...)``.

    It pays where pages hold many small records of a kind, as the heap of a program in Python or the
    pages of a database do. Train on pages of the program that will be compressed; a few thousand
    are enough.

    Parameters
    ----------
    pages : buffer of n * page_size bytes
        The pages to learn from, one after another.  Same-filled ones are left out; of more than
        about ``100 * size`` bytes an even choice is taken.
    size : int, default 16384
        Its size in bytes at most, 256 to 1048576.  A larger one finds more and is slower, the more
        so when it does not fit into the processor's second cache any more.
    page_size : int, default 4096
        4096, 16384 or 65536, as for `ZSwap`.

    Returns
    -------
    bytes
        The same for the same pages and the same libzstd.

    Raises
    ------
    ValueError
        When the pages are too few, or have too little in common for a dictionary.
    CompressorNotFound
        When no libzstd with a dictionary builder is found.  Any bytes that many pages contain can
        be given as a dictionary in place of a trained one.
    """
    low, high = SIZES
    if isinstance(size, bool) or not isinstance(size, int) or not low <= size <= high:
        raise ValueError(f"size is {size!r}; {low} to {high} is needed")
    if page_size not in (4096, 16384, 65536):
        raise ValueError(f"page_size is {page_size}; 4096, 16384 or 65536 is needed")
    view = plain_view(pages, "pages")
    if not view.c_contiguous or view.nbytes % page_size:
        raise ValueError(f"pages must be a C-contiguous buffer of whole pages of {page_size} "
                         f"bytes, not of {view.nbytes} bytes")
    samples = view
    if view.nbytes:
        samples = sample_pages(view, page_size, max(SAMPLES * size // page_size, FEWEST))
    if len(samples) < FEWEST:
        raise ValueError(f"{len(samples)} pages that are not same-filled are too few to learn "
                         f"from; {FEWEST} are needed")
    return train(open_library(LIBZDICT), samples, size)


cdef bytes train(Library lib, object samples, size_t size):
    cdef train_call train = <train_call> lib.symbol("ZDICT_trainFromBuffer")
    cdef is_error_call is_error = <is_error_call> lib.symbol("ZDICT_isError")
    cdef error_name_call error_name = <error_name_call> lib.symbol("ZDICT_getErrorName")
    cdef Items pages = items_of(samples, "samples", 1)
    cdef Items lengths = items_of(np.full(len(samples), samples.shape[1], np.uintp), "lengths",
                                  sizeof(size_t))
    cdef unsigned int n = <unsigned int> len(samples)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, size)
    cdef char *data = PyBytes_AS_STRING(out)
    cdef size_t done
    with nogil:
        done = train(data, size, pages.at, <const size_t *> lengths.at, n)
    if is_error(done):
        why = error_name(done).decode("ascii", "replace")
        raise ValueError(f"libzstd makes no dictionary of these {n} pages ({why}): give more "
                         "pages, or a smaller size")
    return out[:done]
