"""The cipher of encrypted swap files, and what an open one knows."""
from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from zswap_core.backings.base cimport Backing
from zswap_core.backings.medium cimport swap_file
from zswap_core.buffers cimport Items, items_of
from zswap_core.libraries.ciphers cimport Cipher, cipher_run, KEY_BYTES, zsw_cipher


cdef enum:
    MASK = 0xa5

cdef int updates_left = 0
cdef int (*real_update)(void *, uint8_t *, int *, const uint8_t *, int) noexcept nogil


def crypt(bytes key, uint64_t unit, data not None, bint encrypting, size_t size=0):
    """Units of `size` bytes, by default one of all, with this key."""
    cdef Cipher cipher = Cipher("a test")
    cdef Items items = items_of(data, "data", 1)
    cdef bytearray out = bytearray(items.count)
    cdef int rc
    if len(key) != KEY_BYTES:
        raise ValueError("key")
    memcpy(cipher.c.key, <const uint8_t *> key, KEY_BYTES)
    cdef uint8_t *to = <uint8_t *> PyByteArray_AS_STRING(out)
    size = size or items.count
    with nogil:
        rc = cipher_run(&cipher.c, encrypting, unit, <const uint8_t *> items.at, to,
                        items.count // size, size)
    if rc != 0:
        raise OSError(-rc, "cipher_run")
    return bytes(out)


cdef zsw_cipher *cipher_of(Backing file) except NULL:
    cdef zsw_cipher *cipher = (<swap_file *> file.state).cipher if file.state != NULL else NULL
    if cipher == NULL:
        raise ValueError(f"{file.name} is not encrypted")
    return cipher


def masked_key(Backing file not None):
    """The key, every byte with another pattern laid over it, so that it is found nowhere on account
    of this."""
    cdef zsw_cipher *c = cipher_of(file)
    return bytes([c.key[i] ^ MASK for i in range(KEY_BYTES)])


def key_address(Backing file not None):
    return <size_t> cipher_of(file).key


def has_key(Backing file not None):
    """Whether any byte of the key is left."""
    cdef zsw_cipher *c = cipher_of(file)
    return any([c.key[i] for i in range(KEY_BYTES)])


def leak_key(Backing file not None):
    """What a call would leave behind that did not take the key out of its context again."""
    cdef zsw_cipher *c = cipher_of(file)
    cdef uint8_t tweak[16]
    memset(tweak, 0, 16)
    if c.init(c.contexts[0], NULL, NULL, c.key, tweak, 1) != 1:
        raise ValueError("init")


cdef int failing_update(void *context, uint8_t *out, int *out_size, const uint8_t *data,
                        int size) noexcept nogil:
    global updates_left
    updates_left -= 1
    return real_update(context, out, out_size, data, size) if updates_left >= 0 else 0


cdef int failing_init(void *context, const void *kind, void *engine, const uint8_t *key,
                      const uint8_t *tweak, int encrypting) noexcept nogil:
    return 0


def fail_updates(Backing file not None, int after):
    """Makes libcrypto fail for every page but the next `after`."""
    global updates_left, real_update
    cdef zsw_cipher *c = cipher_of(file)
    if c.update != failing_update:
        real_update = c.update
    c.update = failing_update
    updates_left = after


def fail_inits(Backing file not None):
    """Makes libcrypto take no key any more."""
    cipher_of(file).init = failing_init
