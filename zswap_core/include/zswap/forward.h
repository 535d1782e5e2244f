/* zswap/forward.h: a process that stands between a program and who sends that signals.
 *
 * Included by one module alone, since what it keeps is its own.
 */
#ifndef ZSWAP_FORWARD_H
#define ZSWAP_FORWARD_H

#include "zswap/os.h"

static pid_t zsw_forward_pid;
static struct sigaction zsw_forward_before[65];
static uint8_t zsw_forward_taken[65];

static void zsw_forward_handle(int number, siginfo_t *info, void *context) {
    int failed = errno;
    pid_t pid = __atomic_load_n(&zsw_forward_pid, __ATOMIC_SEQ_CST);
    /* what the kernel sends, a terminal above all, it sends to all of the group */
    if (pid > 0 && (info->si_code <= 0 || number == SIGALRM)) kill(pid, number);
    errno = failed;
}

static inline void zsw_forward_to(int pid) {
    __atomic_store_n(&zsw_forward_pid, (pid_t)pid, __ATOMIC_SEQ_CST);
}
static inline int zsw_forward(int number) {
    struct sigaction now;
    if (number < 1 || number > 64 || sigaction(number, NULL, &now) != 0) return -EINVAL;
    if (!(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_IGN) return 0;
    zsw_forward_before[number] = now;
    memset(&now, 0, sizeof now);
    now.sa_sigaction = zsw_forward_handle;
    now.sa_flags = SA_SIGINFO | SA_RESTART;
    if (sigaction(number, &now, NULL) != 0) return -errno;
    zsw_forward_taken[number] = 1;
    return 0;
}
static inline void zsw_forward_no_more(void) {
    for (int number = 1; number <= 64; number++)
        if (zsw_forward_taken[number]) {
            sigaction(number, &zsw_forward_before[number], NULL);
            zsw_forward_taken[number] = 0;
        }
    zsw_forward_to(0);
}

/* 0 when the parent is there and will take this process with it. */
static inline int zsw_die_with_parent(int parent) {
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return -errno;
    return getppid() == (pid_t)parent ? 0 : -ESRCH;
}

#endif
