/*
 * From ring blocks back to the index: pure, one record at a time. recover.c reads the blocks, and
 * the slots of records that must be looked at.
 */

#ifndef STORE_REPLAY_H
#define STORE_REPLAY_H

#include "store/impl.h"

/* A sorted set of record numbers, and a list of objects: both grow; start-up only. */
struct replay_seqs {
    uint64_t *items;
    uint64_t count, capacity;
};

bool replay_seqs_has(const struct replay_seqs *q, uint64_t seq);

struct replay {
    struct store *s;
    uint64_t mark;               /* of the last block: records <= mark are trusted (S2) */
    struct replay_seqs named;    /* dropped by earlier starts, sorted by replay_begin() */
    struct replay_seqs named_in; /* … and the blocks that say so */
    bool begun;
    struct replay_seqs dropped; /* by this one */
    uint64_t headless_count;    /* objects of which only deltas were found so far */
    struct object **broken;     /* objects that lost a record */
    uint64_t broken_count, broken_capacity;

    /* The record that is being put together in store.scratch. */
    uint64_t seq, first_block;
    uint32_t len, total;
    bool open;
    struct record_head head; /* of a whole one that is not a list of drops */
};

void replay_deinit(struct replay *r);

/* The drops that a block names. Before replay_begin() of any block of the ring: which ones count is
 * known then. Later of blocks of the log: -EBADMSG also if it names a record that was met already.
 */
int replay_note_drops(struct replay *r, const uint8_t *block, const struct block_head *h);
/* The log is the blocks first .. last. */
void replay_begin(struct replay *r, uint64_t first, uint64_t last, uint64_t mark);

/*
 * One piece. 1: the record is whole, in store.scratch; 0: it is not; -EBADMSG. A record whose
 * beginning lies before the tail is not needed; one whose end was never written does not exist.
 * Both just have no first, or no last, piece here.
 */
int replay_add_piece(struct replay *r, const struct piece *p, uint64_t block_seq);

/*
 * The next whole record of a block, in r->head and store.scratch. 1; 0: the block has no more;
 * -EBADMSG.
 */
int replay_next(struct replay *r, const uint8_t *block, const struct block_head *h,
                struct piece_at *at);

/* Does it count only if its slots match (S2)? */
bool replay_must_verify(const struct replay *r);
/* Do they match? `slots`: a block for each crc of the record, in order; those of settled runs are
 * not looked at. `out`, if there is one: the first that does not. */
struct replay_mismatch {
    uint32_t block; /* of the object */
    uint64_t slot;
    uint32_t expected, found;
};
bool replay_matches(const struct replay *r, const uint8_t *slots, struct replay_mismatch *out);
/* The record counts, or, with `matches` false, is dropped, with all later ones of its object.
 * -EBADMSG: it cannot follow what came before it. */
int replay_apply(struct replay *r, bool matches);

/* All records are applied: slots in use, and what a restart would find. -EBADMSG: two blocks have
 * one slot, or an object has no full record. */
int replay_end(struct replay *r);

#endif /* STORE_REPLAY_H */
