#include "base/heap.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"

void heap_init(struct heap *h)
{
    *h = (struct heap){0};
}

void heap_deinit(struct heap *h)
{
    free(h->nodes);
    *h = (struct heap){0};
}

static bool heap_less(const struct heap_node *a, const struct heap_node *b)
{
    return a->key < b->key || (a->key == b->key && a->order < b->order);
}

static void heap_place(struct heap *h, uint32_t i, struct heap_node *n)
{
    h->nodes[i] = n;
    n->slot = i + 1;
}

static void heap_sift_up(struct heap *h, uint32_t i, struct heap_node *n)
{
    while (i > 0) {
        uint32_t parent = (i - 1) / 2;
        if (!heap_less(n, h->nodes[parent]))
            break;
        heap_place(h, i, h->nodes[parent]);
        i = parent;
    }
    heap_place(h, i, n);
}

static void heap_sift_down(struct heap *h, uint32_t i, struct heap_node *n)
{
    while (2 * i + 1 < h->count) {
        uint32_t child = 2 * i + 1;
        if (child + 1 < h->count && heap_less(h->nodes[child + 1], h->nodes[child]))
            child++;
        if (!heap_less(h->nodes[child], n))
            break;
        heap_place(h, i, h->nodes[child]);
        i = child;
    }
    heap_place(h, i, n);
}

static void heap_grow(struct heap *h)
{
    check(h->capacity < UINT32_MAX / 4);

    h->capacity = h->capacity == 0 ? 64 : 2 * h->capacity;
    h->nodes = mem_realloc(h->nodes, h->capacity * sizeof(struct heap_node *));
}

void heap_insert(struct heap *h, struct heap_node *n, uint64_t key)
{
    check(n->slot == 0);

    if (h->count == h->capacity)
        heap_grow(h);
    n->key = key;
    n->order = ++h->order_last;
    h->count++;
    heap_sift_up(h, h->count - 1, n);
}

/* The last node takes the free place, and finds its own from there. */
void heap_remove(struct heap *h, struct heap_node *n)
{
    if (n->slot == 0)
        return;

    uint32_t i = n->slot - 1;
    check(i < h->count && h->nodes[i] == n);
    n->slot = 0;
    h->count--;
    struct heap_node *last = h->nodes[h->count];
    if (last == n)
        return;
    if (i > 0 && heap_less(last, h->nodes[(i - 1) / 2]))
        heap_sift_up(h, i, last);
    else
        heap_sift_down(h, i, last);
}

struct heap_node *heap_min(const struct heap *h)
{
    return h->count == 0 ? NULL : h->nodes[0];
}
