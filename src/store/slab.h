/*
 * Many items of one size, named by 32-bit handles: half the memory of pointers, where there are ten
 * million of them. Items do not move; a chunk of 256 KiB is taken when one is needed, and kept.
 *
 * Handle 0 names no item.
 */

#ifndef STORE_SLAB_H
#define STORE_SLAB_H

#include <stddef.h>
#include <stdint.h>

#include "base/check.h"

enum {
    SLAB_CHUNK = 256 << 10,
    SLAB_CHUNK_SHIFT = 18,
};
#define SLAB_HANDLE_MAX ((uint32_t)1 << 31) /* handles are below */

struct slab {
    uint8_t **chunks;
    uint32_t chunks_count, chunks_capacity;
    uint32_t item_shift; /* log2 of the item's size */
    uint32_t fresh;      /* handles from here on were never given out */
    uint32_t free;       /* the first free one: each begins with the handle of the next */
    uint32_t count;      /* in use */
};

/* `item_size` a power of two from 16 to 4096. */
void slab_init(struct slab *a, uint32_t item_size);
void slab_deinit(struct slab *a);
/* Zeroed. NULL: no handle is left. Allocates once in a while. */
void *slab_take(struct slab *a);
void slab_put(struct slab *a, void *item);

static inline void *slab_at(const struct slab *a, uint32_t handle)
{
    uint32_t shift = SLAB_CHUNK_SHIFT - a->item_shift;

    return a->chunks[handle >> shift] +
           ((size_t)(handle & (((uint32_t)1 << shift) - 1)) << a->item_shift);
}

/* A chunk is aligned, and its first item is its own place in the list. */
static inline uint32_t slab_handle(const struct slab *a, const void *item)
{
    uintptr_t at = (uintptr_t)item, chunk = at & ~(uintptr_t)(SLAB_CHUNK - 1);

    return (*(const uint32_t *)chunk << (SLAB_CHUNK_SHIFT - a->item_shift)) +
           (uint32_t)((at - chunk) >> a->item_shift);
}

static inline uint64_t slab_bytes(const struct slab *a)
{
    return (uint64_t)a->chunks_count * SLAB_CHUNK + a->chunks_capacity * sizeof(*a->chunks);
}

#endif /* STORE_SLAB_H */
