/*
 * What the superblocks and the blocks of the ring say, before any record is looked at: which
 * superblock counts, where the log ends (S5), whether something durable is missing (S12). Pure: a
 * start (recover.c) and who looks at a disk that nobody serves (inspect.c) read the same from it.
 */

#ifndef STORE_SCAN_H
#define STORE_SCAN_H

#include "store/impl.h"

/* The one that counts, of the SUPER_COPIES blocks that were read: the youngest that is whole.
 * `copy`: where it was found. -EINVAL: none; -ENOTSUP: one is of a newer version. */
int scan_supers(const uint8_t *blocks, struct superblock *out, uint32_t *copy);

/* What is kept of each block of the ring, by its place; seq 0: no block. */
struct seen {
    uint64_t seq, tail, mark, durable, scrub_at;
    uint32_t crc, prev_crc, scrub_since;
};

struct scan {
    const struct superblock *super;
    struct seen *seen;
    /* Set by scan_end(). */
    uint64_t highest; /* block that is there */
    uint64_t durable; /* the highest block that any other one vouches for */
    uint64_t end;     /* of the log; 0: no run of blocks is whole */
};

/* `super` must outlive it. Takes memory for each block of the ring. */
void scan_init(struct scan *sc, const struct superblock *super);
void scan_deinit(struct scan *sc);
static inline uint64_t scan_bytes(const struct superblock *super)
{
    return super->ring_blocks * sizeof(struct seen);
}

/* The block at this place of the ring. 1: it is one of this log, `h` is its header; 0: it is not,
 * or not any more; -ENOTSUP. */
int scan_see(struct scan *sc, uint64_t place, const uint8_t *block, struct block_head *h);

/* NULL: it is not there. */
const struct seen *scan_block(const struct scan *sc, uint64_t seq);

/* Every place was seen. -EBADMSG: blocks that were durable are not there (S12). */
int scan_end(struct scan *sc);

/* What the last block says, into a store that is starting. Only with an end. */
void scan_adopt(const struct scan *sc, struct store *s);

#endif /* STORE_SCAN_H */
