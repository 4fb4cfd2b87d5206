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
    uint8_t *block;         /* the last one of the batch, open; NULL before the first */
    struct block_head head; /* … its header: what the pieces fill in */
    uint64_t blocks_max;
    uint64_t bytes, copied; /* of records so far; of them, copies by cleaning */
};

/* ---- Blocks ---- */

static void composer_close_block(struct composer *c)
{
    struct store *s = c->s;
    struct block_head *h = &c->head;

    if (c->block == NULL)
        return;
    h->nonce = s->super.nonce;
    h->seq = c->b->first + c->b->count - 1;
    h->boot = s->super.boot;
    h->prev_crc = s->head_crc;
    h->mark = c->b->mark;
    h->tail = c->b->tail;
    h->durable = c->b->durable;
    h->scrub_at = s->scrub_at;
    h->scrub_since = s->scrub_since;
    block_seal(c->block, h);
    s->head_crc = h->crc;
    c->block = NULL;
}

static void composer_open_block(struct composer *c)
{
    composer_close_block(c);
    check(c->b->count < STORE_BATCH_BLOCKS);
    c->block = c->b->buf + (size_t)c->b->count * STORE_BLOCK;
    c->b->count++;
    c->head = (struct block_head){0};
}

/* What fits into the rest of the open block. */
static uint32_t composer_room(const struct composer *c)
{
    uint32_t free = c->block == NULL ? 0 : BLOCK_PAYLOAD - c->head.used;

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
        piece_put(c->block, &c->head, &p);
        if (at == 0)
            first = c->b->first + c->b->count - 1;
        at += p.len;
    }
    return first;
}

/* ---- One record, from the object and the writes that wait for it ---- */

/*
 * `touched`: blocks that a waiting write changed, of what is and of the prepared version. All else
 * is durable if no record of the object is in flight.
 */
struct draft {
    struct record_head head;
    struct record_prepared prepared;
    uint64_t touched[STORE_BLOCKS_MAX / 64], touched_prepared[STORE_BLOCKS_MAX / 64];
    bool settled, settled_all;
    struct layout is, changes; /* where they lie; the prepared part where there is one */
    const uint64_t *named;     /* … and what it changes */
};

static void touched_join(struct draft *d)
{
    for (uint32_t i = 0; i < COUNT_OF(d->touched); i++) {
        d->touched[i] |= d->touched_prepared[i];
        d->touched_prepared[i] = 0;
    }
}

static void draft_add_prepare(struct draft *d, const struct store_write *w)
{
    if (d->prepared.version == w->version)
        memset(d->touched_prepared, 0, sizeof(d->touched_prepared));
    else
        touched_join(d); /* it commits what was prepared before */
    d->prepared.version = w->version;
    bitmap_set(d->touched_prepared, w->offset / STORE_BLOCK, w->len / STORE_BLOCK);
}

static void draft_add_write(struct draft *d, const struct store_write *w)
{
    switch (w->kind) {
    case STORE_WRITE:
    case STORE_ZERO:
        bitmap_set(d->touched, w->offset / STORE_BLOCK, w->len / STORE_BLOCK);
        break;
    case STORE_REPLACE:
        bitmap_set(d->touched, 0, STORE_BLOCKS_MAX);
        break;
    case STORE_DELETE:
    case STORE_PURGE:
        memset(d->touched, 0, sizeof(d->touched));
        d->head.flags |= RECORD_CLEAR;
        break;
    case STORE_PREPARE:
        draft_add_prepare(d, w);
        break;
    case STORE_COMMIT:
        if (!w->is_void)
            touched_join(d);
        break;
    case STORE_ROLLBACK:
    case STORE_DEDUP:
        break;
    }
    if (w->kind != STORE_DEDUP && !w->is_void)
        d->head.flags &= ~(uint32_t)RECORD_KEEP;
    d->head.dedups_count += write_dedups(w);
}

static uint32_t work_dedups_applied(const struct work *x)
{
    uint32_t count = 0;

    list_for_each (l, &x->dedups)
        count += !container_of(l, struct dedup, in_object)->deferred;
    return count;
}

/* A delta of one step (DESIGN.md section 9): the write says it all. */
static void draft_step(struct draft *d, const struct store *s, const struct work *x,
                       const struct store_write *w)
{
    d->head.version = w->version;
    switch (w->kind) {
    case STORE_PREPARE:
        d->head.flags = RECORD_PREPARE | (w->deleted ? RECORD_CLEAR | RECORD_DELETED : 0u);
        prepared_changes(x->prepared, &d->is);
        memcpy(d->touched, d->touched_prepared, sizeof(d->touched));
        return;
    case STORE_COMMIT:
        d->head.flags = store_mutated(s, STORE_MUTANT_COMMIT_UNSAID) ? RECORD_KEEP : RECORD_COMMIT;
        break;
    case STORE_ROLLBACK:
        d->head.flags = RECORD_ROLLBACK;
        break;
    case STORE_WRITE:
    case STORE_ZERO:
    case STORE_DELETE:
    case STORE_REPLACE:
    case STORE_DEDUP:
    case STORE_PURGE:
        never("no step");
    }
    memset(d->touched, 0, sizeof(d->touched));
}

static void draft_full(struct draft *d, const struct store *s, const struct object *o,
                       const struct work *x)
{
    d->head.kind = RECORD_FULL;
    d->head.flags =
        o->deleted && !store_mutated(s, STORE_MUTANT_LOSE_TOMBSTONE) ? RECORD_DELETED : 0;
    d->head.dedups_count = work_dedups_applied(x);
    if (x->prepared == NULL || store_mutated(s, STORE_MUTANT_LOSE_PREPARED))
        return;
    d->head.flags |= RECORD_BOTH;
    d->prepared = (struct record_prepared){
        .version = x->prepared->version,
        .clear = x->prepared->clear,
        .deleted = x->prepared->deleted,
    };
    prepared_changes(x->prepared, &d->changes);
}

static bool draft_is_too_long(const struct store *s, const struct work *x)
{
    return x->next_dedups > RECORD_DEDUPS_MAX && !store_mutated(s, STORE_MUTANT_DEDUPS_GROW);
}

/*
 * What kind of record the waiting writes make, and what it must name. Steps that do not come alone
 * make a full one. Dedup records that a floor has dropped from memory are still in the ring: a
 * full record comes before a restart could find more of them than a record holds.
 */
static void draft_init(struct draft *d, const struct store *s, const struct object *o,
                       const struct work *x, bool copy)
{
    bool alone = x->waiting.next->next == &x->waiting;

    d->settled = list_empty(&x->records) && !store_mutated(s, STORE_MUTANT_UNSETTLED);
    d->settled_all = store_mutated(s, STORE_MUTANT_SETTLED_ALL);
    memset(d->touched, 0, sizeof(d->touched));
    memset(d->touched_prepared, 0, sizeof(d->touched_prepared));
    d->prepared = (struct record_prepared){0};
    d->head = (struct record_head){
        .kind = RECORD_DELTA,
        .flags = RECORD_KEEP,
        .id = o->id,
        .pg = object_pg(s, o),
        .version = o->version,
    };
    object_read(o, &d->is);
    list_for_each (l, &x->waiting)
        draft_add_write(d, container_of(l, struct store_write, object_link));
    if (o->gone) {
        d->head.kind = RECORD_PURGE;
        d->head.flags = 0;
        d->head.version = 0;
        d->head.dedups_count = 0;
    } else if (o->full_needed || copy || draft_is_too_long(s, x) ||
               (x->steps_waiting > 0 && !alone)) {
        draft_full(d, s, o, x);
    } else if (x->steps_waiting > 0) {
        draft_step(d, s, x, container_of(x->waiting.next, struct store_write, object_link));
    } else if (o->deleted && (d->head.flags & RECORD_KEEP) == 0) {
        d->head.flags |= RECORD_DELETED;
    }
}

/* Is `block` named by the record? With `settled` as the run has it. */
static bool draft_names(const struct draft *d, bool prepared, uint32_t block, bool *settled)
{
    const struct layout *l = prepared ? &d->changes : &d->is;
    bool touched = bitmap_has(prepared ? d->touched_prepared : d->touched, block);

    *settled = ((d->settled && !touched) || d->settled_all) && layout_slot(l, block) != 0;
    if (prepared)
        return bitmap_has(d->named, block);
    switch (d->head.kind) {
    case RECORD_FULL:
        return layout_slot(l, block) != 0;
    case RECORD_DELTA:
        return touched && (layout_slot(l, block) != 0 || (d->head.flags & RECORD_CLEAR) == 0);
    case RECORD_PURGE:
    case RECORD_DROPS:
        break;
    }
    return false;
}

/* The longest run from `first` on, below `end`; false: `first` is not named. */
static bool draft_run(const struct draft *d, bool prepared, uint32_t first, uint32_t end,
                      struct record_run *run)
{
    const struct layout *l = prepared ? &d->changes : &d->is;
    bool settled;

    if (!draft_names(d, prepared, first, &settled))
        return false;
    *run = (struct record_run){first, 1, layout_slot(l, first), settled, prepared};
    for (uint32_t b = first + 1; b < end; b++, run->count++) {
        uint64_t slot = run->slot == 0 ? 0 : run->slot + run->count;
        if (!draft_names(d, prepared, b, &settled) || layout_slot(l, b) != slot ||
            settled != run->settled)
            break;
    }
    return true;
}

static void draft_write_runs(struct draft *d, bool prepared, uint8_t *buf)
{
    const uint64_t *holes = prepared ? d->named : d->touched;
    uint32_t count = prepared ? d->changes.count : d->is.count, end = bitmap_end(holes);
    struct record_run run;

    if (end < count)
        end = count;
    for (uint32_t b = 0; b < end;) {
        if (!draft_run(d, prepared, b, end, &run)) {
            b++;
            continue;
        }
        record_run_put(buf, d->head.runs_count++, &run);
        d->head.crcs_count += run.slot != 0 ? run.count : 0;
        b += run.count;
    }
}

static void draft_write_crcs(const struct draft *d, uint8_t *buf)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < d->head.runs_count; i++) {
        struct record_run run;
        record_run_get(buf, i, &run);
        const uint32_t *crcs = run.prepared ? d->changes.crcs : d->is.crcs;
        for (uint32_t k = 0; run.slot != 0 && k < run.count; k++)
            record_crc_put(buf, &d->head, n++, crcs[run.first + k]);
    }
    check(n == d->head.crcs_count);
}

static void draft_write_dedup(const struct draft *d, struct store *s, uint32_t i, uint64_t client,
                              uint64_t seq, uint64_t version)
{
    struct store_dedup dedup = {client, seq, version};

    record_dedup_put(s->scratch, &d->head, i, &dedup);
    record_floor_put(s->scratch, &d->head, i, dedup_floor_of(s, d->head.pg, client, seq));
}

static void draft_write_dedups(const struct draft *d, struct store *s, const struct work *x)
{
    uint32_t n = 0;

    if (d->head.kind == RECORD_FULL) {
        list_for_each (l, &x->dedups) {
            const struct dedup *o = container_of(l, struct dedup, in_object);
            if (!o->deferred)
                draft_write_dedup(d, s, n++, o->client->id, o->seq, o->version);
        }
    } else if (d->head.kind == RECORD_DELTA) {
        list_for_each (l, &x->waiting) {
            const struct store_write *w = container_of(l, struct store_write, object_link);
            if (w->client != 0)
                draft_write_dedup(d, s, n++, w->client, w->seq, w->version);
            for (uint32_t i = 0; i < w->dedups_count; i++)
                draft_write_dedup(d, s, n++, w->dedups[i].client, w->dedups[i].seq,
                                  w->dedups[i].version);
        }
    }
    check(n == d->head.dedups_count);
}

/* Into store.scratch; returns its length. Changes nothing else. */
static uint32_t draft_write(struct draft *d, struct store *s, const struct work *x)
{
    bool both = d->head.kind == RECORD_FULL && (d->head.flags & RECORD_BOTH) != 0;

    draft_write_runs(d, false, s->scratch);
    if (both) {
        d->named = x->prepared->touched;
        draft_write_runs(d, true, s->scratch);
    }
    draft_write_crcs(d, s->scratch);
    draft_write_dedups(d, s, x);
    record_head_encode(s->scratch, &d->head);
    if (both)
        record_prepared_put(s->scratch, &d->head, &d->prepared);
    return record_size(d->head.runs_count, d->head.crcs_count, d->head.dedups_count, both);
}

/* ---- Its place in the books ---- */

static void record_take_writes(struct store *s, struct record *r, struct work *x)
{
    while (!list_empty(&x->waiting)) {
        struct list *l = list_pop(&x->waiting);
        struct store_write *w = container_of(l, struct store_write, object_link);
        const struct room *room = w->room;
        list_remove(&w->queue_link);
        list_push(&r->writes, &w->object_link);
        w->record = r;
        s->queued_bytes -= w->queued_bytes;
        s->queued_count--;
        r->unwritten += !w->data_written;
        r->undurable += !w->data_durable;
        for (uint32_t i = 0; i < w->freed_count; i++) {
            struct freed f = {r->seq, s->read_number, room->freed[i]};
            freed_push(&s->freed, &f);
        }
    }
    x->steps_waiting = 0;
}

/* Until it is acked, the one that is acked holds the tail (S6). */
static void object_has_new_full(struct store *s, struct object *o, struct work *x,
                                const struct record *r)
{
    uint64_t full = object_full(s, o);

    if (full != 0 && !heap_has(&x->held) && !store_mutated(s, STORE_MUTANT_FULL_IN_FLIGHT))
        heap_insert(&s->held, &x->held, full);
    object_set_full(s, o, r->full ? r->first_block : 0);
}

static void object_has_full(struct store *s, struct object *o, struct work *x, uint32_t dedups)
{
    o->full_needed = false;
    x->next_blocks = object_blocks(s, o);
    x->next_dedups = dedups;
    if (x->ring_dedups < dedups)
        x->ring_dedups = dedups;
    object_account_ring(s, x);
}

/* False: it does not fit, and nothing has changed. */
static bool compose_record(struct composer *c, struct object *o, bool copy)
{
    struct store *s = c->s;
    struct work *x = object_work(s, o);
    struct draft d;

    draft_init(&d, s, o, x, copy);
    uint32_t len = draft_write(&d, s, x);
    if (!composer_fits(c, len) || s->records_pool.used == s->records_pool.count)
        return false;

    struct record *r = pool_get(&s->records_pool);
    *r = (struct record){.object = o, .seq = ++s->seq_last};
    r->full = d.head.kind == RECORD_FULL;
    r->purge = d.head.kind == RECORD_PURGE;
    r->first_block = composer_put(c, r->seq, s->scratch, len);
    c->bytes += len;
    r->last_block = c->b->first + c->b->count - 1;
    list_init(&r->in_flight);
    list_init(&r->in_undurable);
    list_init(&r->in_object);
    list_init(&r->writes);
    list_push(&s->records, &r->in_flight);
    list_push(&x->records, &r->in_object);
    record_take_writes(s, r, x);
    if (r->undurable > 0)
        list_push(&s->undurable, &r->in_undurable);
    list_remove(&x->in_wanted);
    if (r->full || r->purge)
        object_has_new_full(s, o, x, r);
    if (r->full)
        object_has_full(s, o, x, d.head.dedups_count);
    if (r->purge)
        x->next_blocks = x->next_dedups = 0;
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

/* Blocks that ordinary records may fill in this batch. */
static uint64_t compose_room(struct store *s)
{
    uint64_t kept = ring_used(s) + clean_reserve(s->ring_bytes);

    return kept < s->super.ring_blocks ? s->super.ring_blocks - kept : 0;
}

/* In haste, copies may use the room that is kept for them; that it is enough is clean.c's argument.
 * Else they go with ordinary records: no block and no flush is for them alone. */
static void compose_copies(struct composer *c)
{
    struct store *s = c->s;

    if (!clean_is_ready(s) || (!s->cleaning && list_empty(&s->queue)))
        return;
    c->blocks_max = compose_room(s);
    if (s->cleaning) {
        uint64_t kept = ring_used(s) + STORE_START_RESERVE;
        c->blocks_max = kept < s->super.ring_blocks ? s->super.ring_blocks - kept : 0;
    }
    while (!list_empty(&s->wanted)) {
        struct object *o = container_of(s->wanted.next, struct work, in_wanted)->object;
        if (o->trimmed && store_mutated(s, STORE_MUTANT_TRIM_UNSAID)) {
            list_remove(&object_work(s, o)->in_wanted);
            object_set_full(s, o, 0);
            continue;
        }
        bool trimmed = o->trimmed, full_needed = o->full_needed;
        if (trimmed)
            object_forget(o);
        if (!compose_record(c, o, true)) {
            if (trimmed) { /* nothing says yet that it is forgotten */
                o->trimmed = true;
                o->gone = false;
                o->full_needed = full_needed;
            }
            s->copies_blocked = c->b->count == 0;
            return;
        }
    }
}

/* All but `leave` writes. Objects that cleaning wants wait for it: their writes go with the copy.
 */
static void compose_queue(struct composer *c, uint32_t leave)
{
    struct store *s = c->s;
    struct list passed;

    list_init(&passed);
    while (!list_empty(&s->queue) && s->queued_count > leave) {
        struct store_write *w = container_of(s->queue.next, struct store_write, queue_link);
        struct object *o = w->object;
        if (!list_empty(&object_work(s, o)->in_wanted)) {
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
    for (uint32_t i = 0; i < STORE_BATCHES; i++) {
        if (s->batches_all[i].state == BATCH_FREE)
            return &s->batches_all[i];
    }
    return NULL;
}

/*
 * Writes that come together, because they were answered together, would go on in step: all wait for
 * the device, then all for one flush, while the device has nothing to do. So the first half of them
 * becomes a batch of its own, with its own flush, during which the other half is written.
 */
static uint32_t compose_leave(const struct store *s)
{
    bool in_step = list_empty(&s->batches) && s->queued_count >= STORE_SPLIT_WRITES;

    return in_step && s->sync != SYNC_NONE ? s->queued_count / 2 : 0;
}

/* What a mutant does (S9): the last block is written again, with more in it. It is the last one of
 * `b`, where that had `count` blocks from `first` on. */
static void composer_reopen(struct composer *c, uint64_t first, uint32_t count)
{
    struct store *s = c->s;

    if (count == 0 || first + count - 1 != s->head || list_empty(&s->queue) ||
        !list_empty(&s->batches))
        return;
    memmove(c->b->buf, c->b->buf + (size_t)(count - 1) * STORE_BLOCK, STORE_BLOCK);
    check(block_open(c->b->buf, s->super.nonce, &c->head) == 0);
    c->block = c->b->buf;
    c->b->first = s->head--;
    c->b->count = 1;
    c->b->durable = s->head;
    s->head_durable = s->head;
    s->head_crc = c->head.prev_crc;
}

/* True: a batch went to the device. */
static bool compose_batch(struct store *s, struct batch *b)
{
    struct composer c;
    uint64_t first = b->first;
    uint32_t count = b->count;

    composer_begin(&c, s, b);
    if (store_mutated(s, STORE_MUTANT_REWRITE))
        composer_reopen(&c, first, count);
    compose_copies(&c);
    c.copied = c.bytes;
    compose_queue(&c, compose_leave(s));
    clean_pay(s, c.bytes - c.copied);
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
    s->copies_blocked = false;
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
        .scrub_at = s->scrub_at,
        .scrub_since = s->scrub_since,
    };

    if (count > 0) {
        struct piece p = {.seq = ++s->seq_last, .total = drops_size(count), .bytes = record};
        p.len = p.total;
        drops_encode(record, drops, count);
        piece_put(block, &h, &p);
    }
    h.mark = raise_mark ? s->seq_last : s->mark_durable;
    block_seal(block, &h);
    s->head_crc = h.crc;
}
