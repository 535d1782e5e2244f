/* zswap/rebind.h: functions of ours in the place of libc's, for all that is loaded.
 *
 * What a library calls of another it finds in a table of its own, which the dynamic linker has
 * filled.  There ours are put, as profilers of memory do it.  What takes a function's address by
 * itself (dlsym, ctypes), calls within libc and code that is linked statically keep theirs.
 *
 * Call it with the GIL held, under which Python loads its modules: what is loaded at the same time
 * may not be looked at before it is complete.
 */
#ifndef ZSWAP_REBIND_H
#define ZSWAP_REBIND_H

#include "zswap/os.h"
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>

#if defined(__x86_64__)
#define ZSW_IS_SLOT(type) ((type) == R_X86_64_JUMP_SLOT || (type) == R_X86_64_GLOB_DAT)
#elif defined(__aarch64__)
#define ZSW_IS_SLOT(type) ((type) == R_AARCH64_JUMP_SLOT || (type) == R_AARCH64_GLOB_DAT)
#else
#define ZSW_IS_SLOT(type) 0
#endif

struct zsw_rebound {
    const char *name;
    void *ours;
    void **theirs; /* filled in */
    void *first;   /* what the linker finds first by that name: a preloaded library's, perhaps */
    void *within;  /* NULL, or an address in the one object that is to have it */
};

enum { ZSW_REBIND_SEEN = 4096 };

static struct {
    zsw_mutex lock;
    struct zsw_rebound *table;
    size_t rows;
    unsigned long long adds, subs; /* objects that came and went until the last look */
    uintptr_t seen[ZSW_REBIND_SEEN];
} zsw_rebind_state;

struct zsw_loaded {
    uintptr_t base, low, high;        /* where it lies */
    uintptr_t relro, relro_end;       /* what the linker has write-protected */
    const ElfW(Sym) *symbols;
    const char *strings;
    const ElfW(Rela) *slots[2];       /* DT_RELA and DT_JMPREL */
    size_t counts[2];
};

static inline int zsw_loaded_has(const struct zsw_loaded *o, const void *p) {
    return (uintptr_t)p >= o->low && (uintptr_t)p < o->high;
}

static void zsw_loaded_read(struct zsw_loaded *o, const struct dl_phdr_info *info) {
    const ElfW(Dyn) *d = NULL;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE) - 1, start, at;
    memset(o, 0, sizeof *o);
    o->base = info->dlpi_addr;
    o->low = UINTPTR_MAX;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        start = o->base + info->dlpi_phdr[i].p_vaddr;
        if (info->dlpi_phdr[i].p_type == PT_LOAD) {
            if (start < o->low) o->low = start;
            if (start + info->dlpi_phdr[i].p_memsz > o->high)
                o->high = start + info->dlpi_phdr[i].p_memsz;
        } else if (info->dlpi_phdr[i].p_type == PT_GNU_RELRO) {
            o->relro = start & ~page;
            o->relro_end = (start + info->dlpi_phdr[i].p_memsz) & ~page;
        } else if (info->dlpi_phdr[i].p_type == PT_DYNAMIC) {
            d = (const ElfW(Dyn) *)start;
        }
    }
    for (; d != NULL && d->d_tag != DT_NULL; d++) {
        at = d->d_un.d_ptr < o->base ? o->base + d->d_un.d_ptr : d->d_un.d_ptr; /* musl's are not */
        switch (d->d_tag) {
        case DT_SYMTAB: o->symbols = (const ElfW(Sym) *)at; break;
        case DT_STRTAB: o->strings = (const char *)at; break;
        case DT_RELA: o->slots[0] = (const ElfW(Rela) *)at; break;
        case DT_JMPREL: o->slots[1] = (const ElfW(Rela) *)at; break;
        case DT_RELASZ: o->counts[0] = d->d_un.d_val / sizeof(ElfW(Rela)); break;
        case DT_PLTRELSZ: o->counts[1] = d->d_un.d_val / sizeof(ElfW(Rela)); break;
        default: break;
        }
    }
    if (o->symbols == NULL || o->strings == NULL) o->counts[0] = o->counts[1] = 0;
    for (int i = 0; i < 2; i++)
        if (o->slots[i] == NULL) o->counts[i] = 0;
}

static struct zsw_rebound *zsw_rebind_row(const struct zsw_loaded *o, const char *name) {
    struct zsw_rebound *row = zsw_rebind_state.table;
    for (; row < zsw_rebind_state.table + zsw_rebind_state.rows; row++)
        if (row->name[0] == name[0] && row->name[1] == name[1] && strcmp(row->name, name) == 0
            && *row->theirs != NULL && (row->within == NULL || zsw_loaded_has(o, row->within)))
            return row;
    return NULL;
}

/* 0, or 1 where memory could not be made writable. */
static int zsw_rebind_slot(const struct zsw_loaded *o, void **slot, struct zsw_rebound *row) {
    void *now = __atomic_load_n(slot, __ATOMIC_RELAXED);
    int protected = (uintptr_t)slot >= o->relro && (uintptr_t)slot < o->relro_end;
    size_t size = o->relro_end - o->relro;
    /* one that was not used yet leads to where the linker fills it, in the same object; a function
     * that is not the one that we know is left alone */
    if (now != *row->theirs && now != row->first && !zsw_loaded_has(o, now)) return 0;
    if (protected && mprotect((void *)o->relro, size, PROT_READ | PROT_WRITE) != 0) return 1;
    __atomic_store_n(slot, row->ours, __ATOMIC_RELEASE);
    if (protected) mprotect((void *)o->relro, size, PROT_READ);
    return 0;
}

static int zsw_rebind_is_new(uintptr_t base) {
    uintptr_t *seen = zsw_rebind_state.seen;
    size_t i = (base >> 12) * 2654435761u % ZSW_REBIND_SEEN, looked = 0;
    for (; seen[i] != 0 && looked < ZSW_REBIND_SEEN / 2; i = (i + 1) % ZSW_REBIND_SEEN, looked++)
        if (seen[i] == base + 1) return 0;
    seen[i] = base + 1;
    return 1;
}

static int zsw_rebind_object(struct dl_phdr_info *info, size_t size, void *arg) {
    struct zsw_loaded o;
    struct zsw_rebound *row;
    const ElfW(Sym) *symbol;
    (void)size;
    if (arg != NULL) { /* is there anything new? */
        *(int *)arg = info->dlpi_adds != zsw_rebind_state.adds;
        return 1;
    }
    if (info->dlpi_subs != zsw_rebind_state.subs) /* another may lie where one has gone */
        memset(zsw_rebind_state.seen, 0, sizeof zsw_rebind_state.seen);
    zsw_rebind_state.adds = info->dlpi_adds;
    zsw_rebind_state.subs = info->dlpi_subs;
    if (!zsw_rebind_is_new(info->dlpi_addr)) return 0;
    zsw_loaded_read(&o, info);
    if (zsw_loaded_has(&o, (void *)(uintptr_t)zsw_rebind_object)) return 0;
    for (int i = 0; i < 2; i++)
        for (const ElfW(Rela) *r = o.slots[i]; r < o.slots[i] + o.counts[i]; r++)
            if (ZSW_IS_SLOT(ELF64_R_TYPE(r->r_info))) {
                symbol = &o.symbols[ELF64_R_SYM(r->r_info)];
                if (symbol->st_shndx != SHN_UNDEF) continue; /* its own */
                row = zsw_rebind_row(&o, o.strings + symbol->st_name);
                if (row != NULL && zsw_rebind_slot(&o, (void **)(o.base + r->r_offset), row))
                    return 0;
            }
    return 0;
}

/* Looks at what has been loaded since the last time. */
static void zsw_rebind(void) {
    int news = 0;
    dl_iterate_phdr(zsw_rebind_object, &news);
    if (!news) return;
    zsw_lock(&zsw_rebind_state.lock);
    dl_iterate_phdr(zsw_rebind_object, NULL);
    zsw_unlock(&zsw_rebind_state.lock);
}

/* Rebinds all of a table, which stays. */
static void zsw_rebind_by(struct zsw_rebound *table, size_t rows) {
    struct zsw_rebound *row;
    zsw_lock(&zsw_rebind_state.lock);
    if (zsw_rebind_state.table == NULL) {
        for (row = table; row < table + rows; row++) {
            row->first = dlsym(RTLD_DEFAULT, row->name);
            /* not the first, which may be a program's own way to ours */
            if (*row->theirs == NULL) *row->theirs = dlsym(RTLD_NEXT, row->name);
        }
        zsw_rebind_state.rows = rows;
        zsw_rebind_state.table = table;
    }
    zsw_unlock(&zsw_rebind_state.lock);
    zsw_rebind();
}

#endif
