"""Where the libraries are: which files may hold each one, best first.

Nothing is imported or opened here.
"""

import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from typing import NamedTuple


class Source(NamedTuple):
    """A C library and the places where it may be."""

    library: str
    env: str  # environment variable that names the file
    module: str | None  # extension module, in a wheel, that exports the library's functions
    soname: str
    remedy: str
    symbols: tuple[str, ...]  # without any one of these a candidate is passed over
    version_symbol: str | None = None  # `const char *(void)`
    minimum: tuple[int, ...] = ()
    older: tuple[str, ...] = ()  # sonames of earlier versions that will do as well


# Distributions want their own libraries, which they keep up to date: set it, or patch the default
# to "system".
PREFERENCE_ENV = "ZSWAP_LIBRARIES"
DEFAULT_PREFERENCE = "wheel"

LIBLZ4 = Source(
    library="liblz4",
    env="ZSWAP_LIBLZ4",
    module="lz4.block._block",
    soname="liblz4.so.1",
    remedy="pip install lz4",
    symbols=(
        "LZ4_sizeofState",
        "LZ4_compress_fast_extState",
        "LZ4_decompress_safe",
        "LZ4_sizeofStateHC",
        "LZ4_initStreamHC",
        "LZ4_resetStreamHC_fast",
        "LZ4_compress_HC_continue",
    ),
    version_symbol="LZ4_versionString",
    # the first without CVE-2021-3520; LZ4_resetStreamHC_fast is public since 1.9.0
    minimum=(
        1,
        9,
        4,
    ),
)

LIBZSTD = Source(
    library="libzstd",
    env="ZSWAP_LIBZSTD",
    module="zstd",
    soname="libzstd.so.1",
    remedy="pip install zstd",
    symbols=(
        "ZSTD_compressBound",
        "ZSTD_createCCtx",
        "ZSTD_freeCCtx",
        "ZSTD_CCtx_setParameter",
        "ZSTD_compress2",
        "ZSTD_createDCtx",
        "ZSTD_freeDCtx",
        "ZSTD_DCtx_setParameter",
        "ZSTD_decompressDCtx",
        "ZSTD_createCDict",
        "ZSTD_freeCDict",
        "ZSTD_CCtx_refCDict",
        "ZSTD_createDDict",
        "ZSTD_freeDDict",
        "ZSTD_DCtx_refDDict",
        "ZSTD_isError",
        "ZSTD_getErrorCode",
    ),
    version_symbol="ZSTD_versionString",
    minimum=(1, 4, 0),  # the first with ZSTD_compress2 as a stable function
)

# The part of libzstd that makes dictionaries, which the wheel of LIBZSTD leaves out.
LIBZDICT = Source(
    library="libzstd's dictionary builder",
    env="ZSWAP_LIBZDICT",
    module="zstandard._cffi",
    soname="libzstd.so.1",
    remedy="pip install zstandard, or install the system's libzstd (apt install libzstd1)",
    symbols=("ZDICT_trainFromBuffer", "ZDICT_isError", "ZDICT_getErrorName"),
    version_symbol="ZSTD_versionString",
    minimum=(1, 3, 6),  # the first whose plain trainer chooses its parameters by trying them
)

LIBLZO2 = Source(
    library="liblzo2",
    env="ZSWAP_LIBLZO2",
    module=None,
    soname="liblzo2.so.2",
    remedy="install the system's liblzo2 (apt install liblzo2-2), or pip install lzallright",
    symbols=("__lzo_init_v2", "lzo_version", "lzo1x_1_compress", "lzo1x_decompress_safe"),
    version_symbol="lzo_version_string",
    minimum=(2, 0),
)

LIBDEFLATE = Source(
    library="libdeflate",
    env="ZSWAP_LIBDEFLATE",
    module="deflate._deflate",
    soname="libdeflate.so.0",
    remedy="pip install deflate",
    symbols=(
        "libdeflate_alloc_compressor",
        "libdeflate_free_compressor",
        "libdeflate_deflate_compress_bound",
        "libdeflate_deflate_compress",
        "libdeflate_alloc_decompressor",
        "libdeflate_free_decompressor",
        "libdeflate_deflate_decompress_ex",
    ),
)

# No wheel exports these functions: those that bring a libcrypto keep it to themselves.
LIBCRYPTO = Source(
    library="libcrypto",
    env="ZSWAP_LIBCRYPTO",
    module=None,
    soname="libcrypto.so.3",
    older=("libcrypto.so.1.1",),
    remedy="install the system's OpenSSL (apt install libssl3, dnf install openssl-libs, apk add "
    "libcrypto3)",
    symbols=(
        "EVP_aes_256_xts",
        "EVP_CIPHER_CTX_new",
        "EVP_CIPHER_CTX_free",
        "EVP_CipherInit_ex",
        "EVP_CipherUpdate",
    ),
)

# Where a page's checksum may come from; the first symbol makes it.
CRC_OF_LIBDEFLATE = LIBDEFLATE._replace(symbols=("libdeflate_crc32",))
XXH64_OF_LIBZSTD = LIBZSTD._replace(symbols=("ZSTD_XXH64",))
XXH3_OF_LIBXXHASH = Source(
    library="libxxhash",
    env="ZSWAP_LIBXXHASH",
    module="xxhash._xxhash",
    soname="libxxhash.so.0",
    remedy="pip install xxhash",
    symbols=("XXH3_64bits",),
)


def out_of_memory(why: str) -> bool:
    """Whether the dynamic linker failed for want of memory.

    That is so under a limit on address space (RLIMIT_AS, ulimit -v).
    """
    refused = "not permitted" in why or "denied" in why  # a mount without exec
    return not refused and any(
        sign in why for sign in ("failed to map segment", "annot allocate memory", "zero-fill")
    )


def explicit_path(source: Source, path: str | None = None) -> str | None:
    """Return the file the user asked for, by argument or else by environment variable."""
    return path or os.environ.get(source.env) or None


def candidates(source: Source, path: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield (origin, what to open), best first.

    A file that the user names is the only candidate: another one taken in its place would be a
    surprise.  A wheel comes before the system's library, or after it where PREFERENCE_ENV says
    "system".
    """
    chosen = explicit_path(source, path)
    if chosen is not None:
        yield "path", chosen
        return
    wheel = module_file(source.module) if source.module is not None else None
    wheels = [("wheel", wheel)] if wheel is not None else []
    system = [("system", soname) for soname in (source.soname, *source.older)]
    preference = os.environ.get(PREFERENCE_ENV) or DEFAULT_PREFERENCE
    yield from system + wheels if preference == "system" else wheels + system


def module_file(name: str) -> str | None:
    """Return the file of a module, or None.

    Unlike importlib.util.find_spec, this imports no parent package.
    """
    loaded = sys.modules.get(name)
    if loaded is not None:
        return getattr(loaded, "__file__", None)
    parts = name.split(".")
    path = None
    spec = None
    for i in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:i]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and i < len(parts):
            return None
    return spec.origin if spec is not None and spec.has_location else None
