/*
 * What the superblocks and the blocks of the ring say, before any record is looked at: which
 * superblock counts, where the log ends (S5), whether something durable is missing (S12). Pure: a
 * start (recover.c) and who looks at a disk that nobody serves (inspect.c) read the same from it.
 */

#ifndef STORE_SCAN_H
#define STORE_SCAN_H

#include "store/impl.h"

/* The one that counts, of the SUPER_COPIES blocks that were read: the youngest that is whole,
 * and of the same formatting as the first that is: of a device that grew, the places of the others
 * hold data, which may be anything, also something made to look like a superblock.
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
    uint64_t mutants; /* tests only: store_config's */
    uint64_t highest; /* block that was seen */
    uint64_t durable; /* the highest block that any one that was seen vouches for */
    uint64_t end;     /* of the log, set by scan_end(); 0: no run of blocks is whole */
};

/* `super` must outlive it. Takes memory for each block of the ring that is seen. */
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

/*
 * Where to begin when not all of a big ring is to be read: SCAN_PROBES places, as far from each
 * other as the next, are seen first. The youngest of them is less than a spacing, and what may be
 * in flight, from the end of the log.
 */
enum { SCAN_PROBES = 256, SCAN_WINDOW = 512 };
static_assert(STORE_BATCHES * STORE_BATCH_BLOCKS <= SCAN_WINDOW / 2, "in flight");

static inline uint64_t scan_spacing(const struct superblock *super)
{
    return super->ring_blocks / SCAN_PROBES + 1;
}

/*
 * Every place was seen. -EBADMSG: blocks that were durable are not there (S12). With a `floor`:
 * blocks up to it are durable, and were not looked at; all from there up to a spacing and a window
 * beyond `highest` were.
 */
int scan_end(struct scan *sc);
int scan_end_from(struct scan *sc, uint64_t floor);

/* What the last block says, into a store that is starting. Only with an end. */
void scan_adopt(const struct scan *sc, struct store *s);

#endif /* STORE_SCAN_H */
