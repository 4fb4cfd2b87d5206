#include <errno.h>
#include <string.h>

#include "store/impl.h"

/* Up to where a write is answered; the picture is in impl.h. */

enum write_state { WRITE_DEFERRED, WRITE_APPLIED, WRITE_FINISHED };

/* ---- What a write needs, before anything changes ---- */

static bool block_is_present(const uint64_t *present, uint32_t block)
{
    return (present[block / 64] >> (block % 64) & 1) != 0;
}

static uint32_t write_data_blocks(const struct store_write *w)
{
    uint32_t blocks = 0;

    if (w->kind == STORE_WRITE)
        return w->len / STORE_BLOCK;
    if (w->kind != STORE_REPLACE)
        return 0;
    for (uint32_t i = 0; i < COUNT_OF(w->present); i++)
        blocks += (uint32_t)__builtin_popcountll(w->present[i]);
    return blocks;
}

static uint32_t write_dedups(const struct store_write *w)
{
    return w->client != 0 ? 1 : w->dedups_count;
}

/* By how many slots the index grows at most. What an object will hold that has deferred writes
 * is not known yet. */
static uint32_t write_new_slots(const struct store_write *w, const struct object *o)
{
    uint32_t first = w->offset / STORE_BLOCK, count = w->data_blocks;

    if (o == NULL || o->deferred != 0)
        return count;
    if (w->kind == STORE_REPLACE)
        return count > o->blocks_count ? count - o->blocks_count : 0;
    for (uint32_t i = 0; i < w->data_blocks; i++)
        count -= first + i < o->blocks_capacity && o->blocks[first + i].slot != 0;
    return count;
}

/* By how much its full record grows at most. */
static uint32_t write_new_bytes(const struct store_write *w, const struct object *o,
                                uint32_t new_slots)
{
    bool known = o != NULL && !o->gone && !o->trimmed;

    if (w->kind == STORE_PURGE)
        return 0;
    return (known ? 0 : (uint32_t)OBJECT_BYTES) + new_slots * OBJECT_BLOCK_BYTES +
           write_dedups(w) * RECORD_DEDUP;
}

/* What composing it puts into the ring at most: what it changes, or the whole object with it. */
static uint32_t write_record_bytes(const struct store_write *w, const struct object *o)
{
    uint32_t blocks = w->kind == STORE_ZERO ? w->len / STORE_BLOCK : w->data_blocks;
    bool full = o->full_needed || o->trimmed || w->kind == STORE_REPLACE ||
                o->next_dedups + write_dedups(w) > RECORD_DEDUPS_MAX;

    return (uint32_t)OBJECT_BYTES + blocks * OBJECT_BLOCK_BYTES + write_dedups(w) * RECORD_DEDUP +
           (full ? object_bytes(o) : 0);
}

static bool write_has_ring_room(const struct store *s, const struct store_write *w,
                                const struct object *o)
{
    uint32_t bytes = w->promised_bytes;

    if (o->bytes_ring == 0 && bytes == 0) /* purged before it was known */
        bytes = OBJECT_BYTES;
    return ring_has_room(s, write_record_bytes(w, o), bytes);
}

/* What takes no slots may use up the last of the ring's room: deletes go through. */
uint64_t write_log_limit(const struct store *s)
{
    return s->live_limit - s->live_limit / 16;
}

static int write_admit(struct store *s, struct store_write *w, const struct object *o)
{
    uint32_t slots = write_new_slots(w, o);
    uint32_t bytes = write_new_bytes(w, o, slots);
    uint32_t dedups = write_dedups(w), had = o == NULL ? 0 : o->dedups_count + o->promised_dedups;
    uint64_t limit = w->kind == STORE_WRITE ? write_log_limit(s) : s->live_limit;

    if (s->failed != 0)
        return -EIO;
    if (slots > 0 && s->slots_live + s->promised_slots + slots > s->slots_capacity)
        return -ENOSPC;
    if (bytes > 0 && s->live_bytes + s->promised_bytes + bytes > limit)
        return -ENOSPC;
    if (dedups > RECORD_DEDUPS_MAX || (dedups > 0 && had + dedups > RECORD_DEDUPS_MAX))
        return -ENOSPC;
    w->promised_slots = slots;
    w->promised_bytes = bytes;
    return 0;
}

/* ---- Into the index ---- */

static void write_free_slot(struct store *s, struct store_write *w, uint32_t slot)
{
    if (slot == 0)
        return;
    if (store_mutated(s, STORE_MUTANT_REUSE_NOW))
        slots_mark(&s->slots, slot, false);
    else
        w->freed[w->freed_count++] = slot;
}

static void write_clear(struct store *s, struct store_write *w, struct object *o, uint32_t first,
                        uint32_t count)
{
    for (uint32_t b = first; b < first + count && b < o->blocks_capacity; b++)
        write_free_slot(s, w, object_set_block(s, o, b, 0, 0));
}

static void write_take_slots(struct store *s, struct store_write *w)
{
    while (w->slots_count < w->data_blocks) {
        uint32_t first;
        uint32_t run = slots_take(&s->slots, w->data_blocks - w->slots_count, &first);
        check(run > 0);
        for (uint32_t i = 0; i < run; i++)
            w->slots[w->slots_count++] = first + i;
    }
}

static void write_place_data(struct store *s, struct store_write *w, struct object *o)
{
    uint32_t n = 0;

    if (w->kind == STORE_WRITE) {
        for (; n < w->data_blocks; n++)
            write_free_slot(
                s, w, object_set_block(s, o, w->offset / STORE_BLOCK + n, w->slots[n], w->crcs[n]));
        return;
    }
    for (uint32_t b = 0; b < STORE_BLOCKS_MAX; b++) {
        if (block_is_present(w->present, b)) {
            write_free_slot(s, w, object_set_block(s, o, b, w->slots[n], w->crcs[n]));
            n++;
        } else {
            write_clear(s, w, o, b, 1);
        }
    }
}

static void write_add_dedups(struct store *s, struct store_write *w, struct object *o,
                             bool deferred)
{
    if (w->client != 0) {
        struct store_dedup own = {w->client, w->seq, w->version};
        dedup_add(s, o, &own)->deferred = deferred;
    }
    for (uint32_t i = 0; i < w->dedups_count && !deferred; i++)
        dedup_add(s, o, &w->dedups[i])->deferred = false;
}

static void write_purge(struct store *s, struct store_write *w, struct object *o)
{
    write_clear(s, w, o, 0, STORE_BLOCKS_MAX);
    dedup_drop_above(s, o, 0, true);
    o->gone = true;
    o->full_needed = true;
    o->version = 0;
    o->deleted = true;
}

static void write_change_object(struct store *s, struct store_write *w, struct object *o)
{
    bool was_gone = o->gone || o->trimmed;

    if (w->kind == STORE_PURGE) {
        write_purge(s, w, o);
        return;
    }
    o->gone = false;
    o->trimmed = false;
    o->full_needed = o->full_needed || was_gone || w->kind == STORE_REPLACE;
    switch (w->kind) {
    case STORE_WRITE:
        write_place_data(s, w, o);
        break;
    case STORE_ZERO:
        write_clear(s, w, o, w->offset / STORE_BLOCK, w->len / STORE_BLOCK);
        break;
    case STORE_DELETE:
        write_clear(s, w, o, 0, STORE_BLOCKS_MAX);
        break;
    case STORE_REPLACE:
        write_place_data(s, w, o);
        dedup_drop_above(s, o, w->dedup_above, false);
        break;
    case STORE_DEDUP:
    case STORE_PURGE:
        break;
    }
    if (w->kind != STORE_DEDUP) {
        o->version = w->version;
        o->deleted = w->kind == STORE_DELETE || (w->kind == STORE_REPLACE && w->deleted);
    }
    write_add_dedups(s, w, o, false);
}

/* ---- Data to the device ---- */

static void write_submit(struct store *s, struct store_write *w)
{
    while (w->data_next < w->data_blocks) {
        uint32_t i = w->data_next, run = 1;
        while (i + run < w->data_blocks && w->slots[i + run] == w->slots[i] + run)
            run++;
        struct io *io = io_get(s);
        if (io == NULL) {
            list_push(&s->starved, &w->flush_link);
            return;
        }
        io->write = w;
        w->data_next += run;
        w->data_ops++;
        s->counters.blocks_total += run;
        loop_op_init(&io->op, io_write_done);
        loop_write(s->loop, &io->op, s->file, (const uint8_t *)w->data + (size_t)i * STORE_BLOCK,
                   (size_t)run * STORE_BLOCK, (uint64_t)w->slots[i] * STORE_BLOCK);
    }
}

void writes_submit_starved(struct store *s)
{
    while (!list_empty(&s->starved) && s->ios_pool.used < s->ios_pool.count) {
        struct list *l = list_pop(&s->starved);
        write_submit(s, container_of(l, struct store_write, flush_link));
    }
}

/* A completion: all data of `w` is on the device, and durable with the next flush. */
void write_data_done(struct store_write *w)
{
    struct store *s = w->store;
    struct record *record = w->record;

    w->data_written = true;
    list_remove(&w->data_link);
    if (record != NULL)
        record->unwritten--;
    if (!store_mutated(s, STORE_MUTANT_NO_FLUSH)) {
        list_push(&s->written, &w->flush_link);
        return;
    }
    w->data_durable = true;
    if (record != NULL)
        record_write_durable(record);
}

/* What comes with a full record of its own, or on top of one in flight, adds nothing to what a
 * restart may find below it. */
static void write_count_dedups(const struct store_write *w, struct object *o)
{
    if (w->kind == STORE_REPLACE || w->kind == STORE_PURGE)
        o->next_dedups = o->dedups_count;
    else
        o->next_dedups += write_dedups(w);
    if (o->ring_dedups < o->next_dedups)
        o->ring_dedups = o->next_dedups;
}

static void write_apply(struct store *s, struct store_write *w)
{
    struct object *o = w->object;

    w->state = WRITE_APPLIED;
    list_push(&s->writes, &w->link);
    s->writes_count++;
    w->queued_bytes = write_record_bytes(w, o);
    s->queued_bytes += w->queued_bytes;
    write_take_slots(s, w);
    write_change_object(s, w, o);
    write_count_dedups(w, o);
    object_account(s, o);
    list_push(&o->waiting, &w->object_link);
    list_push(&s->queue, &w->queue_link);
    if (w->data_blocks > 0) {
        list_push(&o->writing, &w->data_link);
        write_submit(s, w);
    } else {
        w->data_written = true;
        w->data_durable = true;
    }
}

/* ---- Starting ---- */

static void write_check(const struct store_write *w)
{
    check(w->done != NULL && w->kind >= STORE_WRITE && w->kind <= STORE_PURGE);
    if (w->kind == STORE_WRITE || w->kind == STORE_ZERO) {
        check(w->len > 0 && w->len % STORE_BLOCK == 0 && w->offset % STORE_BLOCK == 0);
        check(w->offset <= STORE_OBJECT_MAX && w->len <= STORE_OBJECT_MAX - w->offset);
        check(w->dedups_count == 0);
    } else if (w->kind != STORE_DELETE) {
        check(w->client == 0);
    }
    check(w->kind != STORE_REPLACE || !w->deleted || w->data_blocks == 0);
}

static void write_init(struct store *s, struct store_write *w)
{
    w->result = 0;
    w->store = s;
    w->object = NULL;
    w->record = NULL;
    list_init(&w->link);
    list_init(&w->object_link);
    list_init(&w->queue_link);
    list_init(&w->data_link);
    list_init(&w->flush_link);
    w->data_blocks = write_data_blocks(w);
    w->data_next = 0;
    w->data_ops = 0;
    w->queued_bytes = 0;
    w->slots_count = 0;
    w->freed_count = 0;
    w->data_written = false;
    w->data_durable = false;
}

static void write_defer(struct store *s, struct store_write *w, struct object *o)
{
    w->state = WRITE_DEFERRED;
    o->deferred++;
    s->promised_slots += w->promised_slots;
    s->promised_bytes += w->promised_bytes;
    o->promised_dedups += w->dedups_count;
    o->gone_visible = w->kind == STORE_PURGE;
    if (w->kind != STORE_DEDUP) {
        bool purged = w->kind == STORE_PURGE;
        o->version_visible = purged ? 0 : w->version;
        o->deleted_visible =
            purged || w->kind == STORE_DELETE || (w->kind == STORE_REPLACE && w->deleted);
    }
    write_add_dedups(s, w, o, true);
    list_push(&s->deferred, &w->link);
}

static bool write_must_wait(const struct store *s, const struct store_write *w,
                            const struct object *o)
{
    return o->deferred > 0 || s->writes_count == STORE_WRITES_MAX ||
           !write_has_ring_room(s, w, o) ||
           (w->data_blocks > 0 && (s->slots.free < w->data_blocks || !list_empty(&s->deferred)));
}

void store_write_start(struct store *s, struct store_write *w)
{
    write_init(s, w);
    write_check(w);
    s->counters.writes_total++;
    store_wake(s);

    w->result = write_admit(s, w, object_find(s, &w->id));
    if (w->result != 0) {
        w->state = WRITE_FINISHED;
        list_push(&s->finished, &w->link);
        return;
    }
    struct object *o = object_get(s, &w->id, w->pg);
    w->object = o;
    if (write_must_wait(s, w, o))
        write_defer(s, w, o);
    else
        write_apply(s, w);
}

/* In order; each finds its slots once those that wait have returned, and its room in the ring once
 * cleaning has made some. */
void writes_run_deferred(struct store *s)
{
    s->deferred_blocked = false;
    while (!list_empty(&s->deferred)) {
        struct store_write *w = container_of(s->deferred.next, struct store_write, link);
        struct object *o = w->object;
        if (s->writes_count == STORE_WRITES_MAX || s->slots.free < w->data_blocks)
            return;
        if (!write_has_ring_room(s, w, o)) {
            s->deferred_blocked = true;
            return;
        }
        list_remove(&w->link);
        o->deferred--;
        s->promised_slots -= w->promised_slots;
        s->promised_bytes -= w->promised_bytes;
        o->promised_dedups -= w->dedups_count;
        write_apply(s, w);
    }
}

/* ---- Finishing ---- */

static void write_fail(struct store *s, struct store_write *w)
{
    list_remove(&w->link);
    list_remove(&w->object_link);
    list_remove(&w->queue_link);
    list_remove(&w->data_link);
    list_remove(&w->flush_link);
    w->state = WRITE_FINISHED;
    w->result = -EIO;
    list_push(&s->finished, &w->link);
}

/* Whose data the device still holds must wait for it. */
void writes_fail_all(struct store *s)
{
    struct list *lists[] = {&s->writes, &s->deferred};

    for (uint32_t i = 0; i < COUNT_OF(lists); i++) {
        for (struct list *l = lists[i]->next, *next; l != lists[i]; l = next) {
            struct store_write *w = container_of(l, struct store_write, link);
            next = l->next;
            if (w->data_ops == 0)
                write_fail(s, w);
        }
    }
}

/* done() may start further writes, those refused at once included: they come with the next step. */
void writes_finish(struct store *s)
{
    struct list ready;

    list_init(&ready);
    while (!list_empty(&s->finished))
        list_push(&ready, list_pop(&s->finished));
    while (!list_empty(&ready)) {
        struct store_write *w = container_of(list_pop(&ready), struct store_write, link);
        w->done(w);
    }
}
