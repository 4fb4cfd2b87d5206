#include "store/slab.h"

#include <stdlib.h>
#include <string.h>

#include "base/pool.h"

void slab_init(struct slab *a, uint32_t item_size)
{
    check(item_size >= 16 && item_size <= 4096 && (item_size & (item_size - 1)) == 0);
    *a = (struct slab){.item_shift = (uint32_t)__builtin_ctz(item_size)};
}

void slab_deinit(struct slab *a)
{
    for (uint32_t i = 0; i < a->chunks_count; i++)
        free(a->chunks[i]);
    free(a->chunks);
    *a = (struct slab){0};
}

static void slab_grow(struct slab *a)
{
    if (a->chunks_count == a->chunks_capacity) {
        a->chunks_capacity = a->chunks_capacity == 0 ? 16 : 2 * a->chunks_capacity;
        a->chunks = mem_realloc(a->chunks, a->chunks_capacity * sizeof(*a->chunks));
    }
    uint8_t *chunk = mem_alloc_aligned(SLAB_CHUNK, SLAB_CHUNK);
    memcpy(chunk, &a->chunks_count, sizeof(a->chunks_count));
    a->chunks[a->chunks_count++] = chunk;
}

void *slab_take(struct slab *a)
{
    uint32_t handle = a->free, per_chunk = (uint32_t)SLAB_CHUNK >> a->item_shift;
    void *item;

    if (handle != 0) {
        item = slab_at(a, handle);
        memcpy(&a->free, item, sizeof(a->free));
    } else {
        if (a->fresh % per_chunk == 0) { /* the first item is the chunk's own */
            if (a->fresh >= SLAB_HANDLE_MAX)
                return NULL;
            slab_grow(a);
            a->fresh++;
        }
        item = slab_at(a, a->fresh++);
    }
    memset(item, 0, (size_t)1 << a->item_shift);
    a->count++;
    return item;
}

void slab_put(struct slab *a, void *item)
{
    uint32_t handle = slab_handle(a, item);

    check(a->count > 0 && handle != 0);
    memcpy(item, &a->free, sizeof(a->free));
    a->free = handle;
    a->count--;
}
