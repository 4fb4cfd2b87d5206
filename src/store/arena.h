/*
 * Many items of one size, named by 32-bit handles: half the memory of pointers, where there are ten
 * million of them. Items do not move; a chunk of 256 KiB is taken when one is needed, and kept.
 *
 * Handle 0 names no item.
 */

#ifndef STORE_ARENA_H
#define STORE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "base/check.h"

enum {
    ARENA_CHUNK = 256 << 10,
    ARENA_CHUNK_SHIFT = 18,
};
#define ARENA_HANDLE_MAX ((uint32_t)1 << 31) /* handles are below */

struct arena {
    uint8_t **chunks;
    uint32_t chunks_count, chunks_capacity;
    uint32_t item_shift; /* log2 of the item's size */
    uint32_t fresh;      /* handles from here on were never given out */
    uint32_t free;       /* the first free one: each begins with the handle of the next */
    uint32_t count;      /* in use */
};

/* `item_size` a power of two from 16 to 4096. */
void arena_init(struct arena *a, uint32_t item_size);
void arena_deinit(struct arena *a);
/* Zeroed. NULL: no handle is left. Allocates once in a while. */
void *arena_take(struct arena *a);
void arena_put(struct arena *a, void *item);

static inline void *arena_at(const struct arena *a, uint32_t handle)
{
    uint32_t shift = ARENA_CHUNK_SHIFT - a->item_shift;

    return a->chunks[handle >> shift] +
           ((size_t)(handle & (((uint32_t)1 << shift) - 1)) << a->item_shift);
}

/* A chunk is aligned, and its first item is its own place in the list. */
static inline uint32_t arena_handle(const struct arena *a, const void *item)
{
    uintptr_t at = (uintptr_t)item, chunk = at & ~(uintptr_t)(ARENA_CHUNK - 1);

    return (*(const uint32_t *)chunk << (ARENA_CHUNK_SHIFT - a->item_shift)) +
           (uint32_t)((at - chunk) >> a->item_shift);
}

static inline uint64_t arena_bytes(const struct arena *a)
{
    return (uint64_t)a->chunks_count * ARENA_CHUNK + a->chunks_capacity * sizeof(*a->chunks);
}

#endif /* STORE_ARENA_H */
