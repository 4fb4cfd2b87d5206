/* Inside inspect: what its files share. */

#ifndef STORE_INSPECT_IMPL_H
#define STORE_INSPECT_IMPL_H

#include "store/inspect.h"
#include "store/replay.h"
#include "store/scan.h"

enum { INSPECT_CHUNK = 256 }; /* blocks; also the superblocks are read into it */

struct inspect {
    struct inspect_config config;
    struct loop_file *file;
    struct inspect_report report;
    struct inspect_image *images;
    uint64_t images_capacity;
    struct store *s; /* an index and a log that nobody serves */
    struct scan scan;
    struct replay replay;
    uint64_t memory; /* what is taken besides the index */

    /* Ring blocks that were read last. */
    uint8_t *chunk;
    uint64_t chunk_place;                /* of the ring */
    uint32_t chunk_count;                /* 0: none */
    uint8_t chunk_errors[INSPECT_CHUNK]; /* 1: this one cannot be read */
    uint64_t scrap[INSPECT_TOLD_MAX];    /* places of the ring that are BROKEN, the first ones */
    uint64_t scrap_count;
    uint8_t *slots; /* of one record */
};

void inspect_find(struct inspect *in, enum inspect_code code, uint64_t place, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
#define INSPECT_NO_PLACE UINT64_MAX

/* The block at a place of the ring; NULL: the device gives an error. Valid until the next call. */
const uint8_t *inspect_ring(struct inspect *in, uint64_t place);
/* What lies there; of a VALID one, its header. */
enum inspect_place_state inspect_place(struct inspect *in, uint64_t place, struct block_head *h,
                                       const uint8_t **block);
static inline uint64_t inspect_ring_place(const struct inspect *in, uint64_t seq)
{
    const struct superblock *sb = &in->report.super;

    return sb->ring_first + seq % sb->ring_blocks;
}

/* Calls `each` for each object of the index, headless ones too, in no order. */
void inspect_all(struct inspect *in, void (*each)(struct inspect *in, struct object *o));

#endif /* STORE_INSPECT_IMPL_H */
