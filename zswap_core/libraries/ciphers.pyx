"""AES-256-XTS with a key that lives as long as one object: what an encrypted swap file is written
with.

A page is a data unit, and its tweak the number of that unit (IEEE 1619).  The key comes from the
system's generator, lies on a page of its own and is never anywhere else but in the libcrypto
context of a call under way: a context gets the key when a call begins and another one, which is no
secret, before it ends.
"""
from libc.errno cimport ENOENT, ENOMEM, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset
from posix.mman cimport mlock

from zswap_core.libraries.bind cimport Library, open_library
from zswap_core.os cimport (
    EKEYREJECTED, zsw_lock_any, zsw_map_secret, zsw_random, zsw_unlock, zsw_unmap_secret, zsw_wipe,
)

import os
import warnings

from zswap_core.errors import BackingError, CompressorNotFound
from zswap_core.libraries.find import LIBCRYPTO


cdef enum:
    TWEAK_BYTES = 16

# What a context knows when it is idle.  libcrypto wants the halves to differ.
cdef uint8_t NO_KEY[KEY_BYTES]
memset(NO_KEY, 0, KEY_BYTES // 2)
memset(NO_KEY + KEY_BYTES // 2, 1, KEY_BYTES // 2)


cdef void set_tweak(uint8_t *tweak, uint64_t unit) noexcept nogil:
    """The unit's number, little-endian."""
    cdef int i
    memset(tweak, 0, TWEAK_BYTES)
    for i in range(8):
        tweak[i] = <uint8_t> (unit >> 8 * i)


cdef int cipher_run(zsw_cipher *c, bint encrypting, uint64_t first, const uint8_t *data,
                    uint8_t *out, size_t n, size_t size) noexcept nogil:
    """n units of `size` bytes, numbered from `first`, from `data` to `out`, which may be the same;
    0, or -EKEYREJECTED."""
    cdef size_t which = zsw_lock_any(c.locks, CONTEXTS), i
    cdef void *context = c.contexts[which]
    cdef const uint8_t *key = c.key
    cdef uint8_t tweak[TWEAK_BYTES]
    cdef int done = 0
    cdef bint good = True
    for i in range(n):
        set_tweak(tweak, first + i)
        good = (c.init(context, NULL, NULL, key, tweak, encrypting) == 1
                and c.update(context, out + i * size, &done, data + i * size, <int> size) == 1
                and <size_t> done == size)
        key = NULL              # it has it now
        if not good:
            break
    if c.init(context, NULL, NULL, NO_KEY, tweak, encrypting) != 1:
        good = False
    zsw_unlock(&c.locks[which])
    return 0 if good else -EKEYREJECTED


cdef class Cipher:
    """The key and the contexts of one swap file."""

    def __cinit__(self, str name):
        cdef const void *kind
        cdef Library library
        cdef int i, rc
        try:
            library = open_library(LIBCRYPTO)
        except CompressorNotFound as error:
            raise BackingError(ENOENT, f"{name}: encrypt=True needs libcrypto: {error}") from error
        self.c.context_new = <void *(*)() noexcept nogil> library.symbol("EVP_CIPHER_CTX_new")
        self.c.context_free = (<void (*)(void *) noexcept nogil>
                               library.symbol("EVP_CIPHER_CTX_free"))
        self.c.init = (<int (*)(void *, const void *, void *, const uint8_t *, const uint8_t *,
                                int) noexcept nogil> library.symbol("EVP_CipherInit_ex"))
        self.c.update = (<int (*)(void *, uint8_t *, int *, const uint8_t *, int) noexcept nogil>
                         library.symbol("EVP_CipherUpdate"))
        kind = (<const void *(*)() noexcept nogil> library.symbol("EVP_aes_256_xts"))()
        for i in range(CONTEXTS):
            self.c.contexts[i] = self.c.context_new()
            if self.c.contexts[i] == NULL:
                raise MemoryError(f"{name}: no memory to encrypt with")
            # With memory for whatever a call will need.
            if self.c.init(self.c.contexts[i], kind, NULL, NO_KEY, NO_KEY, 1) != 1:
                raise BackingError(
                    EKEYREJECTED, f"{name}: {library.path} refuses AES-256-XTS; use another "
                                  f"OpenSSL, or ${LIBCRYPTO.env} to name one")
        self.c.key = <uint8_t *> zsw_map_secret()
        if self.c.key == NULL:
            raise BackingError(ENOMEM, f"{name}: the system gives no memory that is safe for a key "
                                       "(Linux 4.14 or later does)")
        if mlock(self.c.key, KEY_BYTES) != 0:   # it was tried already, but without a word
            warnings.warn(f"{name}: its key cannot be locked in memory ({os.strerror(errno)}), so "
                          "that the system may swap it out; allow this process more (ulimit -l)",
                          RuntimeWarning, stacklevel=2)
        rc = zsw_random(self.c.key, KEY_BYTES)
        if rc != 0:
            raise BackingError(-rc, f"{name}: the system gives no random key: {os.strerror(-rc)}")

    cdef void forget(self) noexcept:
        """Wipes the key.  No call may be under way."""
        if self.c.key != NULL:
            zsw_wipe(self.c.key, KEY_BYTES)

    def __dealloc__(self):
        cdef int i
        self.forget()
        zsw_unmap_secret(self.c.key)
        for i in range(CONTEXTS):
            if self.c.contexts[i] != NULL:
                self.c.context_free(self.c.contexts[i])
