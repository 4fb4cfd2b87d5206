#include "store/arena.h"

#include <stdlib.h>
#include <string.h>

#include "base/pool.h"

void arena_init(struct arena *a, uint32_t item_size)
{
    check(item_size >= 16 && item_size <= 4096 && (item_size & (item_size - 1)) == 0);
    *a = (struct arena){.item_shift = (uint32_t)__builtin_ctz(item_size)};
}

void arena_deinit(struct arena *a)
{
    for (uint32_t i = 0; i < a->chunks_count; i++)
        free(a->chunks[i]);
    free(a->chunks);
    *a = (struct arena){0};
}

static void arena_grow(struct arena *a)
{
    if (a->chunks_count == a->chunks_capacity) {
        a->chunks_capacity = a->chunks_capacity == 0 ? 16 : 2 * a->chunks_capacity;
        a->chunks = mem_realloc(a->chunks, a->chunks_capacity * sizeof(*a->chunks));
    }
    uint8_t *chunk = mem_alloc_aligned(ARENA_CHUNK, ARENA_CHUNK);
    memcpy(chunk, &a->chunks_count, sizeof(a->chunks_count));
    a->chunks[a->chunks_count++] = chunk;
}

void *arena_take(struct arena *a)
{
    uint32_t handle = a->free, per_chunk = (uint32_t)ARENA_CHUNK >> a->item_shift;
    void *item;

    if (handle != 0) {
        item = arena_at(a, handle);
        memcpy(&a->free, item, sizeof(a->free));
    } else {
        if (a->fresh % per_chunk == 0) { /* the first item is the chunk's own */
            if (a->fresh >= ARENA_HANDLE_MAX)
                return NULL;
            arena_grow(a);
            a->fresh++;
        }
        item = arena_at(a, a->fresh++);
    }
    memset(item, 0, (size_t)1 << a->item_shift);
    a->count++;
    return item;
}

void arena_put(struct arena *a, void *item)
{
    uint32_t handle = arena_handle(a, item);

    check(a->count > 0 && handle != 0);
    memcpy(item, &a->free, sizeof(a->free));
    a->free = handle;
    a->count--;
}
