#include <string.h>

#include "store/impl.h"

/*
 * From the index to ring blocks: one record an object and batch, with all that was written to the
 * object since the last one. A block is sealed with its batch and never written again (S9).
 *
 * Order matters: mark and tail of a batch are taken before its records are numbered, so that no
 * block speaks of itself.
 */
enum { COMPOSE_PIECE_MIN = 128 }; /* less room than this at the end of a block stays empty */

struct composer {
    struct store *s;
    struct batch *b;
    uint8_t *block; /* the last one of the batch, open; NULL before the first */
    uint32_t used;  /* of its payload */
    uint64_t blocks_max;
};

/* ---- Blocks ---- */

static void composer_close_block(struct composer *c)
{
    struct store *s = c->s;

    if (c->block == NULL)
        return;
    struct block_head h = {
        .nonce = s->super.nonce,
        .seq = c->b->first + c->b->count - 1,
        .boot = s->super.boot,
        .prev_crc = s->head_crc,
        .mark = c->b->mark,
        .tail = c->b->tail,
        .durable = c->b->durable,
        .used = c->used,
    };
    block_seal(c->block, &h);
    s->head_crc = h.crc;
    c->block = NULL;
}

static void composer_open_block(struct composer *c)
{
    composer_close_block(c);
    check(c->b->count < STORE_BATCH_BLOCKS);
    c->block = c->b->buf + (size_t)c->b->count * STORE_BLOCK;
    c->b->count++;
    c->used = 0;
}

/* What fits into the rest of the open block. */
static uint32_t composer_room(const struct composer *c)
{
    uint32_t free = c->block == NULL ? 0 : BLOCK_PAYLOAD - c->used;

    return free < PIECE_HEADER + PIECE_ALIGN ? 0 : free - PIECE_HEADER;
}

/* Blocks to be opened for a record of `len` bytes. */
static uint32_t composer_new_blocks(const struct composer *c, uint32_t len)
{
    uint32_t room = composer_room(c);

    if (len <= room)
        return 0;
    if (room >= COMPOSE_PIECE_MIN)
        len -= room;
    return (len + BLOCK_ROOM - 1) / BLOCK_ROOM;
}

static bool composer_fits(const struct composer *c, uint32_t len)
{
    uint64_t blocks = c->b->count + composer_new_blocks(c, len);

    return blocks <= STORE_BATCH_BLOCKS && blocks <= c->blocks_max;
}

/* Returns the block its first piece lies in. */
static uint64_t composer_put(struct composer *c, uint64_t seq, const uint8_t *record, uint32_t len)
{
    uint64_t first = 0;

    for (uint32_t at = 0; at < len;) {
        uint32_t room = composer_room(c);
        if (room < len - at && room < COMPOSE_PIECE_MIN) {
            composer_open_block(c);
            room = composer_room(c);
        }
        struct piece p = {
            .seq = seq,
            .total = len,
            .offset = at,
            .len = len - at < room ? len - at : room,
            .bytes = record + at,
        };
        piece_put(c->block, &c->used, &p);
        if (at == 0)
            first = c->b->first + c->b->count - 1;
        at += p.len;
    }
    return first;
}

/* ---- One record, from the object and the writes that wait for it ---- */

struct draft {
    struct record_head head;
    uint64_t touched[STORE_BLOCKS_MAX / 64]; /* blocks that a waiting write changed */
    bool settled;                            /* all else is durable */
};

static void draft_touch(struct draft *d, uint32_t first, uint32_t count)
{
    for (uint32_t b = first; b < first + count; b++)
        d->touched[b / 64] |= (uint64_t)1 << (b % 64);
}

static bool draft_is_touched(const struct draft *d, uint32_t block)
{
    return (d->touched[block / 64] >> (block % 64) & 1) != 0;
}

static void draft_add_write(struct draft *d, const struct store_write *w)
{
    switch (w->kind) {
    case STORE_WRITE:
    case STORE_ZERO:
        draft_touch(d, w->offset / STORE_BLOCK, w->len / STORE_BLOCK);
        break;
    case STORE_REPLACE:
        draft_touch(d, 0, STORE_BLOCKS_MAX);
        break;
    case STORE_DELETE:
    case STORE_PURGE:
        memset(d->touched, 0, sizeof(d->touched));
        d->head.flags |= RECORD_CLEAR;
        break;
    case STORE_DEDUP:
        break;
    }
    if (w->kind != STORE_DEDUP)
        d->head.flags &= ~(uint32_t)RECORD_KEEP;
    d->head.dedups_count += w->client != 0 ? 1 : w->dedups_count;
}

static uint32_t object_slot(const struct object *o, uint32_t block)
{
    return block < o->blocks_capacity ? o->blocks[block].slot : 0;
}

static uint32_t object_dedups_applied(const struct object *o)
{
    uint32_t count = 0;

    list_for_each (l, &o->dedups)
        count += !container_of(l, struct dedup, in_object)->deferred;
    return count;
}

/*
 * What kind of record the waiting writes make, and what it must name. Dedup records that a floor
 * has dropped from memory are still in the ring: a full record comes before a restart could find
 * more of them than a record holds.
 */
static void draft_init(struct draft *d, const struct object *o, bool copy)
{
    *d = (struct draft){.settled = list_empty(&o->records)};
    d->head = (struct record_head){
        .kind = RECORD_DELTA,
        .flags = RECORD_KEEP,
        .id = o->id,
        .pg = o->pg->id,
        .version = o->version,
    };
    list_for_each (l, &o->waiting)
        draft_add_write(d, container_of(l, struct store_write, object_link));
    if (o->gone) {
        d->head.kind = RECORD_PURGE;
        d->head.flags = 0;
        d->head.version = 0;
        d->head.dedups_count = 0;
    } else if (o->full_needed || copy || o->next_dedups > RECORD_DEDUPS_MAX) {
        d->head.kind = RECORD_FULL;
        d->head.flags = o->deleted ? RECORD_DELETED : 0;
        d->head.dedups_count = object_dedups_applied(o);
    } else if (o->deleted && (d->head.flags & RECORD_KEEP) == 0) {
        d->head.flags |= RECORD_DELETED;
    }
}

/* Is `block` named by the record? With `settled` as the run has it. */
static bool draft_names(const struct draft *d, const struct object *o, uint32_t block,
                        bool *settled)
{
    bool touched = draft_is_touched(d, block);

    *settled = d->settled && !touched;
    switch (d->head.kind) {
    case RECORD_FULL:
        return object_slot(o, block) != 0;
    case RECORD_DELTA:
        return touched && (object_slot(o, block) != 0 || (d->head.flags & RECORD_CLEAR) == 0);
    case RECORD_PURGE:
    case RECORD_DROPS:
        break;
    }
    return false;
}

/* The longest run from `first` on; false: `first` is not named. */
static bool draft_run(const struct draft *d, const struct object *o, uint32_t first,
                      struct record_run *run)
{
    bool settled;

    if (!draft_names(d, o, first, &settled))
        return false;
    *run = (struct record_run){first, 1, object_slot(o, first), settled};
    if (run->slot == 0)
        run->settled = false;
    for (uint32_t b = first + 1; b < STORE_BLOCKS_MAX; b++, run->count++) {
        uint32_t slot = run->slot == 0 ? 0 : run->slot + run->count;
        if (!draft_names(d, o, b, &settled) || object_slot(o, b) != slot ||
            (slot != 0 && settled != run->settled))
            break;
    }
    return true;
}

static void draft_write_runs(struct draft *d, const struct object *o, uint8_t *buf)
{
    struct record_run run;

    for (uint32_t b = 0; b < STORE_BLOCKS_MAX;) {
        if (!draft_run(d, o, b, &run)) {
            b++;
            continue;
        }
        record_run_put(buf, d->head.runs_count++, &run);
        d->head.crcs_count += run.slot != 0 ? run.count : 0;
        b += run.count;
    }
}

static void draft_write_crcs(const struct draft *d, const struct object *o, uint8_t *buf)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < d->head.runs_count; i++) {
        struct record_run run;
        record_run_get(buf, i, &run);
        for (uint32_t k = 0; run.slot != 0 && k < run.count; k++)
            record_crc_put(buf, &d->head, n++, o->blocks[run.first + k].crc);
    }
    check(n == d->head.crcs_count);
}

static void draft_write_dedups(const struct draft *d, const struct object *o, uint8_t *buf)
{
    uint32_t n = 0;

    if (d->head.kind == RECORD_FULL) {
        list_for_each (l, &o->dedups) {
            const struct dedup *x = container_of(l, struct dedup, in_object);
            struct store_dedup record = {x->client->id, x->seq, x->version};
            if (!x->deferred)
                record_dedup_put(buf, &d->head, n++, &record);
        }
    } else if (d->head.kind == RECORD_DELTA) {
        list_for_each (l, &o->waiting) {
            const struct store_write *w = container_of(l, struct store_write, object_link);
            struct store_dedup own = {w->client, w->seq, w->version};
            if (w->client != 0)
                record_dedup_put(buf, &d->head, n++, &own);
            for (uint32_t i = 0; i < w->dedups_count; i++)
                record_dedup_put(buf, &d->head, n++, &w->dedups[i]);
        }
    }
    check(n == d->head.dedups_count);
}

/* Into store.scratch; returns its length. Changes nothing else. */
static uint32_t draft_write(struct draft *d, struct store *s, const struct object *o)
{
    draft_write_runs(d, o, s->scratch);
    draft_write_crcs(d, o, s->scratch);
    draft_write_dedups(d, o, s->scratch);
    record_head_encode(s->scratch, &d->head);
    return record_size(d->head.runs_count, d->head.crcs_count, d->head.dedups_count);
}

/* ---- Its place in the books ---- */

static void record_take_writes(struct store *s, struct record *r, struct object *o)
{
    while (!list_empty(&o->waiting)) {
        struct list *l = list_pop(&o->waiting);
        struct store_write *w = container_of(l, struct store_write, object_link);
        list_remove(&w->queue_link);
        list_push(&r->writes, &w->object_link);
        w->record = r;
        s->queued_bytes -= w->queued_bytes;
        r->unwritten += !w->data_written;
        r->undurable += !w->data_durable;
        for (uint32_t i = 0; i < w->freed_count; i++) {
            struct freed f = {r->seq, s->read_number, w->freed[i]};
            freed_push(&s->freed, &f);
        }
    }
}

static void object_has_full(struct store *s, struct object *o, const struct record *r,
                            uint32_t dedups)
{
    o->full_needed = false;
    o->full_newest = r->first_block;
    list_remove(&o->in_age);
    list_push(&s->age, &o->in_age);
    o->next_blocks = o->blocks_count;
    o->next_dedups = dedups;
    if (o->ring_dedups < dedups)
        o->ring_dedups = dedups;
    object_account_ring(s, o);
}

/* False: it does not fit, and nothing has changed. */
static bool compose_record(struct composer *c, struct object *o, bool copy)
{
    struct store *s = c->s;
    struct draft d;

    draft_init(&d, o, copy);
    uint32_t len = draft_write(&d, s, o);
    if (!composer_fits(c, len) || s->records_pool.used == s->records_pool.count)
        return false;

    struct record *r = pool_get(&s->records_pool);
    *r = (struct record){.object = o, .seq = ++s->seq_last};
    r->full = d.head.kind == RECORD_FULL;
    r->purge = d.head.kind == RECORD_PURGE;
    r->first_block = composer_put(c, r->seq, s->scratch, len);
    r->last_block = c->b->first + c->b->count - 1;
    list_init(&r->in_flight);
    list_init(&r->in_undurable);
    list_init(&r->in_object);
    list_init(&r->writes);
    list_push(&s->records, &r->in_flight);
    list_push(&o->records, &r->in_object);
    record_take_writes(s, r, o);
    if (r->undurable > 0)
        list_push(&s->undurable, &r->in_undurable);
    list_remove(&o->in_wanted);
    if (r->full)
        object_has_full(s, o, r, d.head.dedups_count);
    if (r->purge) {
        list_remove(&o->in_age);
        o->full_newest = 0;
    }
    s->counters.cleaned_total += copy;
    s->head_records = r->last_block;
    return true;
}

/* ---- Batches ---- */

static void composer_begin(struct composer *c, struct store *s, struct batch *b)
{
    *c = (struct composer){.s = s, .b = b};
    b->first = s->head + 1;
    b->count = 0;
    b->mark = ring_mark(s);
    b->tail = ring_tail(s, b->first);
    b->durable = s->head_durable;
}

/* Copies may use the room that is kept for them; that it is enough is clean.c's argument. */
static void compose_copies(struct composer *c)
{
    struct store *s = c->s;

    if (!clean_is_ready(s))
        return;
    if (ring_used(s) + STORE_START_RESERVE >= s->super.ring_blocks)
        return;
    c->blocks_max = s->super.ring_blocks - STORE_START_RESERVE - ring_used(s);
    while (!list_empty(&s->wanted)) {
        struct object *o = container_of(s->wanted.next, struct object, in_wanted);
        if (o->trimmed)
            object_forget(o);
        if (!compose_record(c, o, true))
            return;
    }
}

/* Blocks that ordinary records may fill in this batch. */
static uint64_t compose_room(struct store *s)
{
    uint64_t kept = ring_used(s) + clean_reserve(s->ring_bytes);

    return kept < s->super.ring_blocks ? s->super.ring_blocks - kept : 0;
}

/* Objects that cleaning wants wait for it: their writes go with the copy. */
static void compose_queue(struct composer *c)
{
    struct store *s = c->s;
    struct list passed;

    list_init(&passed);
    while (!list_empty(&s->queue)) {
        struct store_write *w = container_of(s->queue.next, struct store_write, queue_link);
        struct object *o = w->object;
        if (!list_empty(&o->in_wanted)) {
            list_remove(&w->queue_link);
            list_push(&passed, &w->queue_link);
            continue;
        }
        c->blocks_max = compose_room(s);
        if (!compose_record(c, o, false)) {
            s->queue_blocked = c->b->count == 0;
            break;
        }
    }
    while (!list_empty(&passed)) {
        struct list *l = passed.prev;
        list_remove(l);
        list_push_front(&s->queue, l);
    }
}

static struct batch *compose_free_batch(struct store *s)
{
    struct batch *free = NULL;
    uint32_t writing = 0;

    for (uint32_t i = 0; i < STORE_BATCHES; i++) {
        struct batch *b = &s->batches_all[i];
        writing += b->state == BATCH_WRITING;
        if (b->state == BATCH_FREE)
            free = b;
    }
    return writing < STORE_BATCH_WRITING ? free : NULL;
}

/* True: a batch went to the device. */
static bool compose_batch(struct store *s, struct batch *b)
{
    struct composer c;

    composer_begin(&c, s, b);
    compose_copies(&c);
    compose_queue(&c);
    if (b->count == 0 && ring_wants_empty(s))
        composer_open_block(&c);
    if (b->count == 0)
        return false;
    composer_close_block(&c);
    s->head += b->count;
    s->tail = b->tail;
    s->counters.blocks_total += b->count;
    s->idle_due = false;
    ring_submit(s, b);
    return true;
}

void compose(struct store *s)
{
    struct batch *b;

    s->queue_blocked = false;
    while ((b = compose_free_batch(s)) != NULL && compose_batch(s, b))
        ;
}

void compose_start_block(struct store *s, uint8_t *block, const uint64_t *drops, uint32_t count,
                         bool raise_mark)
{
    uint8_t record[8 + 8 * RECORD_DROPS_MAX];
    struct block_head h = {
        .nonce = s->super.nonce,
        .seq = ++s->head,
        .boot = s->super.boot,
        .prev_crc = s->head_crc,
        .tail = s->tail,
        .durable = s->head_durable,
    };

    if (count > 0) {
        struct piece p = {.seq = ++s->seq_last, .total = drops_size(count), .bytes = record};
        p.len = p.total;
        drops_encode(record, drops, count);
        piece_put(block, &h.used, &p);
    }
    h.mark = raise_mark ? s->seq_last : s->mark_durable;
    block_seal(block, &h);
    s->head_crc = h.crc;
}
