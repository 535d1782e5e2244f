"""`zswap run`: programs that nobody made for it, in less memory than they allocate."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import hooks
from zswap import program as zswap_run

BUDGET = 16 << 20

# What each test has a program do: named by its first argument.
SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS = 512, PAGE = 4096, MIB = 1 << 20 };
#define CHECK(x) do if (!(x)) { printf("line %d: %s\n", __LINE__, #x); exit(3); } while (0)

static uint64_t *memory;
static size_t pages, threads, rounds;

static void stamp(uint64_t *p, size_t page, uint64_t version) {
    uint64_t x = page * 0x9e3779b97f4a7c15u + version;
    for (int i = 0; i < WORDS; i++) {
        p[i] = i % 4 ? page + (version << 32) : x;
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    }
}
static void *work(void *arg) {
    size_t me = (size_t)arg, mine = pages / threads;
    uint64_t seed = me + 88172645463325252u, expected[WORDS];
    uint32_t *versions = calloc(mine, sizeof *versions);
    for (size_t i = 0; i < mine * rounds; i++) {
        size_t at = i < mine ? i : i % 3 ? (seed >> 20) % mine : i % mine;
        size_t page = at * threads + me;
        uint64_t *p = memory + page * WORDS;
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        if (versions[at]) stamp(expected, page, versions[at]);
        else memset(expected, 0, PAGE);
        if (memcmp(p, expected, PAGE)) {
            printf("page %zu is not as it was left\n", page);
            exit(3);
        }
        if (seed % 2 || !versions[at]) stamp(p, page, ++versions[at]);
    }
    free(versions);
    return NULL;
}
static void do_stamp(char **args) {
    pthread_t t[16];
    pages = strtoul(args[0], NULL, 10) / PAGE, threads = strtoul(args[1], NULL, 10);
    rounds = strtoul(args[2], NULL, 10);
    memory = malloc(pages * PAGE);
    CHECK(memory != NULL && malloc_usable_size(memory) >= pages * PAGE);
    for (size_t i = 0; i < threads; i++) pthread_create(&t[i], NULL, work, (void *)i);
    for (size_t i = 0; i < threads; i++) pthread_join(t[i], NULL);
    free(memory);
    puts("well");
}
static void do_enomem(char **args) {
    size_t n = 0;
    char *blocks[1000];
    while (n < 1000 && (blocks[n] = malloc(4 * MIB)) != NULL) {
        memset(blocks[n], (int)n + 1, 4 * MIB);
        n++;
    }
    CHECK(n < 1000 && errno == ENOMEM);
    CHECK(mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
              == MAP_FAILED
          && errno == ENOMEM);
    CHECK(malloc((size_t)-1 / 2) == NULL && errno == ENOMEM);
    for (size_t i = 0; i < n; i++)
        for (size_t at = 0; at < 4 * MIB; at += 1111) CHECK(blocks[i][at] == (char)(i + 1));
    for (size_t i = 0; i < n; i++) free(blocks[i]);
    blocks[0] = malloc(n * 4 * MIB - MIB);
    CHECK(blocks[0] != NULL && blocks[0][12345] == 0);
    printf("%zu\n", n * 4);
}
static void do_fork(char **args) {
    int status;
    char *p = malloc(4 * MIB);
    pid_t child;
    memset(p, 7, 4 * MIB);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        char *mine;
        if (args[0][0] == 't') printf("%d\n", p[5]), fflush(stdout), _exit(0);
        mine = calloc(1, 8 * MIB);
        CHECK(mine != NULL && mine != p);
        for (size_t i = 0; i < 8 * MIB; i += 999) CHECK(mine[i] == 0);
        memset(mine, 9, 8 * MIB);
        for (size_t i = 0; i < 8 * MIB; i += 999) CHECK(mine[i] == 9);
        free(mine), free(p);
        _exit(5);
    }
    waitpid(child, &status, 0);
    for (size_t i = 0; i < 4 * MIB; i += 999) CHECK(p[i] == 7);
    printf("%d\n", WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
}
static void fill(char *p, size_t bytes, int seed) {
    for (size_t i = 0; i < bytes; i += 8) *(uint64_t *)(p + i) = i * 31 + seed;
}
static int filled(const char *p, size_t bytes, int seed) {
    for (size_t i = 0; i < bytes; i += 8)
        if (*(const uint64_t *)(p + i) != i * 31 + seed) return 0;
    return 1;
}
static int zero(const char *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 8)
        if (*(const uint64_t *)(p + i)) return 0;
    return 1;
}
static char *map(size_t bytes) {
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}
static void do_calls(char **args) {
    char *p, *q;
    void *v;
    FILE *file = tmpfile();
    CHECK((p = malloc(2 * MIB)) && zero(p, 2 * MIB));
    fill(p, 2 * MIB, 1);
    CHECK((q = realloc(p, 40 * MIB)) && filled(q, 2 * MIB, 1));
    fill(q, 40 * MIB, 2);
    CHECK((p = realloc(q, 3 * MIB)) && filled(p, 3 * MIB, 2));
    CHECK((q = realloc(p, 1000)) && filled(q, 1000, 2) && malloc_usable_size(q) < MIB);
    CHECK((p = realloc(q, 5 * MIB)) && filled(p, 1000, 2));
    CHECK(reallocarray(p, (size_t)-1 / 2, 4) == NULL && errno == ENOMEM);
    free(p);
    CHECK(calloc((size_t)-1 / 2, 4) == NULL && errno == ENOMEM);
    CHECK(posix_memalign(&v, 3, MIB) == EINVAL);
    CHECK(posix_memalign(&v, 65536, 2 * MIB) == 0 && (uintptr_t)v % 65536 == 0);
    free(v);
    CHECK(posix_memalign(&v, 4 * MIB, 2 * MIB) == 0 && (uintptr_t)v % (4 * MIB) == 0);
    free(v);
    CHECK((v = aligned_alloc(4096, 2 * MIB)) && (free(v), 1));
    CHECK((v = memalign(64, 2 * MIB)) && (free(v), 1));
    CHECK((v = valloc(2 * MIB)) && (uintptr_t)v % PAGE == 0 && (free(v), 1));
    CHECK((v = pvalloc(2 * MIB - 5)) && malloc_usable_size(v) >= 2 * MIB && (free(v), 1));
    /* mappings, also pieces of them */
    p = map(8 * MIB);
    fill(p, 8 * MIB, 3);
    CHECK(madvise(p + MIB, MIB, MADV_DONTNEED) == 0);
    CHECK(filled(p, MIB, 3) && zero(p + MIB, MIB));
    CHECK(madvise(p + 1, MIB, MADV_DONTNEED) == -1 && errno == EINVAL);
    CHECK(madvise(p, 8 * MIB, MADV_PAGEOUT) == 0 && filled(p, MIB, 3));
    CHECK(munmap(p + 3 * MIB, 2 * MIB + PAGE) == 0);
    CHECK(filled(p, MIB, 3) && *(uint64_t *)(p + 7 * MIB) == (uint64_t)7 * MIB * 31 + 3);
    q = map(2 * MIB);
    CHECK(zero(q, 2 * MIB));
    CHECK(mprotect(q, MIB, PROT_READ) == 0 && zero(q, 2 * MIB));
    fill(q + MIB, MIB, 4);
    CHECK(mprotect(q + PAGE, 3 * PAGE, PROT_NONE) == 0);
    CHECK(madvise(q, 2 * MIB, MADV_PAGEOUT) == 0 && filled(q + MIB, MIB, 4));
    CHECK(munmap(q, 2 * MIB) == 0);
    q = map(2 * MIB);
    fill(q, 2 * MIB, 5);
    CHECK((q = mremap(q, 2 * MIB, 20 * MIB, MREMAP_MAYMOVE)) != MAP_FAILED);
    CHECK(filled(q, 2 * MIB, 5) && zero(q + 2 * MIB, 18 * MIB));
    CHECK(mremap(q, 20 * MIB, MIB, 0) == q && filled(q, MIB, 5));
    CHECK(mmap(q, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
          == q && zero(q, 4 * PAGE));
    CHECK(fwrite("written", 1, 8, file) == 8 && fflush(file) == 0);
    CHECK(mmap(q, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fileno(file), 0) == q);
    CHECK(strcmp(q, "written") == 0);
    CHECK(munmap(q, MIB) == 0);
    q = map(2 * MIB);
    CHECK(zero(q, 2 * MIB));
    /* locked pages stay */
    CHECK(mlock(q, MIB) == 0 && madvise(q, MIB, MADV_DONTNEED) == -1 && munlock(q, MIB) == 0);
    CHECK(mlock(q, 3000 * (size_t)MIB) == -1 && mlockall(MCL_CURRENT) == -1);
    CHECK(munmap(q, 2 * MIB) == 0 && munmap(p, 8 * MIB) == 0);
    puts("well");
}
/* As for huge pages: what lies before and behind each goes back, and may be had again. */
static void do_aligned(char **args) {
    enum { N = 20 };
    char *blocks[N];
    CHECK(memalign((size_t)1 << 62, MIB) == NULL && errno == ENOMEM);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            size_t align = (size_t)MIB << i % 4;
            CHECK((blocks[i] = memalign(align, MIB + 100)) && (uintptr_t)blocks[i] % align == 0);
            CHECK(malloc_usable_size(blocks[i]) == MIB + PAGE && zero(blocks[i], MIB + 96));
            fill(blocks[i], MIB + 96, i);
        }
        for (int i = 0; i < N; i++) {
            CHECK(filled(blocks[i], MIB + 96, i));
            CHECK((blocks[i] = realloc(blocks[i], 2 * MIB)) && filled(blocks[i], MIB + 96, i));
            free(blocks[i]);
        }
    }
    puts("well");
}
/* The kernel reads and writes what is cold. */
static void do_kernel(char **args) {
    size_t n = 48 * MIB;
    char *p = malloc(n), *q = malloc(n);
    FILE *file = tmpfile();
    fill(p, n, 6);
    CHECK(write(fileno(file), p, n) == (ssize_t)n);
    CHECK(pread(fileno(file), q, n, 0) == (ssize_t)n);
    CHECK(filled(q, n, 6));
    puts("well");
}
static void do_close(char **args) {
    char *p = malloc(32 * MIB);
    fill(p, 32 * MIB, 7);
    for (int fd = 3; fd < 1024; fd++) close(fd);
    closefrom(3);
    dup2(1, 900), dup2(1, 901), dup2(1, 902), dup2(1, 903), dup2(1, 904);
    p = realloc(p, 40 * MIB);
    CHECK(p && filled(p, 32 * MIB, 7));
    puts("well");
}
/* Many small blocks of an allocator that maps its memory itself, where one is linked to. */
static void do_small(char **args) {
    enum { N = 300000 };
    char **blocks = malloc(N * sizeof *blocks);
    for (int i = 0; i < N; i++) {
        CHECK(blocks[i] = malloc(96));
        memset(blocks[i], i % 128, 96);
    }
    for (int i = 0; i < N; i += 2) {
        CHECK(malloc_usable_size(blocks[i]) >= 96);
        CHECK((blocks[i] = realloc(blocks[i], 200)) && blocks[i][95] == i % 128);
    }
    CHECK((blocks[0] = realloc(blocks[0], 2 * MIB)) && blocks[0][95] == 0);
    for (int i = 0; i < N; i++) {
        CHECK(i == 0 || blocks[i][95] == i % 128);
        free(blocks[i]);
    }
    free(blocks);
    puts("well");
}
static void do_starved(char **args) {
    int status, well = 0;
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            char *p = malloc(2 * MIB);
            _exit(p == NULL || memset(p, 1, 2 * MIB) != p);
        }
        waitpid(child, &status, 0);
        well += status == 0;
    }
    printf("%d\n", well);
}
static void do_end(char **args) {
    char *p = malloc(2 * MIB);
    memset(p, 1, 2 * MIB);
    if (args[0][0] == 'w') printf("here\n"), fflush(stdout), pause();
    if (args[0][0] == 'k') raise(SIGKILL);
    if (args[0][0] == 'f') free(p), p[5] = 1;
    if (args[0][0] == 'd') free(p), free(p);
    if (args[0][0] == 'i') free(p + 16);
    exit(atoi(args[0]));
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(char **); } all[] = {
        {"stamp", do_stamp}, {"enomem", do_enomem}, {"fork", do_fork}, {"calls", do_calls},
        {"kernel", do_kernel}, {"close", do_close}, {"end", do_end},
        {"small", do_small}, {"starved", do_starved}, {"aligned", do_aligned},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (argc > 1 && !strcmp(argv[1], all[i].name)) all[i].run(argv + 2);
    return 0;
}
"""


# An allocator that has its memory by mmap, with its lock held, as jemalloc does.
ALLOCATOR = r"""
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *at, *end;

void *malloc(size_t size) {
    char *p;
    size = (size + 31) & ~(size_t)15;
    pthread_mutex_lock(&lock);
    if (end - at < (ptrdiff_t)size) {
        size_t chunk = size > 2 << 20 ? size : 2 << 20;
        at = mmap(NULL, chunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        end = at + chunk;
    }
    p = at;
    at += size;
    pthread_mutex_unlock(&lock);
    *(size_t *)p = size - 16;
    return p + 16;
}
size_t malloc_usable_size(void *p) { return p ? ((size_t *)p)[-2] : 0; }
void free(void *p) { if (p) memset(p, 0xdd, malloc_usable_size(p)); }
void *calloc(size_t n, size_t size) { return memset(malloc(n * size), 0, n * size); }
void *realloc(void *p, size_t size) {
    size_t old = malloc_usable_size(p);
    void *q = malloc(size);
    if (p) memcpy(q, p, old < size ? old : size), free(p);
    return q;
}
void *memalign(size_t align, size_t size) { return malloc(size); }
"""


def zswap(*args):
    """The command line of it."""
    return [sys.executable, "-m", "zswap", *map(str, args)]


def environment(**more):
    return {**os.environ, "PYTHONPATH": hooks.PATH, **more}


def run(*args, budget=BUDGET, options=(), **kwargs):
    """Run a program there; its exit code, stdout and the lines of stderr."""
    done = subprocess.run(
        [*zswap("run", "--budget", budget, *options), "--", *map(str, args)],
        cwd=hooks.ROOT / "tests",
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        **kwargs,
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


@pytest.fixture(scope="module", autouse=True)
def permitted():
    """Skip where userfaultfd is refused."""
    code, _, err = run("true")
    if code == 2:
        pytest.skip(err[0])


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is here")
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.c").write_text(SOURCE)
    subprocess.run(
        [compiler, "-O1", "-fno-builtin", "-w", "program.c", "-o", "program", "-pthread"],
        cwd=folder,
        check=True,
    )
    (folder / "allocator.c").write_text(ALLOCATOR)
    command = [compiler, "-O1", "-fno-builtin", "-w", "-shared", "-fPIC", "allocator.c"]
    subprocess.run([*command, "-o", "liballocator.so", "-pthread"], cwd=folder, check=True)
    return folder / "program"


@pytest.fixture
def backing(tmp_path):
    return ("--backing", tmp_path / "spill", "--limit", "512M")


def summary(err):
    """The figures of the last line, printed as JSON."""
    return json.loads(err[-1])


# ---- pages ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
def test_every_page_is_as_it_was_left(program, backing, threads):
    options = (*backing, "--json")
    code, out, err = run(program, "stamp", 4 * BUDGET, threads, 2, options=options)
    assert (code, out) == (0, "well\n"), err
    done = summary(err)
    assert done["peak_bytes"] <= BUDGET * 1.01 + (2 << 20)
    assert done["allocated_bytes"] >= 4 * BUDGET
    assert done["faults"] > BUDGET // 4096
    assert done["spilled_bytes"] > 0
    assert done["processes"] == 1


@pytest.mark.slow
def test_the_kernel_reads_and_writes_what_is_cold(program, backing):
    code, out, err = run(program, "kernel", options=backing)
    assert (code, out) == (0, "well\n"), err


def test_calls_behave_as_those_of_libc(program, backing):
    code, out, err = run(program, "calls", options=(*backing, "--json"))
    assert (code, out) == (0, "well\n"), err
    assert summary(err)["allocated_bytes"] >= 40 << 20


def test_blocks_of_any_alignment_lie_there(program, backing):
    code, out, err = run(program, "aligned", options=(*backing, "--json"))
    assert (code, out) == (0, "well\n"), err
    assert 20 << 20 < summary(err)["allocated_bytes"] < 28 << 20


@pytest.mark.slow
def test_an_allocator_of_the_programs_own_lies_there(program, backing):
    allocator = program.parent / "liballocator.so"
    code, out, err = run(
        "env",
        f"LD_PRELOAD={zswap_run.LIBRARY}:{allocator}",
        program,
        "small",
        options=(*backing, "--json"),
    )
    assert (code, out) == (0, "well\n"), err
    assert summary(err)["allocated_bytes"] > 2 * BUDGET


@pytest.mark.slow
def test_more_than_fits_is_refused_and_nothing_lost(program, tmp_path):
    options = ("--backing", tmp_path / "spill", "--limit", "64M")
    code, out, err = run(program, "enomem", options=options)
    assert code == 0, (out, err)
    assert 48 <= int(out) <= 64
    code, out, err = run(program, "enomem")  # no file: what the budget holds by itself
    assert code == 0, (out, err)
    assert int(out) < BUDGET >> 20


@pytest.mark.slow
def test_the_budget_is_held(program, tmp_path, backing):
    path = str(tmp_path / "stats")
    command = zswap("run", "--budget", BUDGET, *backing, "--stats", path, "--")
    with subprocess.Popen(
        [*command, str(program), "stamp", str(4 * BUDGET), "2", "2"],
        cwd=hooks.ROOT / "tests",
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        most = samples = 0
        while process.poll() is None:
            taken = resident(process.pid)
            if taken:
                samples += 1
                most = max(most, taken + compressed(path))
            time.sleep(0.01)
        assert process.returncode == 0, process.stderr.read()
    assert samples > 5
    assert BUDGET // 2 < most <= 1.01 * BUDGET + (2 << 20)
    assert not os.path.exists(path)


def resident(pid):
    """Bytes of the pages that programs have in memory."""
    total = 0
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            link = f"/proc/{pid}/fd/{name}"
            if os.readlink(link).startswith("/memfd:zswap"):
                total += os.stat(link).st_blocks * 512
    except OSError:
        return 0
    return total


def compressed(path):
    """Bytes of the pool and what is kept about it."""
    try:
        with socket.socket(socket.AF_UNIX) as asker:
            asker.connect(path)
            asker.sendall(b"stats\n")
            stats = json.loads(asker.makefile().readline())["stats"]
    except (OSError, ValueError):
        return 0
    return stats["pool_total_size"] + stats["metadata_bytes"]


# ---- programs of others --------------------------------------------------------------------------


@pytest.mark.slow
def test_sort_sorts(tmp_path, backing):
    rng = np.random.default_rng(3)
    lines = "\n".join(map(str, rng.integers(0, 1 << 60, 250_000).tolist())) + "\n"
    (tmp_path / "lines").write_text(lines)
    command = ("sort", "--parallel=2", "-S", "60M", "-n", tmp_path / "lines")
    plain = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    code, out, err = run(*command, options=(*backing, "--json"))
    assert code == 0, err
    assert out == plain
    assert summary(err)["allocated_bytes"] > 2 * BUDGET


@pytest.mark.slow
def test_gcc_compiles(tmp_path, backing):
    """The compiler proper is a child of a child, and what it makes has to be the same."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not here")
    loop = "for (int k = 0; k < a; k++) { s += b[k %% %d] * k; b[k %% 5] ^= s; }"
    functions = [
        f"int f{n}(int a, int *b) {{ int s = {n}; {loop % (n % 7 + 2)} return s; }}\n"
        for n in range(200)
    ]
    (tmp_path / "large.c").write_text("".join(functions))
    command = (compiler, "-O1", "-c", tmp_path / "large.c", "-o")
    subprocess.run([*command, tmp_path / "plain.o"], check=True)
    code, _, err = run(*command, tmp_path / "ours.o", options=(*backing, "--json"))
    assert code == 0, err
    assert (tmp_path / "ours.o").read_bytes() == (tmp_path / "plain.o").read_bytes()
    assert summary(err)["allocated_bytes"] > BUDGET


@pytest.mark.slow
def test_node_fills_buffers(backing):
    if shutil.which("node") is None:
        pytest.skip("node is not here")
    code = (
        "const all = []; for (let i = 0; i < 24; i++) all.push(Buffer.alloc(2 << 20, i + 1));"
        "let wrong = 0; for (let i = 0; i < 24; i++) for (let k = 0; k < 2 << 20; k += 999)"
        " wrong += all[i][k] !== i + 1; console.log(wrong);"
    )
    code, out, err = run("node", "-e", code, options=(*backing, "--json"))
    assert (code, out) == (0, "0\n"), err
    assert summary(err)["allocated_bytes"] >= 48 << 20


JAVA = """
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.*;
public class Direct {
    static long word(int i, int k) { return i * 1000003L + k * 31L; }
    public static void main(String[] args) throws Exception {
        ByteBuffer[] all = new ByteBuffer[24];
        for (int i = 0; i < all.length; i++) {
            all[i] = ByteBuffer.allocateDirect(2 << 20);
            for (int k = 0; k < 2 << 20; k += 8) all[i].putLong(k, word(i, k));
        }
        long wrong = 0;
        ByteBuffer back = ByteBuffer.allocateDirect(2 << 20);
        try (FileChannel file = FileChannel.open(Path.of(args[0]), StandardOpenOption.CREATE,
                                                 StandardOpenOption.WRITE,
                                                 StandardOpenOption.READ)) {
            for (ByteBuffer one : all) while (one.hasRemaining()) file.write(one);
            file.position(0);
            for (int i = 0; i < all.length; i++) {
                back.clear();
                while (back.hasRemaining()) file.read(back);
                for (int k = 0; k < 2 << 20; k += 8)
                    if (all[i].getLong(k) != word(i, k) || back.getLong(k) != word(i, k)) wrong++;
            }
        }
        System.out.println(wrong);
    }
}
"""


@pytest.mark.slow
def test_java_fills_direct_buffers(tmp_path, backing):
    if shutil.which("java") is None:
        pytest.skip("java is not here")
    (tmp_path / "Direct.java").write_text(JAVA)
    command = ("java", "-Xmx64m", tmp_path / "Direct.java", tmp_path / "out")
    code, out, err = run(*command, options=(*backing, "--json"))
    if "Direct.java" in str(err):
        pytest.skip("this java does not compile")
    assert (code, out) == (0, "0\n"), err
    assert summary(err)["allocated_bytes"] >= 50 << 20


def say(connection, *commands):
    """Ask redis, and return its answers, which are all of one line or bytes."""
    encoded = b""
    for words in commands:
        encoded += b"*%d\r\n" % len(words)
        encoded += b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    connection.sendall(encoded)
    with connection.makefile("rb") as file:
        answers = []
        for _ in commands:
            line = file.readline()
            if line.startswith(b"$"):
                line = file.read(int(line[1:]) + 2)
            answers.append(line[:-2])
    return answers


@pytest.mark.slow
def test_redis_keeps_values(tmp_path, backing):
    """Whose allocator maps memory with its lock held."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not here")
    path = tmp_path / "socket"
    command = ("redis-server", "--port", "0", "--unixsocket", path, "--dir", tmp_path, "--save", "")
    process = subprocess.Popen(
        [*zswap("run", "--budget", BUDGET, *backing, "--json"), "--", *map(str, command)],
        cwd=hooks.ROOT / "tests",
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    values = [b"%08d" % n * 100 + np.random.default_rng(n).bytes(300) for n in range(40)]
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            while True:
                try:
                    connection.connect(str(path))
                    break
                except (FileNotFoundError, ConnectionRefusedError):
                    assert process.poll() is None
                    time.sleep(0.01)
            for first in range(0, 40_000, 40):
                sets = [(b"SET", b"%d" % (first + n), values[n]) for n in range(40)]
                assert say(connection, *sets) == [b"+OK"] * 40
            for first in range(0, 40_000, 400):
                gets = [(b"GET", b"%d" % (first + n)) for n in range(40)]
                assert say(connection, *gets) == values
            connection.sendall(b"SHUTDOWN NOSAVE\r\n")
        err = process.communicate(timeout=60)[1].splitlines()
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert summary(err)["allocated_bytes"] > 2 * BUDGET


@pytest.mark.slow
def test_numpy_sums(backing):
    code = (
        "import numpy as np, subprocess, sys\n"
        "a = np.arange(6 << 20, dtype='f8') % 1000\n"
        "print(int((a * 2).sum()), int(a[::-7].sum()))\n"
        "b = np.sort(a)\n"
        "print(subprocess.run([sys.executable, '-c', 'print(len(bytearray(1 << 22)))'],"
        # from CPython 3.13 on posix_spawn would close our descriptor
        " capture_output=True, text=True, close_fds=False).stdout, end='')\n"
        "print((np.diff(b) >= 0).all())\n"
    )
    plain = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    done = run(sys.executable, "-c", code, options=(*backing, "--json"))
    assert done[:2] == (0, plain), done[2]
    assert summary(done[2])["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pythons_own_children(tmp_path, backing, method):
    """CPython's arenas are of 1 MiB: its forked children need them."""
    (tmp_path / "pool.py").write_text(
        "import multiprocessing\n"
        "def double(n):\n"
        "    return len(bytearray(n << 20)) >> 19\n"  # of its own, and larger
        "if __name__ == '__main__':\n"
        "    mine = bytearray(4 << 20)\n"
        f"    with multiprocessing.get_context('{method}').Pool(2) as pool:\n"
        "        print(pool.map_async(double, range(9)).get(60), len(mine))\n"
    )
    options = (*backing, "--min-size", "2M", "--json")
    code, out, err = run(sys.executable, tmp_path / "pool.py", options=options)
    assert (code, out) == (0, f"{[2 * n for n in range(9)]} {4 << 20}\n"), err
    assert summary(err)["processes"] >= (1 if method == "forkserver" else 2)


# ---- how it ends ---------------------------------------------------------------------------------


def test_exit_codes_and_streams_pass_through(program):
    assert run("sh", "-c", "cat; exit 7", input="from stdin\n")[:2] == (7, "from stdin\n")
    code, _, err = run(program, "end", "9")
    assert code == 9
    assert len(err) == 1
    assert err[0].startswith("zswap: run: at most ")
    assert run(program, "end", "killed")[0] == 128 + signal.SIGKILL
    code, _, err = run("/no/such/program")
    assert (code, err) == (127, ["zswap: cannot run /no/such/program: No such file or directory"])
    assert run("/")[0] == 126
    assert "statically linked" in run("true")[2][0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_forwarded(program, number):
    with subprocess.Popen(
        [*zswap("run", "--budget", BUDGET, "--"), str(program), "end", "wait"],
        cwd=hooks.ROOT / "tests",
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "here\n"
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert err.startswith("zswap: run: at most ")


def test_nothing_outlives_the_memory(program):
    with subprocess.Popen(
        [*zswap("run", "--budget", BUDGET, "--"), "sh", "-c", f"{program} end wait; true"],
        cwd=hooks.ROOT / "tests",
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout.readline() == "here\n"
        process.kill()
        assert process.stdout.read() == ""  # until the last that has it open has ended


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("free'd", "it belongs to no allocation"),
        ("double", "invalid pointer"),
        ("inside", "invalid pointer"),
    ],
)
def test_what_was_freed_is_not_used_in_silence(program, how, message):
    code, _, err = run(program, "end", how)
    assert code == 128 + (signal.SIGBUS if how == "free'd" else signal.SIGABRT)
    assert message in err[0]
    assert len(err) == 2


def test_a_forked_child_never_sees_zeros(program):
    code, out, err = run(program, "fork", "touch")
    assert (code, out) == (0, f"{-signal.SIGBUS}\n"), err
    assert "this is a forked child" in err[0]
    assert len(err) == 2
    code, out, err = run(program, "fork", "allocate", options=("--json",))
    assert (code, out) == (0, "5\n"), err
    assert summary(err)["processes"] == 2


def test_descriptors_are_kept_from_programs_that_close_all(program, backing):
    code, out, err = run(program, "close", options=backing)
    assert (code, out) == (0, "well\n"), err


def test_where_no_region_can_be_made_memory_is_ordinary(program):
    """It is told once a process, of which none is killed because what it had begun ends again."""
    script = f"ulimit -v 300000; exec {program} starved"
    code, out, err = run("sh", "-c", script, options=("--limit", "1G"))
    assert (code, out) == (0, "20\n"), err
    assert len(err) == 21
    assert all("has ordinary memory" in line and "(errno 12)" in line for line in err[:-1])


def test_children_come_along_and_may_outlive_the_first(program):
    script = f"{program} end wait & echo $!; read line; exit 3"
    with subprocess.Popen(
        [*zswap("run", "--budget", BUDGET, "--json", "--"), "sh", "-c", script],
        cwd=hooks.ROOT / "tests",
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        printed = sorted(process.stdout.readline() for _ in range(2))
        assert printed[1] == "here\n"
        process.stdin.write("\n")  # so that the first ends
        process.stdin.flush()
        os.kill(int(printed[0]), signal.SIGTERM)
        err = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 3, err
    assert summary(err)["processes"] == 1


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", "1M"), "at least 8388608"),
        (("--budget", "much"), "no amount of memory"),
        (("--budget", "16M", "--min-size", "0"), "min-size"),
        (("--budget", "16M", "--backing", "/no/such/folder/file"), "/no/such/folder/file"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    done = subprocess.run(
        [*zswap("run", *options), "--", "echo", "no"],
        cwd=hooks.ROOT / "tests",
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.root
def test_who_may_not_is_told_what_to_allow():
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    with open("/proc/sys/vm/unprivileged_userfaultfd") as file:
        if file.read().strip() != "0":
            pytest.skip("userfaultfd is allowed to all")
    if not os.access(sys.executable, os.X_OK) or os.stat("/dev/userfaultfd").st_mode & 0o006:
        pytest.skip("/dev/userfaultfd is open to all")
    code = (
        "import os, shutil, sys, tempfile\n"
        "import zswap.program\n"  # while what it needs can be read
        "from zswap.__main__ import main\n"
        "zswap.ZSwap('lz4').close()\n"
        "folder = tempfile.mkdtemp(dir='/tmp')\n"
        "os.chmod(folder, 0o755)\n"
        "os.chown(folder, 65534, 65534)\n"
        "zswap.program.LIBRARY = shutil.copy(zswap.program.LIBRARY, folder)\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    sys.exit(main(['run', '--budget', '16M', '--', 'echo', 'no']))\n"
        "finally:\n"
        "    shutil.rmtree(folder)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd="/",
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "vm.unprivileged_userfaultfd=1" in done.stderr
    assert done.stderr.count("\n") == 1
