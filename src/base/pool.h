/*
 * Fixed pools: all memory of the I/O path is taken from one of these when its
 * owner starts. An empty pool is the limit it stands for: the caller waits or
 * refuses, it never allocates. Not thread-safe: a pool belongs to one loop.
 */

#ifndef BASE_POOL_H
#define BASE_POOL_H

#include <stddef.h>
#include <stdint.h>

struct pool {
    void *memory;
    void *free;
    size_t item_size;
    uint32_t count;
    uint32_t used;
    uint32_t fresh; /* items from here on were never handed out: their memory is untouched */
};

/* `align` a power of two; memory is not touched before use. Aborts when the machine has no memory
 * left. */
void pool_init(struct pool *p, uint32_t count, size_t item_size, size_t align);
void pool_deinit(struct pool *p);
void *pool_get(struct pool *p); /* NULL: the limit is reached */
void pool_put(struct pool *p, void *item);

/* Memory for start-up and the control plane: zeroed; aborts with a message instead of returning
 * NULL. */
void *mem_zalloc(size_t size);
void *mem_alloc_aligned(size_t size, size_t align);
void *mem_realloc(void *p, size_t size);
char *mem_strdup(const char *s);

#endif /* BASE_POOL_H */
