from libc.stdint cimport uint8_t, uint64_t

from zswap_core.os cimport zsw_mutex


cdef enum:
    KEY_BYTES = 64              # two AES-256 keys, as XTS wants
    CONTEXTS = 8


cdef struct zsw_cipher:
    uint8_t *key                # on a page of its own
    void *contexts[CONTEXTS]    # libcrypto's; between two calls none of them knows the key
    zsw_mutex locks[CONTEXTS]
    void *(*context_new)() noexcept nogil
    void (*context_free)(void *context) noexcept nogil
    int (*init)(void *context, const void *kind, void *engine, const uint8_t *key,
                const uint8_t *tweak, int encrypting) noexcept nogil
    int (*update)(void *context, uint8_t *out, int *out_size, const uint8_t *data,
                  int size) noexcept nogil


cdef int cipher_run(zsw_cipher *c, bint encrypting, uint64_t first, const uint8_t *data,
                    uint8_t *out, size_t n, size_t size) noexcept nogil


cdef class Cipher:
    cdef zsw_cipher c

    cdef void forget(self) noexcept
