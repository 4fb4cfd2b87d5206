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

#include "base/heap.h"
#include "base/pool.h"
#include "store/slab.h"
#include "store/format.h"
#include "store/map.h"

enum {
    STORE_IOS_MAX = 2048,     /* data operations on the device; beyond, they wait in order */
    STORE_RECORDS_MAX = 4096, /* composed and not answered; beyond, composing waits */
    /* Groups of ring blocks that are not durable: one waits for its flush while the next is
     * written. More would only make them smaller. */
    STORE_BATCHES = 2,
    STORE_BATCH_BLOCKS = 64,
    RING_RECORD_BLOCKS = 72, /* what the longest record and start blocks need */
    STORE_SPLIT_WRITES = 8,  /* so many that came together become two batches */
    /* Ring blocks for start blocks: they name all records that were in flight, if need be. */
    STORE_START_RESERVE = STORE_RECORDS_MAX / RECORD_DROPS_MAX + 8,
    /* Up to so many writes in flight, each is made durable by itself where the device can (FUA);
     * beyond, one flush for all of them costs less. */
    STORE_FUA_WRITES = 4,
    STORE_IDLE_NS = 50 * 1000 * 1000, /* then an empty block says what the last one could not */
    STORE_TRIM_STEP = 256,
    STORE_LIST_STEP = 4096, /* objects that one listing call looks at */
    /* What an object costs in the ring at most: a full record, cut anywhere. */
    OBJECT_BYTES = RECORD_HEADER + 2 * PIECE_HEADER + 8,
    OBJECT_BLOCK_BYTES = RECORD_RUN + RECORD_CRC,
    SLOTS_GROUP = 4096,
    PREPARED_BLOCKS = 2, /* what a prepared part takes besides its blocks, as if it were so many */
};

static_assert((RECORD_BYTES_MAX + BLOCK_ROOM - 1) / BLOCK_ROOM + 1 <= STORE_BATCH_BLOCKS,
              "the longest record fits into a batch");

#define OBJECTS_MAX (SLAB_HANDLE_MAX - 65536)

/* ---- Index ---- */

/*
 * What the store keeps of every object, in 64 bytes: there are ten million of them. While
 * something goes on with it, or is owed, it has a struct work besides.
 */
struct object {
    struct store_id id;
    uint64_t version; /* of what is in `map` */
    struct map *map;
    uint32_t by_id;              /* the next of the same bucket */
    uint32_t age_prev, age_next; /* store.age: by its newest full record that is composed */
    uint32_t pg;                 /* in store.pgs_by_index */
    uint32_t pg_place;           /* in the PG's places */
    uint32_t full_place; /* where in the ring its newest full record begins that is composed */
    uint32_t work;
    uint32_t runs : 9, blocks : 9; /* of the map */
    bool gone : 1;                 /* purged, or not made yet */
    bool deleted : 1;
    bool trimmed : 1;     /* a tombstone nobody sees any more; cleaning purges it */
    bool full_needed : 1; /* there is no record to put a delta on */
    bool headless : 1;    /* at start: only deltas so far; a full record must follow */
    bool broken : 1;      /* at start: a record of it was dropped, and so are all later ones (S2) */
};

static_assert(sizeof(struct object) == 64, "published in README.md");

#define FULL_NOWHERE UINT32_MAX

/* One more version (DESIGN.md section 9): what it changes on top of what is. */
struct prepared {
    uint64_t version;
    bool clear, deleted;
    uint64_t touched[STORE_BLOCKS_MAX / 64]; /* of these, those that the map has not are holes */
    struct map *map;
    uint32_t runs, blocks;
};

struct work {
    struct object *object;
    struct list in_wanted; /* store.wanted: cleaning waits to copy it */
    struct list dedups;    /* struct dedup.in_object */
    struct list waiting;   /* struct store_write.object_link: applied, not composed */
    struct list records;   /* struct record.in_object: composed, not acked */
    struct list writing;   /* struct store_write.data_link */
    /* store.held: keyed by the block of its newest full record that is acked (S6), while a newer
     * one, or a purge, is in flight. */
    struct heap_node held;
    struct prepared *prepared;
    uint64_t version_visible; /* with deferred writes */
    uint32_t dedups_count;
    uint32_t deferred;
    uint32_t deferred_states; /* … that show a version before their turn has come */
    uint32_t steps_waiting;   /* of erasure coding, in `waiting` */
    uint32_t promised_dedups; /* of deferred writes, not in the list yet */
    uint32_t bytes_counted;   /* in store.live_bytes */
    uint32_t bytes_ring;      /* in store.ring_bytes: what a restart may find of it, at most */
    uint32_t ring_blocks, ring_dedups; /* that bytes_ring stands for */
    uint32_t next_blocks, next_dedups; /* … once the newest full record is acked: its own, and all
                                          that came since */
    bool deleted_visible;
    bool gone_visible; /* no look-up finds it: gone or trimmed, with deferred writes */
    bool counted_object, counted_tombstone;
};

enum { WORK_SIZE = 256 };
static_assert(sizeof(struct work) <= WORK_SIZE, "a power of two for the slab");

struct pg {
    struct hash_link by_id;
    uint64_t id;
    uint32_t index;
    uint32_t *places; /* handles of its objects; what was freed is used again (PLACE_FREE) */
    uint32_t places_count, places_capacity, places_free;
    uint32_t objects;
    uint32_t trim_place;
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
    uint64_t floor; /* the highest one we were told; 0: none */
};

struct image {
    struct hash_link by_id;
    uint64_t id, blocks;
};

/* ---- Slots ---- */

/* Slots that follow each other: the first (48 bits), how many (16). */
struct store_slots {
    uint64_t word;
};

/* Of a write, from when it is applied until it is answered. */
struct room {
    struct store_slots slots[STORE_BLOCKS_MAX];     /* where its data goes */
    struct store_slots freed[2 * STORE_BLOCKS_MAX]; /* what it replaces */
};

struct slots {
    uint64_t *words;  /* a bit per block of the device: in use */
    uint16_t *groups; /* free slots per SLOTS_GROUP */
    uint64_t *freed;  /* a bit per group: a slot of it was freed since it was last looked at */
    uint64_t *crumbs; /* a bit per group: few of its slots are free */
    uint64_t crumbs_count, roomy_count;
    uint64_t count;
    uint64_t free;
    uint64_t next, crumbs_next; /* where to look first */
};

/* Slots that wait: for a durable mark >= seq, and for the reads that began before it (S1). */
struct freed {
    uint64_t seq, read_number;
    struct store_slots slots;
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

/* How what is written becomes durable: S10. */
enum store_sync {
    SYNC_FLUSH, /* a flush for all that came together */
    SYNC_FUA,   /* … and while little is in flight, each write by itself */
    SYNC_NONE,  /* the device's cache is written through: what is done is durable */
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
    bool fua; /* durable when written */
    uint64_t mark, tail, durable;
};

struct io {
    struct loop_op op;
    struct store *store;
    struct store_write *write; /* one of the two */
    struct store_read *read;
};

struct recovery;
struct scrub;

/* discard.c */
enum discard_state { DISCARD_PAUSE, DISCARD_BUSY };

struct discard {
    struct store *store;
    struct task task;
    struct loop_timer timer;
    struct loop_op op;
    enum discard_state state;
    bool came;             /* … the op did */
    bool off;              /* it failed once */
    uint64_t first, count; /* slots that are discarded now */
    uint64_t held;         /* … as many are marked as used for it */
    bool in_group;
    uint64_t group, at;    /* the next group; the next slot in the one before */
    uint64_t pass_ns;      /* when this pass began */
    uint64_t align, least; /* slots */
    uint64_t keep;         /* slots that must be free */
    uint64_t pause_ms, busy_ms, pass_ms;
};

struct store {
    struct loop *loop;
    struct store_config config;
    struct store_open *open; /* until it is answered */
    struct recovery *recovery;
    struct loop_file *file;
    struct loop_file_info info;
    enum store_sync sync;
    struct superblock super;
    struct task task;
    struct loop_timer idle_timer;
    bool idle_due;
    int failed;
    const char *failed_what;
    bool failed_told;

    /* Index. */
    struct slab objects, works;
    uint32_t *buckets; /* of objects; as many as the device has room for objects of full size */
    uint64_t buckets_mask;
    struct hash pgs, dedups, clients, images;
    struct pg **pgs_by_index; /* NULL: free */
    uint32_t pgs_count, pgs_free;
    uint32_t age_first, age_last; /* oldest first: what cleaning takes next */
    struct heap held;             /* struct work: where else the tail stays (S6) */
    struct list wanted;
    uint64_t maps_bytes, places_bytes;
    uint64_t clean_credit; /* bytes that may be copied without haste */
    bool cleaning;         /* in haste */
    bool copies_blocked;   /* a copy found no room in the ring */
    bool queue_blocked;    /* a record found no room in the ring */
    bool deferred_blocked; /* a write waits until its object may grow in the ring */
    uint64_t objects_count, tombstones_count, dedups_count;
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
    uint32_t queued_count; /* in `queue` */
    struct pool rooms_pool;
    struct list reads, reads_starved, reads_blocked;
    uint64_t read_number;
    struct pool ios_pool;

    /* Ring. */
    struct pool records_pool;
    struct list records;   /* composed, not acked */
    struct list undurable; /* of them, those whose data is not durable */
    struct batch batches_all[STORE_BATCHES];
    uint8_t *batches_memory;
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

    /* Scrub (scrub.c): carried by every ring block. */
    uint64_t scrub_at;    /* buckets of objects before it are done */
    uint32_t scrub_since; /* when this round began: seconds since 1970; 0: there was none */
    uint64_t scrub_want;  /* a block of this number is wanted, to carry them */
    struct scrub *scrub;  /* NULL: off */

    struct discard *discard; /* NULL: off */

    struct store_status counters;
};

static inline bool mutants_have(uint64_t mutants, enum store_mutant m)
{
    return (mutants >> m & 1) != 0;
}

static inline bool store_mutated(const struct store *s, enum store_mutant m)
{
    return mutants_have(s->config.mutants, m);
}

/* slots.c */
void slots_init(struct slots *sl, uint64_t count);
void slots_deinit(struct slots *sl);
/* Up to `want` slots in a row; prefers a run that holds them all. 0: there is none. */
uint32_t slots_take(struct slots *sl, uint32_t want, uint64_t *first);
void slots_mark(struct slots *sl, uint64_t slot, bool used); /* must change it */
bool slots_is_used(const struct slots *sl, uint64_t slot);
void slots_return(struct slots *sl, uint64_t slot);      /* it becomes free, and that is no news */
bool slots_take_freed(struct slots *sl, uint64_t group); /* was any slot of it? it is forgotten */
void freed_push(struct freed_queue *q, const struct freed *f);
struct freed *freed_first(struct freed_queue *q); /* NULL when empty */
void freed_pop(struct freed_queue *q);

/* index.c */
void index_init(struct store *s);
void index_size(struct store *s); /* the buckets, once the device is known */
void index_deinit(struct store *s);
struct object *object_find(struct store *s, const struct store_id *id); /* also hidden ones */
struct object *object_get(struct store *s, const struct store_id *id,
                          uint64_t pg);                           /* made hidden */
struct object *object_at(const struct store *s, uint32_t handle); /* NULL for 0 */
uint64_t object_pg(const struct store *s, const struct object *o);
void object_set_pg(struct store *s, struct object *o, uint64_t pg);
/* NULL: nothing goes on with it. */
struct work *object_work(const struct store *s, const struct object *o);
struct work *object_work_make(struct store *s, struct object *o);
/* Give the work back if nothing is left of it; the object too, if it is gone. */
void object_rest(struct store *s, struct object *o);
bool object_is_hidden(const struct store *s, const struct object *o);
/* Keep counters and accounts right after any change of `o`, which has work. */
void object_account(struct store *s, struct object *o);
uint32_t object_bytes(const struct store *s, const struct object *o);
/* What a restart may find of it: after a change of ring_blocks or ring_dedups. */
void object_account_ring(struct store *s, struct work *x);
/* Blocks that its records name: of both versions. */
uint32_t object_blocks(const struct store *s, const struct object *o);
void object_read(const struct object *o, struct layout *out);
void object_write(struct store *s, struct object *o, const struct layout *l);
/* The prepared version, as it is on top of what is; its holes are slot 0. */
void prepared_read(const struct object *o, const struct prepared *p, struct layout *out);
/* Only what it changes. */
void prepared_changes(const struct prepared *p, struct layout *out);
struct prepared *prepared_make(struct store *s, struct object *o, uint64_t version,
                               const struct layout *changes, const uint64_t *touched);
void prepared_free(struct store *s, struct object *o);
void object_forget(struct object *o);
/* Its newest full record begins in this block of the ring (0: it has none), composed or found. */
void object_set_full(struct store *s, struct object *o, uint64_t block);
uint64_t object_full(const struct store *s, const struct object *o); /* 0: none */

static inline struct store_slots slots_run(uint64_t first, uint32_t count)
{
    return (struct store_slots){first | (uint64_t)count << 48};
}

static inline uint64_t slots_first(struct store_slots run)
{
    return run.word & (((uint64_t)1 << 48) - 1);
}

static inline uint32_t slots_count(struct store_slots run)
{
    return (uint32_t)(run.word >> 48);
}

static inline bool bitmap_has(const uint64_t *words, uint32_t i)
{
    return (words[i / 64] >> (i % 64) & 1) != 0;
}

/* One more than the last bit that is set. */
static inline uint32_t bitmap_end(const uint64_t words[STORE_BLOCKS_MAX / 64])
{
    for (uint32_t i = STORE_BLOCKS_MAX / 64; i-- > 0;) {
        if (words[i] != 0)
            return 64 * i + 64 - (uint32_t)__builtin_clzll(words[i]);
    }
    return 0;
}

static inline void bitmap_set(uint64_t *words, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++)
        words[i / 64] |= (uint64_t)1 << (i % 64);
}

/* dedup.c */
struct dedup *dedup_add(struct store *s, struct object *o, const struct store_dedup *d);
struct dedup *dedup_find_in(struct store *s, const struct object *o, uint64_t client, uint64_t seq);
void dedup_undo(struct store *s, struct object *o, uint64_t client, uint64_t seq);
void dedup_drop_above(struct store *s, struct object *o, uint64_t above, bool all);
void dedup_drop_version(struct store *s, struct object *o, uint64_t version);
/* The floor that a record with this request may tell. */
uint64_t dedup_floor_of(struct store *s, uint64_t pg, uint64_t client, uint64_t seq);
/* At a start: what the log says is needed no more. */
void dedup_replay_floor(struct store *s, uint64_t pg, uint64_t client, uint64_t floor);
void dedup_rekey(struct store *s, struct object *o, uint64_t pg);
void dedup_free_clients(struct store *s);

/* write.c */
uint32_t write_dedups(const struct store_write *w); /* records it brings */
void writes_run_deferred(struct store *s);
void writes_submit_starved(struct store *s);
void write_data_done(struct store_write *w);
void write_give_room(struct store *s, struct store_write *w);
void writes_fail_all(struct store *s);
void writes_finish(struct store *s); /* calls done(); last */

/* read.c */
void reads_unblock(struct store *s);
void reads_submit_starved(struct store *s);

/* io.c */
struct io *io_get(struct store *s);
void io_read_done(struct loop_op *op);
void io_write_done(struct loop_op *op);

/* Of its ring: what all objects take, written anew, is not more, as they are and as a restart may
 * find them. As much again is kept for the next time, and the longest record must find room
 * besides. */
static inline uint64_t ring_half(uint64_t ring_blocks)
{
    return (ring_blocks - RING_RECORD_BLOCKS) / 2;
}

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
/* So many bytes of ordinary records went to the head. */
void clean_pay(struct store *s, uint64_t bytes);
void clean_gather(struct store *s);
bool clean_is_ready(const struct store *s);

/* recover.c */
void recovery_start(struct store *s);
void recovery_free(struct store *s);

/* write.c: of records, that writes may bring live state to */
uint64_t write_log_limit(const struct store *s);

/* scrub.c: once it is open; off unless configured */
void scrub_start(struct store *s);
void scrub_free(struct store *s);
void scrub_status(const struct store *s, struct store_status *out);

/* discard.c: once it is open */
void discard_start(struct store *s);
void discard_free(struct store *s);
uint64_t discard_held(const struct store *s); /* slots that are free but for a moment */

/* store.c */
void store_fail(struct store *s, int error, const char *what);
void store_wake(struct store *s);
void store_opened(struct store *s, int result, const char *error);
void store_limits(struct store *s); /* slots and ring, from the superblock */

#endif /* STORE_IMPL_H */
