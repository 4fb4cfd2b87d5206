/*
 * Versioned objects on one device (DESIGN.md section 8; format and crash argument:
 * store/README.md).
 *
 * Promises
 *   - A write whose done() said 0 survives any crash; so do all earlier writes to the same object.
 *   - Writes to one object take effect, and are answered, in the order of their submission. At a
 * crash each object holds the state after some submitted write that is at or after the last
 * answered one; never a mixture, never garbage.
 *   - A read of a block that does not match its checksum is -EBADMSG, never wrong data.
 *   - -ENOSPC comes before anything has changed. -EIO on write or flush fails the store for good
 * (`failed`): every op ends with -EIO.
 *
 * The index is updated when a write is *submitted*: look-ups and listings show it at once, answered
 * or not. A write that has to wait for room (more than STORE_WRITES_MAX in flight, no free slot
 * yet, no room in the ring yet) shows its version and whether it deletes; its blocks show when its
 * turn has come. A read sees submitted writes only once their data is on the device; the OSD does
 * not read a range with a write in flight (R7).
 *
 * Threading: one loop. Memory: ops and what they point to are the caller's until done(). Nothing
 * allocates on the I/O path beyond the index's own growth.
 */

#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "base/hash.h"
#include "io/loop.h"

struct store;

enum {
    STORE_BLOCK = 4096,
    STORE_OBJECT_MAX = 1 << 20,
    STORE_BLOCKS_MAX = STORE_OBJECT_MAX / STORE_BLOCK, /* 256 */
    STORE_WRITES_MAX = 1024,                           /* in flight; more wait inside, in order */
};

struct store_id {
    uint64_t image;
    uint64_t object;
};

/* ---- Format and open ---- */

struct store_format {
    uint8_t cluster[16];
    uint8_t uuid[16];     /* of this store */
    uint32_t osd;         /* its id in the cluster */
    uint64_t size;        /* of the file or device; at least 64 MiB */
    uint32_t object_size; /* the largest object to expect; sizes the ring with `size` */
    uint64_t
        ring_blocks; /* of the log ring; 0: what fits the size. More lets more objects be smaller
                        than `object_size` (README.md); at least 256, at most a quarter */
};

/* Blocking. Writes superblocks and an empty ring. -EEXIST if there is a Skerry store already and
 * !force. */
int store_format(struct loop *loop, const char *path, const struct store_format *f, bool force);

/* Blocking. What a path holds, without opening it. -EINVAL: no Skerry store. -ENOTSUP: made by a
 * newer version. */
int store_probe(struct loop *loop, const char *path, struct store_format *out);

/* Is the room of blocks that are free given back to the device or file system, in the background?
 */
enum store_discard {
    STORE_DISCARD_AUTO, /* on a device that can, and of a file that is sparse when it is opened:
                           what was reserved stays so */
    STORE_DISCARD_ON,   /* where it is possible at all */
    STORE_DISCARD_OFF,
};

struct store_config {
    struct loop *loop;
    const char *path;
    uint8_t cluster[16]; /* must be its own: -EPERM ("belongs to another cluster") */
    uint32_t osd;        /* must match: -EPERM */
    void (*failed)(void *arg, int error, const char *what); /* once, when the device failed */
    void *arg;
    uint64_t scrub_period_s; /* every block in use is read and checked once in so long; 0: none */
    uint64_t scrub_rate;     /* … bytes a second, at most; 0: 64 MiB */
    /* Optional. A block was found that is not what was written (-EBADMSG) or is not given back
     * (-EIO). Once a round for each; the store goes on, and it is the caller's to mend it. */
    void (*scrub_bad)(void *arg, const struct store_id *id, uint64_t pg, uint32_t block, int error);
    enum store_discard discard;
    uint64_t mutants; /* tests only: rules to leave out (1 << enum store_mutant); 0 in production */
};

/* README.md has the rules; tests/unit/test_store_mutants.c who notices that one is left out. */
enum store_mutant {
    /* S1: when a replaced slot is free again */
    STORE_MUTANT_REUSE_NOW,      /* at once */
    STORE_MUTANT_REUSE_COMPOSED, /* when the record is composed */
    STORE_MUTANT_REUSE_ACKED,    /* … answered */
    STORE_MUTANT_REUSE_UNSAID,   /* … below the mark, which no durable block says yet */
    STORE_MUTANT_REUSE_READ,     /* while a read holds it */
    STORE_MUTANT_DISCARD_EARLY,  /* it is discarded at once */
    /* S2: which records a start believes */
    STORE_MUTANT_TRUST_ALL,     /* all of them */
    STORE_MUTANT_CHECK_ALL,     /* none unseen, below the mark neither */
    STORE_MUTANT_MARK_MAX,      /* the mark: the last record whose data is durable */
    STORE_MUTANT_NO_DROP_CHAIN, /* later ones of an object count though one was dropped */
    STORE_MUTANT_UNSETTLED,     /* settled runs are not marked */
    STORE_MUTANT_SETTLED_ALL,   /* all runs are */
    /* S3: what a start writes */
    STORE_MUTANT_NO_START_BLOCK,
    STORE_MUTANT_NO_DROPS,       /* it does not name what it dropped */
    STORE_MUTANT_RAISE_EARLY,    /* the first of several blocks raises the mark */
    STORE_MUTANT_REVIVE,         /* a start that was cut off is not seen */
    STORE_MUTANT_NO_START_FLUSH, /* nothing is flushed before the ring is read */
    STORE_MUTANT_SUPER_AT_ONCE,  /* the copies of the superblock are written together */
    /* S4: when a record is answered */
    STORE_MUTANT_ACK_EARLY,       /* before its block is durable, and those before it */
    STORE_MUTANT_ACK_OUT_OF_TURN, /* a block does not wait for its data, nor a record for others */
    /* S5, S12: where the log ends */
    STORE_MUTANT_NO_CHAIN,
    STORE_MUTANT_END_HIGHEST, /* the run from its tail need not be there */
    STORE_MUTANT_NO_DURABLE,  /* a rotten block is taken for a torn tail */
    /* S6: the tail */
    STORE_MUTANT_TAIL_EARLY,     /* it passes records whose successor is in flight, and these */
    STORE_MUTANT_FULL_IN_FLIGHT, /* it passes full records whose successor is in flight */
    STORE_MUTANT_RING_REUSE,     /* its space is free before a durable block names it */
    /* S8: what a full record carries */
    STORE_MUTANT_LOSE_DEDUPS,
    STORE_MUTANT_LOSE_PREPARED,
    STORE_MUTANT_LOSE_TOMBSTONE,
    STORE_MUTANT_TRIM_UNSAID, /* a trimmed tombstone gets no PURGE */
    /* S9 */
    STORE_MUTANT_REWRITE, /* a block that is not full is written again, with more in it */
    /* S10 */
    STORE_MUTANT_NO_FLUSH,   /* a write that is done counts as durable */
    STORE_MUTANT_FLUSH_RACE, /* a flush counts for what was written when it ends */
    /* S11, order, limits */
    STORE_MUTANT_NO_EMPTY,    /* no empty block for who waits */
    STORE_MUTANT_NO_IDLE,     /* none when it is quiet */
    STORE_MUTANT_OVERTAKE,    /* a write passes a deferred one of its object */
    STORE_MUTANT_DEDUPS_GROW, /* no full record before dedup records are too many */
    /* Reads, the ring's end, lists */
    STORE_MUTANT_NO_CRC,     /* what is read is not verified */
    STORE_MUTANT_READ_AHEAD, /* a read does not wait for data on its way */
    STORE_MUTANT_WRONG_WRAP, /* a batch across the ring's end is one write */
    STORE_MUTANT_SLOTS_LEAK, /* freed slots do not return */
    STORE_MUTANT_LIST_SHORT, /* a listing looks at as many places as there are objects */
    /* Erasure coding */
    STORE_MUTANT_PREPARE_FREES,  /* the slots of what is return with a PREPARE */
    STORE_MUTANT_COMMIT_UNSAID,  /* the record of a COMMIT does not say so */
    STORE_MUTANT_ROLLBACK_KEEPS, /* … the dedup record */
    STORE_MUTANT_COUNT
};

struct store_open {
    struct store_config config;
    void (*done)(struct store_open *o);
    /* Valid in done(). */
    int result;      /* -EBADMSG: the ring is corrupt (S12): it must not join as a member of S */
    char error[160]; /* a sentence */
    struct store *store;  /* set by store_open_start(): if its loop dies before done(), close it */
    uint32_t incarnation; /* boot number, durable before done(): 1 after format, then 2, … */
    void *priv;
};

/* Locks, raises the boot number, reads the ring, writes the start block (S3). */
void store_open_start(struct store_open *o);

/* Free the memory; its loop has stopped or is dead, or nothing is in flight. */
void store_close(struct store *s);

/* ---- Writes ---- */

enum store_write_kind {
    STORE_WRITE = 1, /* data for whole blocks */
    STORE_ZERO,      /* blocks of the range become holes */
    STORE_DELETE,    /* the object becomes a tombstone of this version; its dedup records stay */
    STORE_REPLACE,   /* the object becomes exactly this: recovery's copy; version may be lower;
                        tombstone if `deleted` */
    STORE_DEDUP,     /* only adds dedup records; version and data of the object stay (version field
                        ignored) */
    STORE_PURGE,     /* forget the object, its tombstone and its dedup records */
    /*
     * Erasure coding (DESIGN.md section 9): one more version of an object beside the one that is,
     * which stays. On an object with a prepared version WRITE, ZERO and DELETE are -EBUSY; REPLACE
     * and PURGE forget it.
     */
    STORE_PREPARE,  /* data, or holes (`zero`), for whole blocks; or a tombstone (`deleted`); or,
                       with  len 0, the version alone. An older prepared version is committed by it,
                       the  same one replaced. -ESTALE: `version` is not above what is */
    STORE_COMMIT,   /* the prepared `version` is what is. 0 also if it, or a later one, was before;
                       -ENOENT: it was never prepared */
    STORE_ROLLBACK, /* the prepared `version` is forgotten. 0 also if there is none; -ESTALE: it is
                       committed */
};

/* R10: client's request `seq`, below STORE_SEQ_MAX, was executed as `version` on this object. */
#define STORE_SEQ_MAX ((uint64_t)1 << 48)
struct store_dedup {
    uint64_t client, seq, version;
};

struct store_write {
    /* Set by the caller. */
    enum store_write_kind kind;
    struct store_id id;
    uint64_t pg;
    uint64_t version;
    uint32_t offset, len; /* WRITE, ZERO, PREPARE: multiples of STORE_BLOCK */
    const void
        *data; /* page-aligned. WRITE: len bytes. REPLACE: the blocks of `present`, in order */
    const uint32_t *crcs; /* crc32c_block() of each block of data; trusted: whoever got the data has
                             verified it */
    uint64_t present[STORE_BLOCKS_MAX / 64]; /* REPLACE: which blocks there are */
    bool deleted;                            /* REPLACE, PREPARE */
    bool zero;                               /* PREPARE: the range becomes holes; no data */
    uint64_t client, seq; /* WRITE, ZERO, DELETE, PREPARE: dedup record stored with it; client 0:
                             none */
    const struct store_dedup
        *dedups; /* REPLACE: its records above dedup_above become these. DEDUP: added */
    uint32_t dedups_count;
    uint64_t dedup_above; /* REPLACE: own records with a version above this are dropped first */
    void (*done)(struct store_write *w);

    int result; /* valid in done() */

    /* Private. */
    struct store *store;
    void *object;            /* struct object */
    void *record;            /* struct record, once it is composed */
    struct list link;        /* in one of the store's lists, by state */
    struct list object_link; /* in object.waiting, then in record.writes */
    struct list queue_link;  /* in store.queue until composed */
    struct list data_link;   /* in object.writing until its data is written */
    struct list flush_link;  /* in store.starved, .written, .flushing */
    uint32_t state;
    uint32_t promised_slots, promised_bytes; /* while it is deferred */
    uint32_t queued_bytes;                   /* of a record, until it is composed */
    uint32_t data_blocks, data_next; /* blocks of data; how many of them were given to the device */
    uint32_t data_ops;               /* on the device */
    uint32_t slots_count, slots_next, freed_count;
    bool data_written, data_durable;
    bool fua;     /* its data is durable when it is written */
    bool is_void; /* COMMIT, ROLLBACK: there is nothing to do */
    void *room;   /* struct room: where its data goes, and what it replaces */
    void *priv;
};

void store_write_start(struct store *s, struct store_write *w);

/* ---- Reads ---- */

struct store_read {
    struct store_id id;
    uint32_t offset, len; /* multiples of STORE_BLOCK */
    void *buf;            /* page-aligned, len bytes; holes are zeroed */
    uint32_t *crcs; /* room for one per block; holes: crc32c_block() of zeros (optional: NULL) */
    bool prepared;  /* of the prepared version, on top of what is; -ENOENT if there is none */
    void (*done)(struct store_read *r);

    int result;         /* 0, -ENOENT (no such object: buf is zeroed too), -EBADMSG, -EIO */
    uint64_t version;   /* of the object when the read was started; 0 if there is none */
    uint32_t bad_block; /* with -EBADMSG */

    struct store *store;
    void *object;
    struct list link;         /* in store.reads from start to done */
    struct list starved_link; /* in store.reads_starved or .reads_blocked */
    struct task task;
    uint64_t number; /* S1: slots freed from here on stay until this read is over */
    uint32_t state, next, ops_left;
    uint64_t slots[STORE_BLOCKS_MAX];
    uint32_t expected[STORE_BLOCKS_MAX];
    void *priv;
};

void store_read_start(struct store *s, struct store_read *r);

/* ---- Looking at the index: immediate ---- */

struct store_object {
    struct store_id id;
    uint64_t pg;
    uint64_t version;
    bool deleted; /* a tombstone */
    uint64_t present[STORE_BLOCKS_MAX / 64];
    uint64_t prepared; /* version; 0: none. It shows once its write's turn has come */
};

/* False: never heard of. */
bool store_lookup(struct store *s, const struct store_id *id, struct store_object *out);

/* The crc of one present block. */
bool store_block_crc(struct store *s, const struct store_id *id, uint32_t block, uint32_t *crc);

/*
 * Objects of `pg` with version > above, in an order that is stable while the cursor lives
 * (new objects may be missed or seen). Start with a zeroed cursor. Returns how many were
 * put into out. A call looks at no more than some thousand objects: it may return 0 and not have
 * `ended`. Also lists objects that have only dedup records (version 0), or a prepared version.
 */
struct store_cursor {
    uint64_t pg;
    uint64_t position[2];
    bool started;
    bool ended; /* set by each call: there are no more */
};
uint32_t store_list(struct store *s, uint64_t pg, uint64_t above, struct store_cursor *cursor,
                    struct store_object *out, uint32_t out_max);

/* Dedup records of one object with version > above; returns how many there are, fills at most
 * out_max. */
uint32_t store_dedup_list(struct store *s, const struct store_id *id, uint64_t above,
                          struct store_dedup *out, uint32_t out_max);

/* R10: was (client, seq) executed in this PG? */
bool store_dedup_find(struct store *s, uint64_t pg, uint64_t client, uint64_t seq,
                      uint64_t *version);

/* Records of `client` in `pg` with seq < floor are no longer needed (floor UINT64_MAX: the client
 * is gone). A client has one window over all its requests, so that a floor told for one PG is never
 * above one it still needs in another: objects change PGs. In memory, carried no further by
 * cleaning, and said with the next record of this client, so that a restart does not gather them
 * all again. */
void store_dedup_floor(struct store *s, uint64_t pg, uint64_t client, uint64_t floor);

/* R8: tombstones of `pg` with version <= floor may be forgotten. Bounded work per call; call it
 * again now and then. */
void store_trim(struct store *s, uint64_t pg, uint64_t floor);

struct store_status {
    uint64_t size_bytes, data_bytes, used_bytes,
        free_bytes; /* slots; used includes what waits to be reusable */
    uint64_t ring_blocks, ring_used_blocks;
    uint64_t log_bytes, log_free_bytes; /* of records of live state: beyond, writes are refused */
    uint64_t objects, tombstones, dedups;
    uint64_t writes_total, reads_total, blocks_total, cleaned_total, flushes_total,
        crc_errors_total;
    uint64_t index_bytes;
    /* Scrub: 0 where it is off. */
    uint32_t scrub_permille;   /* of this round */
    uint64_t scrub_started_s;  /* when it began, seconds since 1970 */
    uint64_t scrub_finished_s; /* when the last whole one ended; 0: none since the start */
    bool scrub_late;           /* this round should have ended; it goes on */
    uint64_t scrub_rounds_total, scrub_blocks_total, scrub_bad_total;
    uint64_t discarded_bytes_total;
    bool failed;
};
void store_status(struct store *s, struct store_status *out);

/* Blocks in use by one image (exact). */
uint64_t store_image_blocks(struct store *s, uint64_t image);

#endif /* STORE_STORE_H */
