/*
 * Page-aligned, contiguous runs of 4 KiB pages out of one block of memory: first fit, lowest
 * address first, so that pages once touched are touched again. Memory is not touched before use.
 * Not thread-safe.
 */

#ifndef NET_ARENA_H
#define NET_ARENA_H

#include <stdint.h>

enum { ARENA_PAGE = 4096 };

struct arena {
    uint8_t *memory;
    uint64_t *taken; /* a bit for each page */
    uint32_t pages;
    uint32_t used;
};

void arena_init(struct arena *a, uint32_t pages);
void arena_deinit(struct arena *a);

static inline uint32_t arena_pages(uint64_t bytes)
{
    return (uint32_t)((bytes + ARENA_PAGE - 1) / ARENA_PAGE);
}

void *arena_get(struct arena *a, uint32_t pages); /* pages > 0; NULL: no run is long enough */
void arena_put(struct arena *a, void *run, uint32_t pages);

#endif /* NET_ARENA_H */
