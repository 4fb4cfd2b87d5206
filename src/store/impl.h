/*
 * Inside the store: what its files share. The promises are in store.h, the argument in README.md.
 *
 * The way of a write:
 *
 *   start --no slot or ring room, or too many--> DEFERRED --its turn--+
 *     |                                                               v
 *     +--applied to the index, data on its way---------------------> QUEUED
 *                                                                     | its record is composed
 *                                                                     v
 *                                     finished <--acked (S4)-------- LOGGED
 *
 * Device completions record and wake the one task of the store; store_step() in store.c takes all
 * decisions, in a fixed order.
 */

#ifndef STORE_IMPL_H
#define STORE_IMPL_H

#include "base/pool.h"
#include "store/format.h"

enum {
    STORE_IOS_MAX = 2048,     /* data operations on the device; beyond, they wait in order */
    STORE_RECORDS_MAX = 4096, /* composed and not answered; beyond, composing waits */
    STORE_BATCHES = 4,        /* groups of ring blocks that are not durable */
    STORE_BATCH_WRITING = 2,  /* of them on the device */
    STORE_BATCH_BLOCKS = 64,
    /* Ring blocks for start blocks: they name all records that were in flight, if need be. */
    STORE_START_RESERVE = STORE_RECORDS_MAX / RECORD_DROPS_MAX + 8,
    STORE_IDLE_NS = 50 * 1000 * 1000, /* then an empty block says what the last one could not */
    STORE_TRIM_STEP = 256,
    /* What an object costs in the ring at most: a full record, cut anywhere. */
    OBJECT_BYTES = RECORD_HEADER + 2 * PIECE_HEADER + 8,
    OBJECT_BLOCK_BYTES = RECORD_RUN + RECORD_CRC,
};

static_assert((RECORD_BYTES_MAX + BLOCK_ROOM - 1) / BLOCK_ROOM + 1 <= STORE_BATCH_BLOCKS,
              "the longest record fits into a batch");

/* ---- Index ---- */

struct block {
    uint32_t slot; /* 0: a hole */
    uint32_t crc;
};

struct object {
    struct hash_link by_id;
    struct list in_age;    /* store.age: by its newest full record that is composed */
    struct list in_done;   /* store.done: by its newest full record that is acked */
    struct list in_wanted; /* store.wanted: cleaning waits to copy it */
    struct store_id id;
    struct pg *pg;
    uint64_t pg_serial;
    uint64_t version;         /* of what is in `blocks` */
    uint64_t version_visible; /* with deferred writes */
    struct list dedups;       /* struct dedup.in_object */
    struct list waiting;      /* struct store_write.object_link: applied, not composed */
    struct list records;      /* struct record.in_object: composed, not acked */
    struct list writing;      /* struct store_write.data_link */
    struct block *blocks;
    uint64_t full_newest; /* ring block of the newest full record that is composed; 0: none */
    uint64_t full_done;   /* … that is acked (S6) */
    uint32_t blocks_capacity, blocks_count;
    uint32_t dedups_count;
    uint32_t deferred;
    uint32_t promised_dedups; /* of deferred writes, not in the list yet */
    uint32_t bytes_counted;   /* in store.live_bytes */
    uint32_t bytes_ring;      /* in store.ring_bytes: what a restart may find of it, at most */
    uint32_t ring_blocks, ring_dedups; /* that bytes_ring stands for */
    uint32_t next_blocks, next_dedups; /* … once the newest full record is acked: its own, and all
                                          that came since */
    bool deleted, deleted_visible;
    bool gone;         /* purged, or not made yet */
    bool gone_visible; /* no look-up finds it: gone or trimmed, with deferred writes */
    bool trimmed;      /* a tombstone nobody sees any more; cleaning purges it */
    bool full_needed;  /* there is no record to put a delta on */
    bool headless;     /* at start: only deltas so far; a full record must follow */
    bool broken;       /* at start: a record of it was dropped, and so are all later ones (S2) */
    bool counted_object, counted_tombstone;
};

struct pg_entry {
    uint64_t serial;
    struct object *object; /* NULL: removed */
};

struct pg {
    struct hash_link by_id;
    struct list link;
    uint64_t id;
    struct pg_entry *entries; /* by serial */
    uint64_t entries_count, entries_capacity, holes_count;
    uint64_t trim_serial;
};

struct dedup {
    struct hash_link by_request;
    struct list in_object, in_client;
    struct object *object;
    struct client *client;
    uint64_t seq, version;
    bool deferred; /* its write is not applied yet */
};

struct client {
    struct hash_link by_id;
    struct list dedups; /* by seq */
    uint64_t pg, id;
};

struct image {
    struct hash_link by_id;
    uint64_t id, blocks;
};

/* ---- Slots ---- */

struct slots {
    uint64_t *words;  /* a bit per block of the device: in use */
    uint16_t *groups; /* free slots per SLOTS_GROUP */
    uint64_t count;
    uint64_t free;
    uint64_t next; /* where to look first */
};

/* A slot that waits: for a durable mark >= seq, and for the reads that began before it (S1). */
struct freed {
    uint64_t seq, read_number;
    uint32_t slot;
};

struct freed_queue {
    struct freed *items;
    uint64_t first, count, capacity;
};

/* ---- Ring ---- */

struct record {
    struct list in_flight; /* store.records, by seq */
    struct list in_object;
    struct object *object;
    struct list writes; /* struct store_write.object_link: answered together */
    uint64_t seq;
    uint64_t first_block, last_block;
    struct list in_undurable; /* store.undurable, by seq */
    uint32_t unwritten;       /* writes whose data is not on the device */
    uint32_t undurable;       /* … not durable */
    bool full, purge;
};

enum batch_state { BATCH_FREE, BATCH_WRITING, BATCH_WRITTEN };

struct batch {
    struct list link; /* store.batches, by first block */
    struct store *store;
    struct loop_op ops[2];
    uint8_t *buf;
    uint64_t first;
    uint32_t count; /* blocks */
    uint32_t ops_left;
    enum batch_state state;
    uint64_t mark, tail, durable;
};

struct io {
    struct loop_op op;
    struct store *store;
    struct store_write *write; /* one of the two */
    struct store_read *read;
};

struct recovery;

struct store {
    struct loop *loop;
    struct store_config config;
    struct store_open *open; /* until it is answered */
    struct recovery *recovery;
    struct loop_file *file;
    struct superblock super;
    struct task task;
    struct loop_timer idle_timer;
    bool idle_due;
    int failed;
    const char *failed_what;
    bool failed_told;

    /* Index. */
    struct hash objects, pgs, dedups, clients, images;
    struct list pgs_list;
    struct list age;  /* oldest first: what cleaning takes next */
    struct list done; /* oldest first: where the tail stays (S6) */
    struct list wanted;
    bool cleaning;
    bool queue_blocked;    /* a record found no room in the ring */
    bool deferred_blocked; /* a write waits until its object may grow in the ring */
    uint64_t pg_serial_last;
    uint64_t objects_count, tombstones_count, dedups_count, blocks_capacity_total;
    uint64_t live_bytes;   /* of full records of all objects as they are */
    uint64_t ring_bytes;   /* … as a restart may find them */
    uint64_t queued_bytes; /* records of all writes that wait to be composed, at most */
    uint64_t promised_bytes, promised_slots;
    uint64_t live_limit;

    /* Slots. */
    struct slots slots;
    struct freed_queue freed;
    uint64_t slots_live;     /* in the index */
    uint64_t slots_capacity; /* that data may take; the rest is turnover */

    /* Operations. */
    struct list writes;            /* applied, not finished; store_write.link */
    struct list deferred;          /* store_write.link */
    struct list finished;          /* store_write.link */
    struct list queue;             /* store_write.queue_link */
    struct list starved;           /* store_write.flush_link: data waits for an io */
    struct list written, flushing; /* store_write.flush_link */
    uint32_t writes_count;
    struct list reads, reads_starved, reads_blocked;
    uint64_t read_number;
    struct pool ios_pool;

    /* Ring. */
    struct pool records_pool;
    struct list records;   /* composed, not acked */
    struct list undurable; /* of them, those whose data is not durable */
    struct batch batches_all[STORE_BATCHES];
    struct list batches;   /* not FREE */
    uint8_t *scratch;      /* one record */
    uint64_t head;         /* last composed block */
    uint64_t head_records; /* last composed block that has a record */
    uint64_t head_durable;
    uint32_t head_crc;
    uint64_t seq_last;
    uint64_t tail; /* of the last composed block */
    uint64_t tail_durable;
    uint64_t mark_durable;
    uint64_t durable_said; /* what the last durable block says is durable */
    bool flush_running, flush_done;
    int flush_result;
    uint64_t flush_head; /* the flush covers ring blocks up to here */
    struct loop_op flush_op;

    struct store_status counters;
};

static inline bool store_mutated(const struct store *s, enum store_mutant m)
{
    return (s->config.mutants >> m & 1) != 0;
}

/* slots.c */
void slots_init(struct slots *sl, uint64_t count);
void slots_deinit(struct slots *sl);
/* Up to `want` slots in a row; prefers a run that holds them all. 0: there is none. */
uint32_t slots_take(struct slots *sl, uint32_t want, uint32_t *first);
void slots_mark(struct slots *sl, uint64_t slot, bool used); /* must change it */
bool slots_is_used(const struct slots *sl, uint64_t slot);
void freed_push(struct freed_queue *q, const struct freed *f);
struct freed *freed_first(struct freed_queue *q); /* NULL when empty */
void freed_pop(struct freed_queue *q);

/* index.c */
void index_init(struct store *s);
void index_deinit(struct store *s);
struct object *object_find(struct store *s, const struct store_id *id); /* also hidden ones */
struct object *object_get(struct store *s, const struct store_id *id,
                          uint64_t pg); /* made hidden */
void object_set_pg(struct store *s, struct object *o, uint64_t pg);
bool object_is_hidden(const struct object *o);
/* Keep counters and accounts right after any change of `o`. */
void object_account(struct store *s, struct object *o);
uint32_t object_bytes(const struct object *o);
/* Set a block; returns the slot it had. */
uint32_t object_set_block(struct store *s, struct object *o, uint32_t block, uint32_t slot,
                          uint32_t crc);
/* What a restart may find of `o`: after a change of ring_blocks or ring_dedups. */
void object_account_ring(struct store *s, struct object *o);
void object_forget(struct object *o);
void object_drop_if_idle(struct store *s, struct object *o);
void object_free(struct store *s, struct object *o);

/* dedup.c */
struct dedup *dedup_add(struct store *s, struct object *o, const struct store_dedup *d);
struct dedup *dedup_find_in(struct store *s, const struct object *o, uint64_t client, uint64_t seq);
void dedup_drop_above(struct store *s, struct object *o, uint64_t above, bool all);
void dedup_rekey(struct store *s, struct object *o, uint64_t pg);
void dedup_free_clients(struct store *s);

/* write.c */
void writes_run_deferred(struct store *s);
void writes_submit_starved(struct store *s);
void write_data_done(struct store_write *w);
void writes_fail_all(struct store *s);
void writes_finish(struct store *s); /* calls done(); last */

/* read.c */
void reads_unblock(struct store *s);
void reads_submit_starved(struct store *s);

/* io.c */
struct io *io_get(struct store *s);
void io_read_done(struct loop_op *op);
void io_write_done(struct loop_op *op);

/* ring.c */
void ring_init(struct store *s);
void ring_deinit(struct store *s);
uint64_t ring_used(const struct store *s); /* blocks that may not be written to */
/* May a write of `queued` bytes of record, that lets objects grow by `bytes`, join the queue? Then
 * all that is queued finds room, at the latest when cleaning has gone through the whole ring. */
bool ring_has_room(const struct store *s, uint64_t queued, uint64_t bytes);
uint64_t ring_mark(const struct store *s);
uint64_t ring_tail(const struct store *s, uint64_t first_new); /* where the tail may be now */
void record_write_durable(struct record *r);
void ring_submit(struct store *s, struct batch *b);
void ring_take_durable(struct store *s);
void ring_ack(struct store *s);
void ring_release_slots(struct store *s);
void ring_flush(struct store *s);
bool ring_wants_empty(struct store *s);
void ring_watch_idle(struct store *s);

/* compose.c */
void compose(struct store *s);
/* A block for the start (S3) that names dropped records. Advances the head; of several blocks only
 * the last one may raise the mark. */
void compose_start_block(struct store *s, uint8_t *block, const uint64_t *drops, uint32_t count,
                         bool raise_mark);

/* clean.c */
/* Ring blocks that hold `bytes` of records, with what the cuts between them leave empty. */
uint64_t clean_blocks(uint64_t bytes);
/* … and that are kept free for copying as much. */
uint64_t clean_reserve(uint64_t bytes);
void clean_gather(struct store *s);
bool clean_is_ready(const struct store *s);

/* recover.c */
void recovery_start(struct store *s);
void recovery_free(struct store *s);

/* write.c: of records, that writes may bring live state to */
uint64_t write_log_limit(const struct store *s);

/* store.c */
void store_fail(struct store *s, int error, const char *what);
void store_wake(struct store *s);
void store_opened(struct store *s, int result, const char *error);
void store_limits(struct store *s); /* slots and ring, from the superblock */

#endif /* STORE_IMPL_H */
