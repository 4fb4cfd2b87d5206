#include "net/arena.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"

void arena_init(struct arena *a, uint32_t pages)
{
    check(pages > 0);
    *a = (struct arena){.pages = pages};
    a->memory = mem_alloc_aligned((size_t)pages * ARENA_PAGE, ARENA_PAGE);
    a->taken = mem_zalloc((pages + 63) / 64 * sizeof(uint64_t));
}

void arena_deinit(struct arena *a)
{
    free(a->memory);
    free(a->taken);
    *a = (struct arena){0};
}

/* The first page at or after `from` whose bit is `taken`; a->pages if there is none. */
static uint32_t arena_find(const struct arena *a, uint32_t from, bool taken)
{
    while (from < a->pages) {
        uint64_t word = a->taken[from / 64];
        if (!taken)
            word = ~word;
        word >>= from % 64;
        if (word != 0) {
            uint32_t page = from + (uint32_t)__builtin_ctzll(word);
            return page < a->pages ? page : a->pages;
        }
        from = (from / 64 + 1) * 64;
    }
    return a->pages;
}

static void arena_mark(struct arena *a, uint32_t first, uint32_t pages, bool taken)
{
    for (uint32_t i = first; i < first + pages; i++) {
        uint64_t bit = 1ull << (i % 64);
        check(((a->taken[i / 64] & bit) != 0) != taken);
        a->taken[i / 64] ^= bit;
    }
}

void *arena_get(struct arena *a, uint32_t pages)
{
    check(pages > 0);

    uint32_t first = arena_find(a, 0, false);
    while (first + pages <= a->pages) {
        uint32_t end = arena_find(a, first, true);
        if (end - first >= pages) {
            arena_mark(a, first, pages, true);
            a->used += pages;
            return a->memory + (size_t)first * ARENA_PAGE;
        }
        first = arena_find(a, end, false);
    }
    return NULL;
}

void arena_put(struct arena *a, void *run, uint32_t pages)
{
    size_t offset = (size_t)((uint8_t *)run - a->memory);

    check(offset % ARENA_PAGE == 0 && offset / ARENA_PAGE + pages <= a->pages);
    arena_mark(a, (uint32_t)(offset / ARENA_PAGE), pages, false);
    a->used -= pages;
}
