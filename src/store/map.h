/*
 * Where the blocks of one object lie: runs of slots, and a crc for each block that has one, in one
 * allocation as small as they are (README.md says what an object costs). Pure, but for malloc.
 *
 * Memory: a map belongs to its object; NULL is the empty one. Each change makes a new one where the
 * size changes.
 */

#ifndef STORE_MAP_H
#define STORE_MAP_H

#include "store/store.h"

struct map; /* `runs` words, then a crc for each of `blocks` blocks; the owner keeps the counts */

/* The whole of it, spread out. slots[i] 0: a hole; so are the blocks from `count` on, of which
 * nothing is written here. */
struct layout {
    uint32_t count;
    uint32_t crcs[STORE_BLOCKS_MAX];
    uint64_t slots[STORE_BLOCKS_MAX];
};

static inline uint64_t layout_slot(const struct layout *l, uint32_t block)
{
    return block < l->count ? l->slots[block] : 0;
}

static inline void layout_set(struct layout *l, uint32_t block, uint64_t slot, uint32_t crc)
{
    while (l->count <= block)
        l->slots[l->count++] = 0;
    l->slots[block] = slot;
    l->crcs[block] = crc;
}

/* Blocks first .. first + count - 1 of the object into slots and crcs [0 .. count - 1]. */
void map_read(const struct map *m, uint32_t runs, uint32_t first, uint32_t count, uint64_t *slots,
              uint32_t *crcs);
void map_spread(const struct map *m, uint32_t runs, struct layout *out);
void map_present(const struct map *m, uint32_t runs, uint64_t present[STORE_BLOCKS_MAX / 64]);

/* Replace `m` (which it frees, or uses again) by what `l` says; tells the new counts. */
struct map *map_pack(struct map *m, uint32_t *runs, uint32_t *blocks, const struct layout *l);

/* Bytes of a map with these counts, with what the allocator takes for it. */
uint32_t map_bytes(uint32_t runs, uint32_t blocks);

#endif /* STORE_MAP_H */
