/*
 * What lies on the device, byte by byte (README.md has the tables and the reasons): encode and
 * decode, pure. Whatever comes from a device is checked here, every length before it is used.
 *
 * Memory: a view points into the buffer it was decoded from.
 */

#ifndef STORE_FORMAT_H
#define STORE_FORMAT_H

#include <stdbool.h>

#include "base/bytes.h"
#include "store/store.h"

enum {
    SUPER_COPIES = 3,
    SUPER_VERSION = 2,

    RING_BLOCKS_MIN = 256, /* below, it would not hold a long record, copies and reserve */
    BLOCK_VERSION = 2,
    BLOCK_HEADER = 88,
    BLOCK_PAYLOAD = STORE_BLOCK - BLOCK_HEADER,
    PIECE_HEADER = 8,
    PIECE_ALIGN = 8,
    /* A block that holds one piece holds this much of a record. */
    BLOCK_ROOM = BLOCK_PAYLOAD - PIECE_HEADER,

    RECORD_HEADER = 40,
    RECORD_RUN = 8,
    RECORD_CRC = 4,
    RECORD_DEDUP = 24,
    RECORD_PREPARED = 16,
    RECORD_DEDUPS_MAX = 8192,
    RECORD_DROPS_MAX = 256,                 /* so that a list of drops never leaves its block */
    RECORD_RUNS_MAX = 2 * STORE_BLOCKS_MAX, /* committed and prepared */
    RECORD_BYTES_MAX = RECORD_HEADER + RECORD_RUNS_MAX * (RECORD_RUN + RECORD_CRC) +
                       RECORD_DEDUPS_MAX * RECORD_DEDUP + RECORD_PREPARED,
};

/* The index keeps places of the ring in 32 bits. */
#define RING_BLOCKS_MAX ((uint64_t)UINT32_MAX - 1)

/* Slots, and so blocks of a device, have 45 bits in a record. */
#define STORE_SLOTS_MAX ((uint64_t)1 << 45)

/* ---- Superblock ---- */

struct superblock {
    uint32_t copy;
    uint8_t cluster[16];
    uint8_t uuid[16];
    uint32_t osd;
    uint32_t object_size;
    uint64_t blocks; /* of the device, all of it */
    uint64_t ring_first, ring_blocks;
    uint64_t nonce; /* of this formatting: older ring blocks carry another */
    uint32_t boot;  /* boots so far */
};

/* Where copy `i` lies on a device of `blocks` blocks. */
uint64_t superblock_place(uint64_t blocks, uint32_t i);
void superblock_encode(const struct superblock *sb, uint8_t block[STORE_BLOCK]);
/* 0; -EINVAL: not a superblock, or damaged; -ENOTSUP: of a newer version. */
int superblock_decode(const uint8_t block[STORE_BLOCK], struct superblock *out);

/* For people, of a block that was refused: what it says where the fields would lie, and what it
 * looks like. */
struct block_doubt {
    bool is_zero;   /* all of it */
    bool has_magic; /* it begins like one */
    uint32_t version;
    uint64_t nonce, seq;     /* `seq`: of ring blocks */
    uint32_t crc, crc_found; /* as it says; as it is */
};
void superblock_doubt(const uint8_t block[STORE_BLOCK], struct block_doubt *out);
void block_doubt(const uint8_t block[STORE_BLOCK], struct block_doubt *out); /* of the ring */

/* ---- Ring block ---- */

/* Numbers of blocks and records are below; no store lives to see it. */
#define BLOCK_NUMBERS_MAX ((uint64_t)1 << 63)

struct block_head {
    uint64_t nonce;
    uint64_t seq;         /* 1, 2, …: lies at place seq % ring_blocks */
    uint32_t boot;        /* that wrote it */
    uint32_t prev_crc;    /* `crc` of block seq - 1 */
    uint64_t mark;        /* the data of all records <= mark is durable (S2) */
    uint64_t tail;        /* blocks before it are not needed (S5) */
    uint64_t durable;     /* blocks <= this were durable when it was composed (S12) */
    uint64_t record;      /* number of the record its first piece belongs to */
    uint64_t scrub_at;    /* how far scrub has come (scrub.c) */
    uint32_t scrub_since; /* … and when it began this round: seconds since 1970 */
    uint32_t used;        /* bytes of payload */
    uint32_t crc;         /* set by block_seal() */
};

/* Complete the block: the payload lies in place, the header is written, the crc computed. */
void block_seal(uint8_t block[STORE_BLOCK], struct block_head *h);
/* 0; -EINVAL: not a block of this formatting, or damaged; -ENOTSUP: of a newer version. */
int block_open(const uint8_t block[STORE_BLOCK], uint64_t nonce, struct block_head *out);

/*
 * A record lies in one or more pieces, in consecutive blocks; it exists when all are there. Only
 * the first piece of a block may go on with a record of the block before.
 */
struct piece {
    uint64_t seq;    /* of the record: the block's `record` + how many pieces came before */
    uint32_t total;  /* length of the record */
    uint32_t offset; /* of this piece in it */
    uint32_t len;
    const uint8_t *bytes;
};

static inline uint32_t piece_space(uint32_t len)
{
    return PIECE_HEADER + (len + PIECE_ALIGN - 1) / PIECE_ALIGN * PIECE_ALIGN;
}

/* Append to the payload; it must fit. The first piece sets h->record. */
void piece_put(uint8_t block[STORE_BLOCK], struct block_head *h, const struct piece *p);
/* Next piece at *at (from zeros). 1; 0: the end; -EBADMSG. */
struct piece_at {
    uint32_t offset, index;
};
int piece_next(const uint8_t block[STORE_BLOCK], const struct block_head *h, struct piece_at *at,
               struct piece *out);

/* ---- Record ---- */

enum record_kind {
    RECORD_FULL = 1,  /* the object is exactly this */
    RECORD_DELTA = 2, /* on top of what it was */
    RECORD_PURGE = 3, /* it is forgotten */
    RECORD_DROPS = 4, /* these records do not count (S3) */
};

enum record_flags {
    RECORD_DELETED = 1, /* a tombstone */
    RECORD_CLEAR = 2,   /* DELTA: all blocks become holes first */
    RECORD_KEEP = 4,    /* DELTA: version and tombstone stay as they are */
    /* DELTA, at most one of these: `version` and the runs (after CLEAR, and with DELETED) are
     * prepared beside what is; the prepared version becomes what is; it is forgotten. A version
     * that was prepared before is committed by PREPARE, replaced if it is the same. */
    RECORD_PREPARE = 8,
    RECORD_COMMIT = 16,
    RECORD_ROLLBACK = 32,
    RECORD_BOTH = 64, /* FULL: a prepared part follows */
};

/*
 * Blocks first .. first + count - 1 lie in slots slot .. ; slot 0: they are holes. `settled`: their
 * data was durable when the record was composed (S7), so a start does not look at it: what rots
 * there must not take later, acknowledged writes with it. `prepared`: of the prepared part of a
 * FULL record; these come after the others.
 */
struct record_run {
    uint32_t first, count;
    uint64_t slot;
    bool settled, prepared;
};

/* Composed front to back: head, runs, crcs of the runs with slots, dedup records, prepared part. */
struct record_head {
    enum record_kind kind;
    uint32_t flags;
    uint32_t runs_count;
    uint32_t crcs_count;
    uint32_t dedups_count; /* DROPS: sequence numbers */
    struct store_id id;
    uint64_t pg;
    uint64_t version;
};

/* The prepared part of a FULL record: what its prepared runs are on top of what is. */
struct record_prepared {
    uint64_t version;
    bool clear;   /* all blocks become holes first */
    bool deleted; /* … and the object a tombstone */
};

static inline uint32_t record_size(uint32_t runs, uint32_t crcs, uint32_t dedups, bool both)
{
    return RECORD_HEADER + runs * RECORD_RUN + (crcs + crcs % 2) * RECORD_CRC +
           dedups * RECORD_DEDUP + (both ? (uint32_t)RECORD_PREPARED : 0);
}

/* The sections of a record of this head in a buffer of record_size(): to write, or to read. */
void record_head_encode(uint8_t *buf, const struct record_head *h);
/* Checks everything but what a slot number may be. `blocks`: of the device. */
int record_decode(const uint8_t *buf, uint32_t len, uint64_t blocks, struct record_head *out);

static inline uint32_t record_runs_at(void)
{
    return RECORD_HEADER;
}

static inline uint32_t record_crcs_at(const struct record_head *h)
{
    return RECORD_HEADER + h->runs_count * RECORD_RUN;
}

static inline uint32_t record_dedups_at(const struct record_head *h)
{
    return record_size(h->runs_count, h->crcs_count, 0, false);
}

static inline uint32_t record_prepared_at(const struct record_head *h)
{
    return record_size(h->runs_count, h->crcs_count, h->dedups_count, false);
}

void record_run_put(uint8_t *buf, uint32_t i, const struct record_run *run);
void record_run_get(const uint8_t *buf, uint32_t i, struct record_run *out);
void record_crc_put(uint8_t *buf, const struct record_head *h, uint32_t i, uint32_t crc);
uint32_t record_crc_get(const uint8_t *buf, const struct record_head *h, uint32_t i);
void record_dedup_put(uint8_t *buf, const struct record_head *h, uint32_t i,
                      const struct store_dedup *d);
void record_dedup_get(const uint8_t *buf, const struct record_head *h, uint32_t i,
                      struct store_dedup *out);
void record_prepared_put(uint8_t *buf, const struct record_head *h,
                         const struct record_prepared *p);
void record_prepared_get(const uint8_t *buf, const struct record_head *h,
                         struct record_prepared *out);

/*
 * What was known of the floor of its client in its PG when the record was composed: requests below
 * it are asked for no more. It has 16 bits beside the seq: what is further away is not said. 0: not
 * known.
 */
void record_floor_put(uint8_t *buf, const struct record_head *h, uint32_t i, uint64_t floor);
uint64_t record_floor_get(const uint8_t *buf, const struct record_head *h, uint32_t i);

/* DROPS is a record of its own shape: kind, count, sequence numbers. */
static inline uint32_t drops_size(uint32_t count)
{
    return 8 + 8 * count;
}
void drops_encode(uint8_t *buf, const uint64_t *seqs, uint32_t count);
/* How many; -EBADMSG. */
int drops_decode(const uint8_t *buf, uint32_t len);
uint64_t drops_get(const uint8_t *buf, uint32_t i);

#endif /* STORE_FORMAT_H */
