#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/impl.h"

/*
 * Blocks on their way to the ring, and what their durability allows: answers (S4), slots (S1),
 * ring space (S6).
 *
 * Blocks travel in batches. A flush covers a batch when it was written, with the data of all its
 * records, before the flush began (S10); batches become durable in their order. So
 * "data, block and every earlier block durable" is: the batch is durable.
 */

void ring_init(struct store *s)
{
    list_init(&s->records);
    list_init(&s->undurable);
    list_init(&s->batches);
    pool_init(&s->records_pool, STORE_RECORDS_MAX, sizeof(struct record), 64);
    s->scratch = mem_alloc_aligned(RECORD_BYTES_MAX, 64);
    s->batches_memory =
        mem_alloc_aligned((size_t)STORE_BATCHES * STORE_BATCH_BLOCKS * STORE_BLOCK, STORE_BLOCK);
    loop_buffers_register(s->loop, s->batches_memory,
                          (size_t)STORE_BATCHES * STORE_BATCH_BLOCKS * STORE_BLOCK);
    for (uint32_t i = 0; i < STORE_BATCHES; i++) {
        struct batch *b = &s->batches_all[i];
        b->store = s;
        b->state = BATCH_FREE;
        list_init(&b->link);
        b->buf = s->batches_memory + (size_t)i * STORE_BATCH_BLOCKS * STORE_BLOCK;
    }
}

void ring_deinit(struct store *s)
{
    loop_buffers_unregister(s->loop, s->batches_memory);
    free(s->batches_memory);
    free(s->scratch);
    pool_deinit(&s->records_pool);
}

uint64_t ring_used(const struct store *s)
{
    uint64_t tail = store_mutated(s, STORE_MUTANT_RING_REUSE) ? s->tail : s->tail_durable;

    return s->head + 1 - tail;
}

bool ring_has_room(const struct store *s, uint64_t queued, uint64_t bytes)
{
    uint64_t used = ring_used(s), least = clean_reserve(s->live_bytes + bytes);

    /* A restart may find so much to be live. */
    if (clean_reserve(s->ring_bytes + bytes) > ring_half(s->super.ring_blocks))
        return false;
    return (used > least ? used : least) + clean_blocks(s->queued_bytes + queued) +
               clean_reserve(s->ring_bytes + bytes) <=
           s->super.ring_blocks;
}

uint64_t ring_mark(const struct store *s)
{
    if (store_mutated(s, STORE_MUTANT_MARK_MAX)) {
        for (const struct list *l = s->records.prev; l != &s->records; l = l->prev) {
            const struct record *r = container_of(l, struct record, in_flight);
            if (r->undurable == 0)
                return r->seq;
        }
    }
    if (list_empty(&s->undurable))
        return s->seq_last;
    return container_of(s->undurable.next, struct record, in_undurable)->seq - 1;
}

/*
 * Not beyond a record in flight, and not beyond the newest full record of an object that is acked:
 * a later one that is in flight may come to nothing, with all its object's later records.
 */
uint64_t ring_tail(const struct store *s, uint64_t first_new)
{
    const struct object *oldest = object_at(s, s->age_first);
    const struct heap_node *held = heap_min(&s->held);
    uint64_t tail = first_new;

    if (store_mutated(s, STORE_MUTANT_TAIL_EARLY)) {
        if (oldest != NULL)
            tail = object_full(s, oldest);
        return tail < first_new ? tail : first_new;
    }
    if (!list_empty(&s->records)) {
        const struct record *r = container_of(s->records.next, struct record, in_flight);
        if (r->first_block < tail)
            tail = r->first_block;
    }
    if (oldest != NULL && object_full(s, oldest) < tail)
        tail = object_full(s, oldest);
    if (held != NULL && held->key < tail)
        tail = held->key;
    return tail;
}

/* One write less whose data is not durable. */
void record_write_durable(struct record *r)
{
    r->undurable--;
    if (r->undurable == 0)
        list_remove(&r->in_undurable);
}

/* ---- To the device ---- */

static void batch_written(struct batch *b, const struct loop_op *op)
{
    if (op->result < 0)
        store_fail(b->store, (int)op->result, "write of the log");
    b->ops_left--;
    if (b->ops_left == 0)
        b->state = BATCH_WRITTEN;
    store_wake(b->store);
}

static void batch_on_first(struct loop_op *op)
{
    batch_written(container_of(op, struct batch, ops[0]), op);
}

static void batch_on_second(struct loop_op *op)
{
    batch_written(container_of(op, struct batch, ops[1]), op);
}

/* In two writes where the ring's end lies between. */
void ring_submit(struct store *s, struct batch *b)
{
    uint64_t ring = s->super.ring_blocks;
    uint64_t place = b->first % ring;
    uint32_t count = b->count < ring - place || store_mutated(s, STORE_MUTANT_WRONG_WRAP)
                         ? b->count
                         : (uint32_t)(ring - place);

    b->state = BATCH_WRITING;
    b->ops_left = count < b->count ? 2 : 1;
    list_push(&s->batches, &b->link);
    loop_op_init(&b->ops[0], batch_on_first);
    loop_op_init(&b->ops[1], batch_on_second);
    b->fua = s->sync == SYNC_FUA && s->writes_count <= STORE_FUA_WRITES;
    (b->fua ? loop_write_durable : loop_write)(s->loop, &b->ops[0], s->file, b->buf,
                                               (size_t)count * STORE_BLOCK,
                                               (s->super.ring_first + place) * STORE_BLOCK);
    if (count < b->count)
        (b->fua ? loop_write_durable : loop_write)(
            s->loop, &b->ops[1], s->file, b->buf + (size_t)count * STORE_BLOCK,
            (size_t)(b->count - count) * STORE_BLOCK, s->super.ring_first * STORE_BLOCK);
}

/* How many batches from the first on a flush would make durable, and their last block. */
static uint64_t ring_flushable(const struct store *s)
{
    struct list *at = s->records.next;
    uint64_t last = 0;

    list_for_each (l, &s->batches) {
        const struct batch *b = container_of(l, struct batch, link);
        if (b->state != BATCH_WRITTEN)
            break;
        for (; at != &s->records; at = at->next) {
            const struct record *r = container_of(at, struct record, in_flight);
            if (r->last_block >= b->first + b->count)
                break;
            if (r->unwritten > 0 && !store_mutated(s, STORE_MUTANT_ACK_OUT_OF_TURN))
                return last;
        }
        last = b->first + b->count - 1;
    }
    return last;
}

static void ring_on_flushed(struct loop_op *op)
{
    struct store *s = container_of(op, struct store, flush_op);

    if (op->result < 0)
        store_fail(s, (int)op->result, "flush");
    else
        s->flush_done = true;
    s->flush_running = false;
    store_wake(s);
}

/* Is all up to this block durable without a flush? */
static bool ring_is_durable(const struct store *s, uint64_t last)
{
    if (s->sync != SYNC_FUA)
        return s->sync == SYNC_NONE || store_mutated(s, STORE_MUTANT_NO_FLUSH);
    list_for_each (l, &s->batches) {
        const struct batch *b = container_of(l, struct batch, link);
        if (b->first > last)
            break;
        if (!b->fua)
            return false;
    }
    return list_empty(&s->undurable) ||
           container_of(s->undurable.next, struct record, in_undurable)->first_block > last;
}

void ring_flush(struct store *s)
{
    uint64_t last = ring_flushable(s);

    if (last == 0 || s->flush_running || s->flush_done)
        return;
    s->flush_head = last;
    bool is_durable = ring_is_durable(s, last);
    while ((!is_durable || s->sync == SYNC_NONE) && !list_empty(&s->written))
        list_push(&s->flushing, list_pop(&s->written));
    if (is_durable) {
        s->flush_done = true;
        store_wake(s);
        return;
    }
    s->flush_running = true;
    s->counters.flushes_total++;
    loop_op_init(&s->flush_op, ring_on_flushed);
    loop_flush(s->loop, &s->flush_op, s->file);
}

/* ---- What has become durable ---- */

void ring_take_durable(struct store *s)
{
    if (!s->flush_done)
        return;
    s->flush_done = false;
    if (store_mutated(s, STORE_MUTANT_FLUSH_RACE)) {
        s->flush_head = ring_flushable(s);
        while (!list_empty(&s->written))
            list_push(&s->flushing, list_pop(&s->written));
    }
    while (!list_empty(&s->flushing)) {
        struct list *l = list_pop(&s->flushing);
        struct store_write *w = container_of(l, struct store_write, flush_link);
        struct record *r = w->record;
        w->data_durable = true;
        if (r != NULL)
            record_write_durable(r);
    }
    while (!list_empty(&s->batches)) {
        struct batch *b = container_of(s->batches.next, struct batch, link);
        if (b->first + b->count - 1 > s->flush_head)
            break;
        check(b->state == BATCH_WRITTEN && b->first == s->head_durable + 1);
        s->head_durable = b->first + b->count - 1;
        s->mark_durable = b->mark;
        s->tail_durable = b->tail;
        s->durable_said = b->durable;
        b->state = BATCH_FREE;
        list_remove(&b->link);
    }
}

/* The tail stays behind this one now (S6); what came before it is found no more. */
static void record_ack_full(struct store *s, const struct record *r, const struct object *o,
                            struct work *x)
{
    bool newest = r->full && r->first_block == object_full(s, o);

    heap_remove(&s->held, &x->held);
    if (r->full && !newest)
        heap_insert(&s->held, &x->held, r->first_block);
    if (newest || (r->purge && object_full(s, o) == 0)) { /* nor after a purge, if others wait */
        x->ring_blocks = x->next_blocks;
        x->ring_dedups = x->next_dedups;
        object_account_ring(s, x);
    }
}

static void record_ack(struct store *s, struct record *r)
{
    struct object *o = r->object;
    struct work *x = object_work(s, o);

    while (!list_empty(&r->writes)) {
        struct list *l = list_pop(&r->writes);
        struct store_write *w = container_of(l, struct store_write, object_link);
        list_remove(&w->link);
        s->writes_count--;
        write_give_room(s, w);
        list_push(&s->finished, &w->link);
    }
    if (r->full || r->purge)
        record_ack_full(s, r, o, x);
    list_remove(&r->in_flight);
    list_remove(&r->in_object);
    pool_put(&s->records_pool, r);
    object_rest(s, o);
}

void ring_ack(struct store *s)
{
    bool early = store_mutated(s, STORE_MUTANT_ACK_EARLY);
    bool out_of_turn = early || store_mutated(s, STORE_MUTANT_ACK_OUT_OF_TURN);

    for (struct list *l = s->records.next, *next; l != &s->records; l = next) {
        struct record *r = container_of(l, struct record, in_flight);
        next = l->next;
        if (r->last_block > s->head_durable && !early)
            return;
        check(r->undurable == 0 || out_of_turn);
        if (r->undurable == 0)
            record_ack(s, r);
    }
}

/* Slots that these records freed return. */
static uint64_t ring_reusable(const struct store *s)
{
    if (store_mutated(s, STORE_MUTANT_REUSE_COMPOSED))
        return s->seq_last;
    if (store_mutated(s, STORE_MUTANT_REUSE_UNSAID))
        return ring_mark(s);
    if (store_mutated(s, STORE_MUTANT_REUSE_ACKED))
        return list_empty(&s->records)
                   ? s->seq_last
                   : container_of(s->records.next, struct record, in_flight)->seq - 1;
    return s->mark_durable;
}

void ring_release_slots(struct store *s)
{
    uint64_t oldest_read = UINT64_MAX;
    struct freed *f;

    if (!list_empty(&s->reads) && !store_mutated(s, STORE_MUTANT_REUSE_READ))
        oldest_read = container_of(s->reads.next, struct store_read, link)->number;
    while ((f = freed_first(&s->freed)) != NULL && f->seq <= ring_reusable(s) &&
           f->read_number < oldest_read) {
        for (uint64_t i = 0;
             i < slots_count(f->slots) && !store_mutated(s, STORE_MUTANT_SLOTS_LEAK); i++)
            slots_mark(&s->slots, slots_first(f->slots) + i, false);
        freed_pop(&s->freed);
    }
}

/* ---- Empty blocks (S11) ---- */

/* What a block composed now could say that no durable one says. */
static bool ring_has_news(struct store *s)
{
    return (s->freed.count > 0 && ring_mark(s) > s->mark_durable) ||
           ring_tail(s, s->head + 1) > s->tail_durable;
}

/*
 * At once when someone waits for slots or ring space. Else when nothing has come for a while: then
 * also to say that the last records are durable (S2, S12), so that what rots later is noticed.
 * Beyond the room of ordinary blocks only where it gives room back.
 */
bool ring_wants_empty(struct store *s)
{
    if (!list_empty(&s->batches))
        return false;
    if (ring_used(s) + clean_reserve(s->ring_bytes) >= s->super.ring_blocks &&
        ring_tail(s, s->head + 1) == s->tail_durable)
        return false;
    if (s->scrub_want > s->head)
        return true;
    if ((!list_empty(&s->deferred) || s->queue_blocked || s->cleaning) && ring_has_news(s))
        return !store_mutated(s, STORE_MUTANT_NO_EMPTY);
    return s->idle_due && !store_mutated(s, STORE_MUTANT_NO_IDLE) &&
           (s->durable_said < s->head_records || s->mark_durable < s->seq_last || ring_has_news(s));
}

void ring_watch_idle(struct store *s)
{
    bool quiet = list_empty(&s->batches) && list_empty(&s->queue);
    bool unsaid = s->durable_said < s->head_records || s->mark_durable < s->seq_last;

    if (!quiet || !unsaid)
        loop_timer_stop(s->loop, &s->idle_timer);
    else if (!loop_timer_is_running(&s->idle_timer))
        loop_timer_start(s->loop, &s->idle_timer, loop_now(s->loop) + STORE_IDLE_NS);
}
