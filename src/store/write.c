#include <errno.h>
#include <string.h>

#include "store/impl.h"

/* Up to where a write is answered; the picture is in impl.h. */

enum write_state { WRITE_DEFERRED, WRITE_APPLIED, WRITE_FINISHED };

/* ---- What a write needs, before anything changes ---- */

/* Of erasure coding: prepare, commit, roll back. */
static bool write_is_step(const struct store_write *w)
{
    return w->kind == STORE_PREPARE || w->kind == STORE_COMMIT || w->kind == STORE_ROLLBACK;
}

static uint32_t write_data_blocks(const struct store_write *w)
{
    uint32_t blocks = 0;

    if (w->kind == STORE_WRITE || (w->kind == STORE_PREPARE && !w->zero))
        return w->len / STORE_BLOCK;
    if (w->kind != STORE_REPLACE)
        return 0;
    for (uint32_t i = 0; i < COUNT_OF(w->present); i++)
        blocks += (uint32_t)__builtin_popcountll(w->present[i]);
    return blocks;
}

uint32_t write_dedups(const struct store_write *w)
{
    return w->client != 0 ? 1 : w->dedups_count;
}

/* By how many slots the index grows at most. What an object will hold that has deferred writes
 * is not known yet. */
static uint32_t write_new_slots(const struct store_write *w, const struct object *o,
                                const struct work *x)
{
    uint32_t count = w->data_blocks;
    uint64_t slots[STORE_BLOCKS_MAX];
    uint32_t crcs[STORE_BLOCKS_MAX];

    if (o == NULL || count == 0 || (x != NULL && x->deferred != 0))
        return count;
    if (w->kind == STORE_REPLACE)
        return count > o->blocks ? count - o->blocks : 0;
    if (w->kind != STORE_WRITE)
        return count;
    map_read(o->map, o->runs, w->offset / STORE_BLOCK, w->data_blocks, slots, crcs);
    for (uint32_t i = 0; i < w->data_blocks; i++)
        count -= slots[i] != 0;
    return count;
}

/* By how much its full record grows at most. */
static uint32_t write_new_bytes(const struct store_write *w, const struct object *o,
                                uint32_t new_slots)
{
    bool known = o != NULL && !o->gone && !o->trimmed;
    uint32_t blocks = new_slots;

    if (w->kind == STORE_PURGE || w->kind == STORE_COMMIT || w->kind == STORE_ROLLBACK)
        return 0;
    if (w->kind == STORE_PREPARE)
        blocks = w->len / STORE_BLOCK + PREPARED_BLOCKS;
    return (known ? 0 : (uint32_t)OBJECT_BYTES) + blocks * OBJECT_BLOCK_BYTES +
           write_dedups(w) * RECORD_DEDUP;
}

/* What composing it puts into the ring at most: what it changes, or the whole object with it. Steps
 * that wait together, or with other writes, become one full record. */
static uint32_t write_record_bytes(const struct store *s, const struct store_write *w,
                                   const struct object *o, const struct work *x)
{
    bool range = w->kind == STORE_ZERO || w->kind == STORE_PREPARE;
    uint32_t blocks = range ? w->len / STORE_BLOCK : w->data_blocks;
    bool full = o->full_needed || o->trimmed || w->kind == STORE_REPLACE ||
                x->next_dedups + write_dedups(w) > RECORD_DEDUPS_MAX || x->steps_waiting > 0 ||
                (write_is_step(w) && !list_empty(&x->waiting));

    if (w->kind == STORE_PREPARE)
        blocks += PREPARED_BLOCKS;
    return (uint32_t)OBJECT_BYTES + blocks * OBJECT_BLOCK_BYTES + write_dedups(w) * RECORD_DEDUP +
           (full ? object_bytes(s, o) : 0);
}

static bool write_has_ring_room(const struct store *s, const struct store_write *w,
                                const struct object *o, const struct work *x)
{
    uint32_t bytes = w->promised_bytes;

    if (x->bytes_ring == 0 && bytes == 0) /* purged before it was known */
        bytes = OBJECT_BYTES;
    return ring_has_room(s, write_record_bytes(s, w, o, x), bytes);
}

/* What takes no slots may use up the last of the ring's room: deletes go through. */
uint64_t write_log_limit(const struct store *s)
{
    return s->live_limit - s->live_limit / 16;
}

static bool write_seqs_ok(const struct store_write *w)
{
    bool ok = w->client == 0 || w->seq < STORE_SEQ_MAX;

    for (uint32_t i = 0; i < w->dedups_count; i++)
        ok = ok && w->dedups[i].seq < STORE_SEQ_MAX;
    return ok;
}

static int write_admit(struct store *s, struct store_write *w, const struct object *o)
{
    const struct work *x = o == NULL ? NULL : object_work(s, o);
    uint32_t slots = write_new_slots(w, o, x);
    uint32_t bytes = write_new_bytes(w, o, slots);
    uint32_t dedups = write_dedups(w), had = x == NULL ? 0 : x->dedups_count + x->promised_dedups;
    bool grows = w->kind == STORE_WRITE || w->kind == STORE_PREPARE;
    uint64_t limit = grows ? write_log_limit(s) : s->live_limit;

    if (s->failed != 0)
        return -EIO;
    if (!write_seqs_ok(w))
        return -EINVAL;
    if (slots > 0 && s->slots_live + s->promised_slots + slots > s->slots_capacity)
        return -ENOSPC;
    if (bytes > 0 && s->live_bytes + s->promised_bytes + bytes > limit)
        return -ENOSPC;
    if (o == NULL && s->objects.count >= OBJECTS_MAX)
        return -ENOSPC;
    if (dedups > RECORD_DEDUPS_MAX || (dedups > 0 && had + dedups > RECORD_DEDUPS_MAX))
        return -ENOSPC;
    w->promised_slots = slots;
    w->promised_bytes = bytes;
    return 0;
}

/* When its turn has come: does it fit what is? An error changes nothing. */
static int write_order(struct store_write *w, const struct object *o, const struct work *x)
{
    const struct prepared *p = x->prepared;

    switch (w->kind) {
    case STORE_WRITE:
    case STORE_ZERO:
    case STORE_DELETE:
        return p != NULL ? -EBUSY : 0;
    case STORE_PREPARE:
        return w->version <= o->version || (p != NULL && w->version < p->version) ? -ESTALE : 0;
    case STORE_COMMIT:
        w->is_void = p == NULL || p->version != w->version;
        return w->is_void && w->version > o->version ? -ENOENT : 0;
    case STORE_ROLLBACK:
        w->is_void = p == NULL || p->version != w->version;
        return w->is_void && w->version <= o->version ? -ESTALE : 0;
    case STORE_REPLACE:
    case STORE_DEDUP:
    case STORE_PURGE:
        break;
    }
    return 0;
}

/* ---- Into the index ---- */

static void write_free_slot(struct store *s, struct store_write *w, uint64_t slot)
{
    if (slot == 0)
        return;
    if (store_mutated(s, STORE_MUTANT_REUSE_NOW)) {
        slots_mark(&s->slots, slot, false);
        return;
    }
    struct room *room = w->room;
    struct store_slots *last = w->freed_count == 0 ? NULL : &room->freed[w->freed_count - 1];
    if (last != NULL && slots_first(*last) + slots_count(*last) == slot)
        *last = slots_run(slots_first(*last), slots_count(*last) + 1);
    else
        room->freed[w->freed_count++] = slots_run(slot, 1);
}

static void write_clear(struct store *s, struct store_write *w, struct layout *l, uint32_t first,
                        uint32_t count)
{
    for (uint32_t b = first; b < first + count && b < l->count; b++) {
        write_free_slot(s, w, l->slots[b]);
        l->slots[b] = 0;
    }
}

static void write_take_slots(struct store *s, struct store_write *w)
{
    struct room *room = w->room;
    uint32_t have = 0;

    while (have < w->data_blocks) {
        uint64_t first;
        uint32_t run = slots_take(&s->slots, w->data_blocks - have, &first);
        check(run > 0);
        room->slots[w->slots_count++] = slots_run(first, run);
        have += run;
    }
}

/* Its data, in order, to the blocks from `first` on that `only` has (NULL: to all). */
static void write_place_data(struct store *s, struct store_write *w, struct layout *l,
                             uint32_t first, const uint64_t *only)
{
    const struct room *room = w->room;
    uint32_t b = first, n = 0;

    for (uint32_t i = 0; i < w->slots_count; i++) {
        for (uint32_t k = 0; k < slots_count(room->slots[i]); k++, b++, n++) {
            while (only != NULL && !bitmap_has(only, b))
                b++;
            write_free_slot(s, w, layout_slot(l, b));
            layout_set(l, b, slots_first(room->slots[i]) + k, w->crcs[n]);
        }
    }
}

static void write_add_dedups(struct store *s, struct store_write *w, struct object *o)
{
    if (w->client != 0) {
        struct store_dedup own = {w->client, w->seq, w->version};
        dedup_add(s, o, &own)->deferred = false;
    }
    for (uint32_t i = 0; i < w->dedups_count; i++)
        dedup_add(s, o, &w->dedups[i])->deferred = false;
}

/* Until its turn has come. A request that was executed already keeps its record. */
static void write_promise_dedup(struct store *s, const struct store_write *w, struct object *o)
{
    struct store_dedup own = {w->client, w->seq, w->version};

    if (w->client != 0 && dedup_find_in(s, o, w->client, w->seq) == NULL)
        dedup_add(s, o, &own)->deferred = true;
}

/* ---- The prepared version ---- */

static void write_commit(struct store *s, struct store_write *w, struct object *o, struct work *x)
{
    const struct prepared *p = x->prepared;
    struct layout before, now;

    object_read(o, &before);
    prepared_read(o, p, &now);
    for (uint32_t b = 0; b < before.count; b++) {
        if (before.slots[b] != layout_slot(&now, b))
            write_free_slot(s, w, before.slots[b]);
    }
    o->version = p->version;
    o->deleted = p->deleted;
    object_write(s, o, &now);
    prepared_free(s, o);
}

static void write_rollback(struct store *s, struct store_write *w, struct object *o, struct work *x)
{
    struct layout l;

    if (x->prepared == NULL)
        return;
    prepared_changes(x->prepared, &l);
    write_clear(s, w, &l, 0, STORE_BLOCKS_MAX);
    prepared_free(s, o);
}

static void write_prepare(struct store *s, struct store_write *w, struct object *o, struct work *x)
{
    uint64_t touched[STORE_BLOCKS_MAX / 64] = {0};
    struct layout l;

    l.count = 0;
    if (x->prepared != NULL && x->prepared->version == w->version)
        write_rollback(s, w, o, x);
    else if (x->prepared != NULL)
        write_commit(s, w, o, x);
    bitmap_set(touched, w->offset / STORE_BLOCK, w->len / STORE_BLOCK);
    write_place_data(s, w, &l, w->offset / STORE_BLOCK, NULL);
    struct prepared *p = prepared_make(s, o, w->version, &l, touched);
    p->clear = w->deleted;
    p->deleted = w->deleted;
    if (store_mutated(s, STORE_MUTANT_PREPARE_FREES)) {
        object_read(o, &l);
        write_clear(s, w, &l, w->offset / STORE_BLOCK, w->len / STORE_BLOCK);
    }
}

/* ---- All kinds ---- */

static void write_purge(struct store *s, struct store_write *w, struct object *o, struct work *x)
{
    struct layout l;

    write_rollback(s, w, o, x);
    object_read(o, &l);
    write_clear(s, w, &l, 0, STORE_BLOCKS_MAX);
    object_write(s, o, &l);
    dedup_drop_above(s, o, 0, true);
    o->gone = true;
    o->full_needed = true;
    o->version = 0;
    o->deleted = true;
}

/* Whoever asks again was not answered: its request counts as never seen. */
static void write_undo(struct store *s, struct store_write *w, struct object *o, struct work *x)
{
    write_rollback(s, w, o, x);
    if (!store_mutated(s, STORE_MUTANT_ROLLBACK_KEEPS))
        dedup_drop_version(s, o, w->version);
    if (o->version == 0 && x->dedups_count == 0) /* it was never more than prepared */
        write_purge(s, w, o, x);
}

static void write_step(struct store *s, struct store_write *w, struct object *o, struct work *x)
{
    if (w->kind == STORE_PREPARE)
        write_prepare(s, w, o, x);
    else if (w->is_void)
        return;
    else if (w->kind == STORE_COMMIT)
        write_commit(s, w, o, x);
    else
        write_undo(s, w, o, x);
}

static void write_change_blocks(struct store *s, struct store_write *w, struct object *o)
{
    struct layout l;

    object_read(o, &l);
    switch (w->kind) {
    case STORE_WRITE:
        write_place_data(s, w, &l, w->offset / STORE_BLOCK, NULL);
        break;
    case STORE_ZERO:
        write_clear(s, w, &l, w->offset / STORE_BLOCK, w->len / STORE_BLOCK);
        break;
    case STORE_DELETE:
    case STORE_REPLACE:
        write_clear(s, w, &l, 0, STORE_BLOCKS_MAX);
        write_place_data(s, w, &l, 0, w->present);
        break;
    case STORE_DEDUP:
    case STORE_PURGE:
    case STORE_PREPARE:
    case STORE_COMMIT:
    case STORE_ROLLBACK:
        never("changes no blocks of what is");
    }
    object_write(s, o, &l);
    o->version = w->version;
    o->deleted = w->kind == STORE_DELETE || (w->kind == STORE_REPLACE && w->deleted);
}

static void write_change_object(struct store *s, struct store_write *w, struct object *o,
                                struct work *x)
{
    bool was_gone = o->gone || o->trimmed;

    if (w->kind == STORE_PURGE) {
        write_purge(s, w, o, x);
        return;
    }
    if (was_gone && w->is_void) { /* it stays away: the record says so once more */
        if (o->trimmed)
            object_forget(o);
        return;
    }
    o->gone = false;
    o->trimmed = false;
    o->full_needed = o->full_needed || was_gone || w->kind == STORE_REPLACE;
    if (w->kind == STORE_REPLACE)
        write_rollback(s, w, o, x);
    if (write_is_step(w))
        write_step(s, w, o, x);
    else if (w->kind != STORE_DEDUP)
        write_change_blocks(s, w, o);
    if (w->kind == STORE_REPLACE)
        dedup_drop_above(s, o, w->dedup_above, false);
    if (!o->gone)
        write_add_dedups(s, w, o);
}

/* ---- Data to the device ---- */

/* One io for each run of slots. */
static void write_submit(struct store *s, struct store_write *w)
{
    for (; w->slots_next < w->slots_count; w->slots_next++) {
        struct store_slots run = ((const struct room *)w->room)->slots[w->slots_next];
        struct io *io = io_get(s);
        if (io == NULL) {
            list_push(&s->starved, &w->flush_link);
            return;
        }
        io->write = w;
        w->data_ops++;
        s->counters.blocks_total += slots_count(run);
        loop_op_init(&io->op, io_write_done);
        (w->fua ? loop_write_durable : loop_write)(
            s->loop, &io->op, s->file,
            (const uint8_t *)w->data + (size_t)w->data_next * STORE_BLOCK,
            (size_t)slots_count(run) * STORE_BLOCK, slots_first(run) * STORE_BLOCK);
        w->data_next += slots_count(run);
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
    if (!w->fua && !store_mutated(s, STORE_MUTANT_NO_FLUSH)) {
        list_push(&s->written, &w->flush_link);
        return;
    }
    w->data_durable = true;
    if (record != NULL)
        record_write_durable(record);
}

/* What comes with a full record of its own, or on top of one in flight, adds nothing to what a
 * restart may find below it. */
static void write_count_dedups(const struct store_write *w, struct work *x)
{
    if (w->kind == STORE_REPLACE || w->kind == STORE_PURGE)
        x->next_dedups = x->dedups_count;
    else
        x->next_dedups += write_dedups(w);
    if (x->ring_dedups < x->next_dedups)
        x->ring_dedups = x->next_dedups;
}

static void write_apply(struct store *s, struct store_write *w, struct object *o, struct work *x)
{
    w->state = WRITE_APPLIED;
    list_push(&s->writes, &w->link);
    s->writes_count++;
    s->queued_count++;
    w->room = pool_get(&s->rooms_pool);
    w->queued_bytes = write_record_bytes(s, w, o, x);
    s->queued_bytes += w->queued_bytes;
    write_take_slots(s, w);
    write_change_object(s, w, o, x);
    write_count_dedups(w, x);
    object_account(s, o);
    list_push(&x->waiting, &w->object_link);
    x->steps_waiting += write_is_step(w) && !w->is_void;
    list_push(&s->queue, &w->queue_link);
    w->fua = s->sync == SYNC_FUA && s->writes_count <= STORE_FUA_WRITES;
    if (w->data_blocks > 0) {
        list_push(&x->writing, &w->data_link);
        write_submit(s, w);
    } else {
        w->data_written = true;
        w->data_durable = true;
    }
}

/* ---- Starting ---- */

static void write_check(const struct store_write *w)
{
    check(w->done != NULL && w->kind >= STORE_WRITE && w->kind <= STORE_ROLLBACK);
    if (w->kind == STORE_WRITE || w->kind == STORE_ZERO || w->kind == STORE_PREPARE) {
        check(w->len > 0 || w->kind == STORE_PREPARE);
        check(w->len % STORE_BLOCK == 0 && w->offset % STORE_BLOCK == 0);
        check(w->offset <= STORE_OBJECT_MAX && w->len <= STORE_OBJECT_MAX - w->offset);
        check(w->dedups_count == 0);
    } else if (w->kind != STORE_DELETE) {
        check(w->client == 0);
    }
    check(w->kind != STORE_PREPARE || !w->deleted || w->len == 0);
    check(!write_is_step(w) || w->version > 0);
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
    w->room = NULL;
    w->slots_count = 0;
    w->slots_next = 0;
    w->freed_count = 0;
    w->is_void = false;
    w->data_written = false;
    w->data_durable = false;
}

static bool write_shows_early(const struct store_write *w)
{
    return !write_is_step(w) && w->kind != STORE_DEDUP;
}

static void write_defer(struct store *s, struct store_write *w, struct object *o, struct work *x)
{
    w->state = WRITE_DEFERRED;
    x->deferred++;
    x->deferred_states += write_shows_early(w);
    s->promised_slots += w->promised_slots;
    s->promised_bytes += w->promised_bytes;
    x->promised_dedups += w->dedups_count;
    if (!write_is_step(w)) {
        bool purged = w->kind == STORE_PURGE;
        x->gone_visible = purged;
        if (w->kind != STORE_DEDUP) {
            x->version_visible = purged ? 0 : w->version;
            x->deleted_visible =
                purged || w->kind == STORE_DELETE || (w->kind == STORE_REPLACE && w->deleted);
        }
    }
    write_promise_dedup(s, w, o);
    list_push(&s->deferred, &w->link);
}

static bool write_must_wait(const struct store *s, const struct store_write *w,
                            const struct object *o, const struct work *x)
{
    bool after = x->deferred > 0 && !store_mutated(s, STORE_MUTANT_OVERTAKE);

    return after || s->writes_count == STORE_WRITES_MAX || !write_has_ring_room(s, w, o, x) ||
           (w->data_blocks > 0 && (s->slots.free < w->data_blocks || !list_empty(&s->deferred)));
}

static void write_refuse(struct store *s, struct store_write *w, int result)
{
    w->result = result;
    w->state = WRITE_FINISHED;
    list_push(&s->finished, &w->link);
}

void store_write_start(struct store *s, struct store_write *w)
{
    struct object *o = object_find(s, &w->id);

    write_init(s, w);
    write_check(w);
    s->counters.writes_total++;
    store_wake(s);

    int result = write_admit(s, w, o);
    if (result != 0 || (o == NULL && (w->kind == STORE_COMMIT || w->kind == STORE_ROLLBACK))) {
        write_refuse(s, w, result == 0 && w->kind == STORE_COMMIT ? -ENOENT : result);
        return;
    }
    if (o == NULL)
        o = object_get(s, &w->id, w->pg);
    struct work *x = object_work_make(s, o);
    bool wait = write_must_wait(s, w, o, x);
    result = wait ? 0 : write_order(w, o, x);
    if (result != 0) {
        object_rest(s, o);
        write_refuse(s, w, result);
        return;
    }
    object_set_pg(s, o, w->pg);
    w->object = o;
    if (wait)
        write_defer(s, w, o, x);
    else
        write_apply(s, w, o, x);
}

/* Its turn has come. */
static void write_undefer(struct store *s, struct store_write *w, struct object *o, struct work *x)
{
    list_remove(&w->link);
    x->deferred--;
    x->deferred_states -= write_shows_early(w);
    s->promised_slots -= w->promised_slots;
    s->promised_bytes -= w->promised_bytes;
    x->promised_dedups -= w->dedups_count;
    int result = write_order(w, o, x);
    if (result == 0) {
        write_apply(s, w, o, x);
        return;
    }
    if (w->client != 0)
        dedup_undo(s, o, w->client, w->seq);
    object_account(s, o);
    object_rest(s, o);
    write_refuse(s, w, result);
}

/* In order; each finds its slots once those that wait have returned, and its room in the ring once
 * cleaning has made some. */
void writes_run_deferred(struct store *s)
{
    s->deferred_blocked = false;
    while (!list_empty(&s->deferred)) {
        struct store_write *w = container_of(s->deferred.next, struct store_write, link);
        struct object *o = w->object;
        struct work *x = object_work(s, o);
        if (s->writes_count == STORE_WRITES_MAX || s->slots.free < w->data_blocks)
            return;
        if (!write_has_ring_room(s, w, o, x)) {
            s->deferred_blocked = true;
            return;
        }
        write_undefer(s, w, o, x);
    }
}

/* ---- Finishing ---- */

void write_give_room(struct store *s, struct store_write *w)
{
    if (w->room != NULL)
        pool_put(&s->rooms_pool, w->room);
    w->room = NULL;
}

static void write_fail(struct store *s, struct store_write *w)
{
    write_give_room(s, w);
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
