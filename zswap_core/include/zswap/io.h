/* zswap/io.h: calls of libc's that have the kernel read or write memory, for who must have it
 * resident meanwhile.
 *
 * Where a buffer lies in such memory it goes by pieces, each held during the call.  What a caller
 * sees is what the one call would have done, or a part of it where that may be: a read from what
 * cannot seek ends with the first piece, as it would wait for more; a datagram is one piece.
 *
 * Included by one module alone, since what it keeps is its own.
 */
#ifndef ZSWAP_IO_H
#define ZSWAP_IO_H

#include "zswap/rebind.h"
#include <stdio.h>
#include <sys/socket.h>
#include <sys/uio.h>

struct zsw_piece {
    uint8_t *at;
    size_t size;
    int whole; /* it is of no use by parts */
    /* the holder's */
    void *memory;
    uint64_t first, pages;
};

/* Whether this is such memory. */
typedef int (*zsw_knows)(const void *p);
/* Makes a piece as small as can be held: nonzero, or it cannot be had. */
typedef int (*zsw_hold)(struct zsw_piece *piece);
typedef void (*zsw_let_go)(struct zsw_piece *piece);

enum { ZSW_IO_PIECE = 256 << 10, ZSW_IO_PARTS = 16 };

static struct {
    uintptr_t low, high; /* outside is nothing of ours; within there may be others' */
    zsw_knows knows;
    zsw_hold hold;
    zsw_let_go let_go;
} zsw_io;

static inline int zsw_io_concerns(const void *p) {
    uintptr_t low = __atomic_load_n(&zsw_io.low, __ATOMIC_RELAXED);
    uintptr_t high = __atomic_load_n(&zsw_io.high, __ATOMIC_RELAXED);
    return zsw_unlikely((uintptr_t)p - low < high - low) && zsw_io.knows(p);
}

static int zsw_io_hold(struct zsw_piece *piece) {
    int failed = errno;
    int rc = zsw_io.hold(piece);
    errno = rc ? failed : EIO;
    return rc;
}
static void zsw_io_let_go(struct zsw_piece *piece) {
    int failed = errno;
    zsw_io.let_go(piece);
    errno = failed;
}

/* Whether a read goes on to the end of the buffer or of the file. */
static int zsw_io_seeks(int fd) {
    int failed = errno;
    off_t at = lseek(fd, 0, SEEK_CUR);
    errno = failed;
    return at >= 0;
}
/* Whether what is written, or read, at once belongs together. */
static int zsw_io_is_whole(int fd) {
    int failed = errno, type = SOCK_STREAM;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0) errno = failed;
    return type != SOCK_STREAM;
}

/* The body of a call about `n` bytes at `p`: `call` is the one for a piece of them. */
#define ZSW_BY_PIECES(p, n, fd, goes_on, call) \
    struct zsw_piece piece; \
    size_t done = 0; \
    ssize_t got; \
    memset(&piece, 0, sizeof piece); \
    piece.whole = (n) > ZSW_IO_PIECE && (fd) >= 0 && zsw_io_is_whole(fd); \
    do { \
        piece.at = (uint8_t *)(uintptr_t)(p) + done; \
        piece.size = (n)-done; \
        got = -1; \
        if (!zsw_io_hold(&piece)) break; \
        got = (ssize_t)(call); \
        zsw_io_let_go(&piece); \
        if (got > 0) done += (size_t)got; \
    } while (got == (ssize_t)piece.size && done < (n) && (goes_on)); \
    return done || got >= 0 ? (ssize_t)done : -1

/* ---- bytes ------------------------------------------------------------------------------- */

static ssize_t (*zsw_theirs_read)(int, void *, size_t);
static ssize_t zsw_io_read(int fd, void *p, size_t n) {
    if (!zsw_io_concerns(p)) return zsw_theirs_read(fd, p, n);
    ZSW_BY_PIECES(p, n, fd, zsw_io_seeks(fd), zsw_theirs_read(fd, piece.at, piece.size));
}

static ssize_t (*zsw_theirs_write)(int, const void *, size_t);
static ssize_t zsw_io_write(int fd, const void *p, size_t n) {
    if (!zsw_io_concerns(p)) return zsw_theirs_write(fd, p, n);
    ZSW_BY_PIECES(p, n, fd, 1, zsw_theirs_write(fd, piece.at, piece.size));
}

static ssize_t (*zsw_theirs_pread)(int, void *, size_t, off_t);
static ssize_t zsw_io_pread(int fd, void *p, size_t n, off_t offset) {
    if (!zsw_io_concerns(p)) return zsw_theirs_pread(fd, p, n, offset);
    ZSW_BY_PIECES(p, n, -1, 1,
                  zsw_theirs_pread(fd, piece.at, piece.size, offset + (off_t)done));
}

static ssize_t (*zsw_theirs_pwrite)(int, const void *, size_t, off_t);
static ssize_t zsw_io_pwrite(int fd, const void *p, size_t n, off_t offset) {
    if (!zsw_io_concerns(p)) return zsw_theirs_pwrite(fd, p, n, offset);
    ZSW_BY_PIECES(p, n, -1, 1,
                  zsw_theirs_pwrite(fd, piece.at, piece.size, offset + (off_t)done));
}

static ssize_t (*zsw_theirs_recvfrom)(int, void *, size_t, int, struct sockaddr *, socklen_t *);
static ssize_t zsw_io_recvfrom(int fd, void *p, size_t n, int flags, struct sockaddr *from,
                               socklen_t *size) {
    if (!zsw_io_concerns(p)) return zsw_theirs_recvfrom(fd, p, n, flags, from, size);
    ZSW_BY_PIECES(p, n, fd, flags & MSG_WAITALL && !(flags & MSG_PEEK),
                  zsw_theirs_recvfrom(fd, piece.at, piece.size, flags, from, size));
}

static ssize_t (*zsw_theirs_recv)(int, void *, size_t, int);
static ssize_t zsw_io_recv(int fd, void *p, size_t n, int flags) {
    if (!zsw_io_concerns(p)) return zsw_theirs_recv(fd, p, n, flags);
    return zsw_io_recvfrom(fd, p, n, flags, NULL, NULL);
}

static ssize_t (*zsw_theirs_sendto)(int, const void *, size_t, int, const struct sockaddr *,
                                    socklen_t);
static ssize_t zsw_io_sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *to,
                             socklen_t size) {
    if (!zsw_io_concerns(p)) return zsw_theirs_sendto(fd, p, n, flags, to, size);
    ZSW_BY_PIECES(p, n, fd, 1, zsw_theirs_sendto(fd, piece.at, piece.size, flags, to, size));
}

static ssize_t (*zsw_theirs_send)(int, const void *, size_t, int);
static ssize_t zsw_io_send(int fd, const void *p, size_t n, int flags) {
    if (!zsw_io_concerns(p)) return zsw_theirs_send(fd, p, n, flags);
    return zsw_io_sendto(fd, p, n, flags, NULL, 0);
}

/* ---- streams ----------------------------------------------------------------------------- */

static ssize_t zsw_io_fill(void *p, size_t n, FILE *file,
                           size_t (*theirs)(void *, size_t, size_t, FILE *)) {
    ZSW_BY_PIECES(p, n, -1, 1, theirs(piece.at, 1, piece.size, file));
}
#define ZSW_STREAM(name, constant) \
    static size_t (*zsw_theirs_##name)(constant void *, size_t, size_t, FILE *); \
    static size_t zsw_io_##name(constant void *p, size_t size, size_t n, FILE *file) { \
        size_t bytes; \
        if (!zsw_io_concerns(p) || size == 0 || __builtin_mul_overflow(n, size, &bytes)) \
            return zsw_theirs_##name(p, size, n, file); \
        return (size_t)zsw_io_fill((void *)(uintptr_t)p, bytes, file, \
                                   (size_t(*)(void *, size_t, size_t, FILE *)) \
                                       zsw_theirs_##name) / size; \
    }
ZSW_STREAM(fread, )
ZSW_STREAM(fread_unlocked, )
ZSW_STREAM(fwrite, const)
ZSW_STREAM(fwrite_unlocked, const)

/* ---- lists of parts ---------------------------------------------------------------------- */

struct zsw_parts {
    struct iovec parts[ZSW_IO_PARTS];
    struct zsw_piece pieces[ZSW_IO_PARTS];
    int count;
};

static int zsw_io_concerns_any(const struct iovec *parts, size_t count) {
    for (size_t i = 0; i < count && i < 1024; i++)
        if (zsw_io_concerns(parts[i].iov_base)) return 1;
    return 0;
}

static void zsw_io_let_go_parts(struct zsw_parts *held) {
    while (held->count) zsw_io_let_go(&held->pieces[--held->count]);
}

/* Holds what comes first of a list, up to the size of a piece; all of it where it is of no use by
 * parts.  0, or -1 where that cannot be. */
static int zsw_io_hold_parts(struct zsw_parts *held, const struct iovec *parts, size_t count,
                             int whole) {
    size_t room = ZSW_IO_PIECE, wanted;
    held->count = 0;
    if (whole && count > ZSW_IO_PARTS) {
        errno = EFAULT;
        return -1;
    }
    for (size_t i = 0; i < count && i < ZSW_IO_PARTS && room; i++) {
        struct zsw_piece *piece = &held->pieces[i];
        memset(piece, 0, sizeof *piece);
        piece->at = parts[i].iov_base;
        piece->size = wanted = parts[i].iov_len;
        piece->whole = whole;
        if (zsw_io_concerns(piece->at) && wanted) {
            if (!whole && wanted > room) piece->size = wanted = room;
            if (!zsw_io_hold(piece)) {
                if (i) return 0; /* what comes before it */
                return -1;
            }
            if (!whole) room -= piece->size;
        }
        held->parts[i].iov_base = piece->at;
        held->parts[i].iov_len = piece->size;
        held->count++;
        if (piece->size < parts[i].iov_len) break;
    }
    return 0;
}

#define ZSW_LIST(name, whole, parameters, call) \
    static ssize_t(*zsw_theirs_##name) parameters; \
    static ssize_t zsw_io_##name parameters { \
        struct zsw_parts held; \
        ssize_t got; \
        if (n < 0 || !zsw_io_concerns_any(v, (size_t)n)) return zsw_theirs_##name call; \
        if (zsw_io_hold_parts(&held, v, (size_t)n, whole) != 0) return -1; \
        v = held.parts, n = held.count; \
        got = zsw_theirs_##name call; \
        zsw_io_let_go_parts(&held); \
        return got; \
    }
ZSW_LIST(readv, zsw_io_is_whole(fd), (int fd, const struct iovec *v, int n), (fd, v, n))
ZSW_LIST(writev, zsw_io_is_whole(fd), (int fd, const struct iovec *v, int n), (fd, v, n))
ZSW_LIST(preadv, 0, (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at))
ZSW_LIST(pwritev, 0, (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at))
ZSW_LIST(preadv2, 0, (int fd, const struct iovec *v, int n, off_t at, int f), (fd, v, n, at, f))
ZSW_LIST(pwritev2, 0, (int fd, const struct iovec *v, int n, off_t at, int f), (fd, v, n, at, f))

static ssize_t (*zsw_theirs_sendmsg)(int, const struct msghdr *, int);
static ssize_t zsw_io_sendmsg(int fd, const struct msghdr *m, int flags) {
    struct zsw_parts held;
    struct msghdr with;
    ssize_t got;
    if (m == NULL || !zsw_io_concerns_any(m->msg_iov, m->msg_iovlen))
        return zsw_theirs_sendmsg(fd, m, flags);
    if (zsw_io_hold_parts(&held, m->msg_iov, m->msg_iovlen, zsw_io_is_whole(fd)) != 0) return -1;
    with = *m;
    with.msg_iov = held.parts, with.msg_iovlen = (size_t)held.count;
    got = zsw_theirs_sendmsg(fd, &with, flags);
    zsw_io_let_go_parts(&held);
    return got;
}

static ssize_t (*zsw_theirs_recvmsg)(int, struct msghdr *, int);
static ssize_t zsw_io_recvmsg(int fd, struct msghdr *m, int flags) {
    struct zsw_parts held;
    struct iovec *parts;
    size_t count;
    ssize_t got;
    if (m == NULL || !zsw_io_concerns_any(m->msg_iov, m->msg_iovlen))
        return zsw_theirs_recvmsg(fd, m, flags);
    parts = m->msg_iov, count = m->msg_iovlen;
    if (zsw_io_hold_parts(&held, parts, count, zsw_io_is_whole(fd)) != 0) return -1;
    m->msg_iov = held.parts, m->msg_iovlen = (size_t)held.count;
    got = zsw_theirs_recvmsg(fd, m, flags);
    m->msg_iov = parts, m->msg_iovlen = count;
    zsw_io_let_go_parts(&held);
    return got;
}

/* ---- the checked twins of some, which a program has that was built with _FORTIFY_SOURCE ---- */

#define ZSW_CHECKED(result, name, ours, parameters, arguments, call) \
    static result(*zsw_theirs_##name) parameters; \
    static result zsw_io_##name parameters { \
        if (!zsw_io_concerns(p) || n > room) return zsw_theirs_##name arguments; \
        return zsw_io_##ours call; \
    }
ZSW_CHECKED(ssize_t, __read_chk, read, (int fd, void *p, size_t n, size_t room), (fd, p, n, room),
            (fd, p, n))
ZSW_CHECKED(ssize_t, __pread_chk, pread, (int fd, void *p, size_t n, off_t at, size_t room),
            (fd, p, n, at, room), (fd, p, n, at))
ZSW_CHECKED(ssize_t, __recv_chk, recv, (int fd, void *p, size_t n, size_t room, int flags),
            (fd, p, n, room, flags), (fd, p, n, flags))
ZSW_CHECKED(ssize_t, __recvfrom_chk, recvfrom,
            (int fd, void *p, size_t n, size_t room, int flags, struct sockaddr *from,
             socklen_t *size),
            (fd, p, n, room, flags, from, size), (fd, p, n, flags, from, size))
ZSW_CHECKED(size_t, __fread_chk, fread,
            (void *p, size_t room, size_t size, size_t n, FILE *file), (p, room, size, n, file),
            (p, size, n, file))
ZSW_CHECKED(size_t, __fread_unlocked_chk, fread_unlocked,
            (void *p, size_t room, size_t size, size_t n, FILE *file), (p, room, size, n, file),
            (p, size, n, file))

/* ---- modules that come later ------------------------------------------------------------- */

/* Python's, which gives a path: so it does not matter who it is that the linker sees asking. */
static void *(*zsw_theirs_dlopen)(const char *, int);
static void *zsw_io_dlopen(const char *path, int flags) {
    void *handle = zsw_theirs_dlopen(path, flags);
    if (handle != NULL) zsw_rebind();
    return handle;
}

#define ZSW_ROW(name, function) \
    {name, (void *)(uintptr_t)zsw_io_##function, (void **)&zsw_theirs_##function, NULL, NULL}
#define ZSW_ROWS(name) ZSW_ROW(#name, name), ZSW_ROW(#name "64", name)

static struct zsw_rebound zsw_io_table[] = {
    {"dlopen", (void *)(uintptr_t)zsw_io_dlopen, (void **)&zsw_theirs_dlopen, NULL, NULL},
    ZSW_ROW("read", read),
    ZSW_ROW("write", write),
    ZSW_ROWS(pread),
    ZSW_ROWS(pwrite),
    ZSW_ROW("recv", recv),
    ZSW_ROW("recvfrom", recvfrom),
    ZSW_ROW("send", send),
    ZSW_ROW("sendto", sendto),
    ZSW_ROW("fread", fread),
    ZSW_ROW("fread_unlocked", fread_unlocked),
    ZSW_ROW("fwrite", fwrite),
    ZSW_ROW("fwrite_unlocked", fwrite_unlocked),
    ZSW_ROW("readv", readv),
    ZSW_ROW("writev", writev),
    ZSW_ROWS(preadv),
    ZSW_ROWS(pwritev),
    ZSW_ROW("preadv2", preadv2),
    ZSW_ROW("preadv64v2", preadv2),
    ZSW_ROW("pwritev2", pwritev2),
    ZSW_ROW("pwritev64v2", pwritev2),
    ZSW_ROW("sendmsg", sendmsg),
    ZSW_ROW("recvmsg", recvmsg),
    ZSW_ROW("__read_chk", __read_chk),
    ZSW_ROW("__pread_chk", __pread_chk),
    ZSW_ROW("__pread64_chk", __pread_chk),
    ZSW_ROW("__recv_chk", __recv_chk),
    ZSW_ROW("__recvfrom_chk", __recvfrom_chk),
    ZSW_ROW("__fread_chk", __fread_chk),
    ZSW_ROW("__fread_unlocked_chk", __fread_unlocked_chk),
};

/* Has pieces of this memory held from now on; `python` is an address in what loads modules. */
static void zsw_io_watch(void *p, size_t bytes, void *python, zsw_knows knows, zsw_hold hold,
                         zsw_let_go let_go) {
    uintptr_t low = (uintptr_t)p, high = low + bytes;
    zsw_io.knows = knows, zsw_io.hold = hold, zsw_io.let_go = let_go;
    zsw_io_table[0].within = python;
    if (zsw_io.high && zsw_io.low < low) low = zsw_io.low;
    if (zsw_io.high > high) high = zsw_io.high;
    __atomic_store_n(&zsw_io.high, high, __ATOMIC_SEQ_CST);
    __atomic_store_n(&zsw_io.low, low, __ATOMIC_SEQ_CST);
    zsw_rebind_by(zsw_io_table, sizeof zsw_io_table / sizeof *zsw_io_table);
}

#endif
