#include "base/hash.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"
#include "base/prng.h"

static struct hash_link **hash_bucket(const struct hash *h, uint64_t key)
{
    return &h->buckets[mix64(key) & h->mask];
}

void hash_init(struct hash *h, uint64_t capacity)
{
    uint64_t buckets_count = 16;

    check(capacity < (uint64_t)1 << 40);
    while (buckets_count < capacity)
        buckets_count *= 2;
    h->buckets = mem_zalloc(buckets_count * sizeof(struct hash_link *));
    h->mask = buckets_count - 1;
    h->count = 0;
}

void hash_deinit(struct hash *h)
{
    free(h->buckets);
    *h = (struct hash){0};
}

/*
 * Bucket i splits into i and i + old count. Each half keeps its order, so that growing is never
 * seen by one who walks equal keys.
 */
static void hash_grow(struct hash *h)
{
    uint64_t old_count = h->mask + 1;
    struct hash_link **old = h->buckets;

    h->buckets = mem_zalloc(2 * old_count * sizeof(struct hash_link *));
    h->mask = 2 * old_count - 1;
    for (uint64_t i = 0; i < old_count; i++) {
        struct hash_link **low = &h->buckets[i];
        struct hash_link **high = &h->buckets[i + old_count];
        for (struct hash_link *l = old[i]; l != NULL; l = l->next) {
            struct hash_link ***end = (mix64(l->key) & old_count) == 0 ? &low : &high;
            **end = l;
            *end = &l->next;
        }
        *low = NULL;
        *high = NULL;
    }
    free(old);
}

void hash_insert(struct hash *h, struct hash_link *l, uint64_t key)
{
    if (h->count > h->mask)
        hash_grow(h);

    struct hash_link **bucket = hash_bucket(h, key);
    l->key = key;
    l->next = *bucket;
    *bucket = l;
    h->count++;
}

void hash_remove(struct hash *h, struct hash_link *l)
{
    struct hash_link **pos = hash_bucket(h, l->key);

    while (*pos != l) {
        check(*pos != NULL);
        pos = &(*pos)->next;
    }
    *pos = l->next;
    l->next = NULL;
    h->count--;
}

static struct hash_link *hash_scan(struct hash_link *l, uint64_t key)
{
    while (l != NULL && l->key != key)
        l = l->next;
    return l;
}

struct hash_link *hash_find(const struct hash *h, uint64_t key)
{
    return hash_scan(*hash_bucket(h, key), key);
}

struct hash_link *hash_next(const struct hash_link *l)
{
    return hash_scan(l->next, l->key);
}
