/*
 * A disk that nobody serves, looked at: what a start would make of it and why it would refuse, each
 * block of its log, each block of its data against its checksum. Nothing is ever written to it.
 *
 * The superblocks, the end of the log and the records are read by the code of a start (scan.h,
 * replay.h), so the two cannot disagree; what is added here is words, and going on where a start
 * stops.
 *
 * Memory: as a start takes it, which is 56 bytes for each block of the log, a bit for each block of
 * the device, and the index (README.md); at most `memory_max`. Threading: one loop, which need not
 * run but for inspect_verify_start(): all else blocks.
 */

#ifndef STORE_INSPECT_H
#define STORE_INSPECT_H

#include "store/format.h"
#include "store/map.h"

enum inspect_severity {
    INSPECT_NOTE,   /* as it should be, and worth knowing */
    INSPECT_WARN,   /* a start goes on, and nothing that was answered is lost */
    INSPECT_DAMAGE, /* a start refuses the disk, or data of it cannot be read */
};

enum inspect_code {
    INSPECT_SUPER_DAMAGED,
    INSPECT_SUPER_OLDER,
    INSPECT_SUPER_DIFFERS,
    INSPECT_DEVICE_GREW,
    INSPECT_DEVICE_SHRANK,
    INSPECT_BOOTS_USED_UP,
    INSPECT_LOG_UNREADABLE,
    INSPECT_LOG_NEWER,
    INSPECT_LOG_SCRAP,
    INSPECT_LOG_MISPLACED,
    INSPECT_LOG_NO_END,
    INSPECT_LOG_BLOCK_LOST,
    INSPECT_LOG_CUT,
    INSPECT_LOG_TORN,
    INSPECT_LOG_NO_ROOM,
    INSPECT_LOG_NEARLY_FULL,
    INSPECT_DROPS_BAD,
    INSPECT_RECORD_BAD,
    INSPECT_RECORD_CONTRADICTS,
    INSPECT_RECORD_DROPPED,
    INSPECT_RECORD_ROTTEN,
    INSPECT_OBJECT_HEADLESS,
    INSPECT_SLOT_SHARED,
    INSPECT_SLOT_OUTSIDE,
    INSPECT_CODES_COUNT
};

/* Of each code so many are told one by one; the report has the count of all. */
enum { INSPECT_TOLD_MAX = 20, INSPECT_TEXT_MAX = 400 };

struct inspect_finding {
    enum inspect_code code;
    enum inspect_severity severity;
    bool has_place;
    uint64_t place; /* block of the device */
    char text[INSPECT_TEXT_MAX];
};

/* "log_cut": stable. */
const char *inspect_code_name(enum inspect_code code);

struct inspect_config {
    struct loop *loop;
    const char *path;
    uint64_t memory_max; /* bytes; 0: no limit */
    void (*found)(void *arg, const struct inspect_finding *f);
    void *arg;
};

struct inspect;

/*
 * Blocking. Open it for reading, lock it against a node, read the superblocks. 0, or -errno with a
 * sentence that follows the path in `error`: -EWOULDBLOCK or -EBUSY: in use; -EINVAL: no store;
 * -ENOTSUP: of another version; -ENOMEM: memory_max.
 */
enum { INSPECT_ERROR_MAX = 200 };
int inspect_open(const struct inspect_config *config, struct inspect **out,
                 char error[INSPECT_ERROR_MAX]);
void inspect_close(struct inspect *in);

/* ---- What a start would find ---- */

enum inspect_verdict {
    INSPECT_SOUND,
    INSPECT_DROPS,   /* sound: a start drops records that were never answered */
    INSPECT_LOSES,   /* a start drops records that may have been answered: their data is rotten */
    INSPECT_DAMAGED, /* a start refuses it */
};

struct inspect_super {
    uint64_t place;
    bool is_whole; /* `super` is set */
    struct superblock super;
};

struct inspect_image {
    uint64_t id, objects, tombstones, prepared, blocks; /* blocks: as store_image_blocks() */
};

struct inspect_report {
    enum inspect_verdict verdict;
    uint64_t counts[INSPECT_CODES_COUNT]; /* of findings */
    uint64_t device_blocks;
    struct inspect_super supers[SUPER_COPIES];
    struct superblock super; /* that counts */

    /* Of the places of the ring. */
    uint64_t places_valid, places_empty,
        places_other; /* other: of an earlier formatting, or scrap */

    /* Of the log. */
    uint64_t end, tail, mark, durable, highest; /* durable: vouched for by any block */
    uint64_t scrub_at;
    uint32_t scrub_since;
    bool has_state; /* all below is set: of the log up to `end` */
    uint64_t records_full, records_delta, records_purge, records_steps; /* steps: of DELTA */
    uint64_t records_beyond_mark; /* of all these: data looked at */
    uint64_t records_dropped;     /* … a start would drop these */
    uint64_t records_named;       /* dropped by earlier starts */
    uint64_t record_last;

    /* Of what it says. */
    struct store_status status;
    uint64_t prepared;
    const struct inspect_image *images; /* by id; until inspect_close() */
    uint64_t images_count;
};

/*
 * Blocking. Once. 0: `out` is filled, findings were told, whatever they are; -ENOMEM with a
 * sentence in `error`.
 */
int inspect_check(struct inspect *in, struct inspect_report *out, char error[INSPECT_ERROR_MAX]);

/* ---- The log, block by block: after inspect_check() ---- */

enum inspect_place_state {
    INSPECT_PLACE_VALID,
    INSPECT_PLACE_EMPTY,      /* zeros */
    INSPECT_PLACE_OTHER,      /* of an earlier formatting, or never written */
    INSPECT_PLACE_BROKEN,     /* it was one of this log: torn, or rotten */
    INSPECT_PLACE_MISPLACED,  /* one of this log, that belongs elsewhere */
    INSPECT_PLACE_NEWER,      /* of a newer version */
    INSPECT_PLACE_UNREADABLE, /* the device gives an error */
};

const char *inspect_place_name(enum inspect_place_state state);

struct inspect_block {
    uint64_t seq;   /* the number that belongs here, of this lap */
    uint64_t place; /* block of the device */
    enum inspect_place_state state;
    struct block_head head; /* if it is VALID; head.seq may be of the lap before */
    bool is_needed;         /* from the tail to the end of the log */
};

struct inspect_record {
    uint64_t seq;
    uint64_t block_first, block_last;
    uint32_t len;
    const uint8_t *bytes;    /* whole; until the call returns */
    struct record_head head; /* kind DROPS: only dedups_count is set, how many it names */
    bool is_bad;             /* it cannot be decoded; head is not set */
    bool is_beyond_mark, is_dropped;
};

struct inspect_walk {
    uint64_t from, count; /* numbers of blocks; from 0: the tail; count 0: to the last one */
    void (*block)(void *arg, const struct inspect_block *b);   /* may be NULL */
    void (*record)(void *arg, const struct inspect_record *r); /* after the block that ends it */
    void *arg;
};

/* Blocking. */
void inspect_walk(struct inspect *in, const struct inspect_walk *walk);

/* ---- Objects: after inspect_check() with has_state ---- */

struct inspect_object {
    struct store_id id;
    uint64_t pg, version;
    bool deleted;
    uint32_t blocks, dedups;
    uint64_t full_block; /* of the ring: where its newest full record begins */
    uint64_t prepared;   /* version; 0: none */
    bool prepared_clear, prepared_deleted;
    uint32_t prepared_blocks;
    const struct layout *now;     /* until the call returns */
    const struct layout *changes; /* … the prepared version's */
};

/* In the order of their newest full records. */
void inspect_objects(struct inspect *in, void (*each)(void *arg, const struct inspect_object *o),
                     void *arg);
/* Calls it once, or not: false. */
bool inspect_object(struct inspect *in, const struct store_id *id,
                    void (*each)(void *arg, const struct inspect_object *o), void *arg);

/* ---- Data: after inspect_check() with has_state ---- */

struct inspect_bad {
    struct store_id id;
    uint32_t block; /* of the object */
    uint64_t slot;  /* block of the device */
    bool prepared;  /* of the prepared version */
    int error;      /* -EBADMSG: the checksum; else the device's */
    uint32_t expected, found;
};

/* Reads every slot in use, INSPECT_READS at a time of up to INSPECT_READ_BLOCKS. Memory: their
 * buffers. The loop must run. */
enum { INSPECT_READS = 32, INSPECT_READ_BLOCKS = 64 };

struct inspect_verify {
    struct inspect *in;
    void (*bad)(struct inspect_verify *v, const struct inspect_bad *bad);
    void (*progress)(struct inspect_verify *v); /* now and then */
    void (*done)(struct inspect_verify *v);     /* once; not before start returned */
    uint64_t blocks_total, blocks_done, blocks_bad;
    void *priv;
};

void inspect_verify_start(struct inspect_verify *v);

#endif /* STORE_INSPECT_H */
