#include "base/pool.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

void *mem_zalloc(size_t size)
{
    void *p = calloc(1, size == 0 ? 1 : size);
    if (p == NULL)
        never("out of memory");
    return p;
}

void *mem_alloc_aligned(size_t size, size_t align)
{
    void *p = NULL;

    if (align < sizeof(void *))
        align = sizeof(void *);
    if (posix_memalign(&p, align, size == 0 ? align : size) != 0)
        never("out of memory");
    return p;
}

void *mem_realloc(void *p, size_t size)
{
    void *grown = realloc(p, size == 0 ? 1 : size);
    if (grown == NULL)
        never("out of memory");
    return grown;
}

char *mem_strdup(const char *s)
{
    size_t size = strlen(s) + 1;
    return memcpy(mem_zalloc(size), s, size);
}

void pool_init(struct pool *p, uint32_t count, size_t item_size, size_t align)
{
    check(align > 0 && (align & (align - 1)) == 0);

    if (align < sizeof(void *))
        align = sizeof(void *);
    if (item_size < sizeof(void *))
        item_size = sizeof(void *);
    item_size = (item_size + align - 1) & ~(align - 1);
    check(count == 0 || item_size <= SIZE_MAX / count);

    *p = (struct pool){.item_size = item_size, .count = count};
    p->memory = mem_alloc_aligned(item_size * count, align);
}

void pool_deinit(struct pool *p)
{
    free(p->memory);
    *p = (struct pool){0};
}

/* Returned items first (their memory is warm), then fresh ones. The first word of a free item links
 * it to the next. */
void *pool_get(struct pool *p)
{
    void *item = p->free;

    if (item != NULL) {
        memcpy(&p->free, item, sizeof(p->free));
    } else if (p->fresh < p->count) {
        item = (char *)p->memory + p->item_size * p->fresh;
        p->fresh++;
    } else {
        return NULL;
    }
    p->used++;
    return item;
}

void pool_put(struct pool *p, void *item)
{
    size_t offset = (size_t)((char *)item - (char *)p->memory);

    check(p->used > 0);
    check(offset < p->item_size * p->fresh && offset % p->item_size == 0);

    memcpy(item, &p->free, sizeof(p->free));
    p->free = item;
    p->used--;
}
