/* zswap/sigbus.h: SIGBUS, shared with whoever else wants it.
 *
 * Included by one module alone, since what it keeps is its own.
 */
#ifndef ZSWAP_SIGBUS_H
#define ZSWAP_SIGBUS_H

#include "zswap/text.h"
#include "zswap/uffd.h"

/* Nonzero: the instruction may be tried again. */
typedef int (*zsw_sigbus_server)(uint64_t address, uint32_t how);

static zsw_sigbus_server zsw_sigbus_serve;
static struct sigaction zsw_sigbus_others; /* who was there */
static zsw_mutex zsw_sigbus_lock;
static uint32_t zsw_sigbus_passing; /* a signal is with them */
static uint64_t zsw_sigbus_raised;  /* when one was raised last that nobody wanted */

#define ZSW_STACK_PLENTY 32768u

static inline uint32_t zsw_sigbus_how(const void *context) {
    const ucontext_t *c = (const ucontext_t *)context;
    uint32_t how = 0;
    uintptr_t here = (uintptr_t)__builtin_frame_address(0), low = (uintptr_t)c->uc_stack.ss_sp;
#if defined(__x86_64__)
    uint64_t error = (uint64_t)c->uc_mcontext.gregs[REG_ERR];
    how = ZSW_FAULT_KNOWN | (error & 1 ? ZSW_FAULT_PRESENT : 0u)
        | (error & 2 ? ZSW_FAULT_WRITE : 0u);
#endif
    if (here - low < c->uc_stack.ss_size && here - low < ZSW_STACK_PLENTY)
        how |= ZSW_FAULT_LITTLE_STACK;
    return how;
}

static void zsw_sigbus_to_default(void) {
    struct sigaction plain;
    memset(&plain, 0, sizeof plain);
    plain.sa_handler = SIG_DFL;
    sigaction(SIGBUS, &plain, NULL);
}

static void zsw_sigbus_handle(int number, siginfo_t *info, void *context);

/* Hands the signal to whoever was there before.  What they raise themselves meanwhile comes here
 * again, and ends the process. */
static void zsw_sigbus_pass(int number, siginfo_t *info, void *context) {
    struct sigaction others = zsw_sigbus_others;
    int by_hand = info->si_code <= 0;
    if (others.sa_sigaction == zsw_sigbus_handle || others.sa_handler == SIG_DFL
        || (others.sa_handler == SIG_IGN && !by_hand)
        || __atomic_exchange_n(&zsw_sigbus_passing, 1u, __ATOMIC_SEQ_CST)) {
        zsw_sigbus_to_default();
        if (by_hand) raise(number); /* blocked or not: it comes when we return */
        return;                     /* and what is no signal of anybody's happens again */
    }
    if (others.sa_handler != SIG_IGN) {
        if (others.sa_flags & SA_SIGINFO) others.sa_sigaction(number, info, context);
        else others.sa_handler(number);
    }
    __atomic_store_n(&zsw_sigbus_passing, 0u, __ATOMIC_SEQ_CST);
}

static void zsw_sigbus_handle(int number, siginfo_t *info, void *context) {
    int failed = errno;
    uint64_t now;
    if (info->si_code > 0 && zsw_sigbus_serve != NULL
        && zsw_sigbus_serve((uintptr_t)info->si_addr, zsw_sigbus_how(context))) {
        errno = failed;
        return;
    }
    /* faulthandler, come after us, prints, puts us back and raises the signal anew, of which the
     * address is lost: the instruction is tried again, and tells. */
    if (info->si_code == SI_TKILL && info->si_pid == getpid()
        && zsw_sigbus_others.sa_handler == SIG_DFL && !zsw_sigbus_passing) {
        now = zsw_now_ns();
        if (now - __atomic_exchange_n(&zsw_sigbus_raised, now, __ATOMIC_SEQ_CST) > 1000000000u) {
            errno = failed;
            return;
        }
    }
    zsw_sigbus_pass(number, info, context);
    errno = failed;
}

/* One line on stderr, by nothing that a signal handler may not do. */
static void zsw_say(uint64_t page, const void *address, const char *what, int error) {
    char line[400], *end = line + sizeof line - 1, *at = line;
    at = zsw_add_text(at, end, "zswap: page ");
    at = zsw_add_number(at, end, page, 10);
    at = zsw_add_text(at, end, " of a Memory, at 0x");
    at = zsw_add_number(at, end, (uintptr_t)address, 16);
    at = zsw_add_text(at, end, ", cannot be had: ");
    at = zsw_add_text(at, end, what);
    if (error) at = zsw_add_error(at, end, error);
    *at++ = '\n';
    (void)!write(2, line, (size_t)(at - line));
}

/* Makes SIGBUS ours, be it again: 0, 1 when it was not and others had it, or -errno.  While it is
 * served all signals wait but those that end a program.  It is served on the stack of the thread,
 * which has room where an alternate one (faulthandler's has 16 KiB) may not. */
static int zsw_sigbus_catch(zsw_sigbus_server serve) {
    struct sigaction now, ours;
    int rc = 0;
    if (sigaction(SIGBUS, NULL, &now) != 0) return -errno;
    if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == zsw_sigbus_handle) return 0;
    zsw_lock(&zsw_sigbus_lock);
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = zsw_sigbus_handle;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
    sigfillset(&ours.sa_mask);
    sigdelset(&ours.sa_mask, SIGTERM);
    sigdelset(&ours.sa_mask, SIGINT);
    sigdelset(&ours.sa_mask, SIGQUIT);
    sigdelset(&ours.sa_mask, SIGBUS);
    sigdelset(&ours.sa_mask, SIGSEGV);
    sigdelset(&ours.sa_mask, SIGABRT);
    sigdelset(&ours.sa_mask, SIGILL);
    sigdelset(&ours.sa_mask, SIGFPE);
    zsw_sigbus_serve = serve;
    if (sigaction(SIGBUS, NULL, &now) != 0) rc = -errno;
    else if (!(now.sa_flags & SA_SIGINFO && now.sa_sigaction == zsw_sigbus_handle)) {
        zsw_sigbus_others = now; /* before the handler can run that looks at it */
        if (sigaction(SIGBUS, &ours, NULL) != 0) rc = -errno;
        else rc = 1;
    }
    zsw_unlock(&zsw_sigbus_lock);
    return rc;
}

#endif
