/*
 * Hash table of u64 keys with intrusive links, for the I/O path (uthash serves
 * the control plane). Chained; doubles when full, so an insert may allocate once
 * in a while: create it with the capacity the owner's limit needs and it never does.
 * Several entries may have one key: hash_next() walks them.
 */

#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stdint.h>

struct hash_link {
    struct hash_link *next;
    uint64_t key;
};

struct hash {
    struct hash_link **buckets;
    uint64_t mask;
    uint64_t count;
};

void hash_init(struct hash *h, uint64_t capacity);
void hash_deinit(struct hash *h);
void hash_insert(struct hash *h, struct hash_link *l, uint64_t key);
void hash_remove(struct hash *h, struct hash_link *l); /* must be in it */
struct hash_link *hash_find(const struct hash *h, uint64_t key);
struct hash_link *hash_next(const struct hash_link *l); /* next with the same key */

#endif /* BASE_HASH_H */
