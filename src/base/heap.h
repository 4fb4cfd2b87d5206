/* Intrusive binary min-heap keyed by u64, ties in order of insertion. The array of pointers grows
 * by doubling; nodes are the caller's. */

#ifndef BASE_HEAP_H
#define BASE_HEAP_H

#include <stdbool.h>
#include <stdint.h>

struct heap_node {
    uint64_t key;
    uint64_t order;
    uint32_t slot; /* 1 + place in the array; 0: in no heap */
};

struct heap {
    struct heap_node **nodes;
    uint32_t count;
    uint32_t capacity;
    uint64_t order_last;
};

void heap_init(struct heap *h);
void heap_deinit(struct heap *h);
void heap_insert(struct heap *h, struct heap_node *n, uint64_t key);
void heap_remove(struct heap *h, struct heap_node *n); /* harmless when in no heap */
struct heap_node *heap_min(const struct heap *h);      /* NULL when empty */

static inline bool heap_has(const struct heap_node *n)
{
    return n->slot != 0;
}

#endif /* BASE_HEAP_H */
