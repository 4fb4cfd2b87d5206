/*
 * What a store was asked and what it answered, for the tests that look at every crash: a few small
 * objects, each a list of the states that were submitted and the last one that was acknowledged.
 *
 * What it holds a store to: whatever happened, each object is in one of the states from the last
 * acknowledged one on, with version, tombstone, blocks, content and dedup records of that one.
 */

#ifndef TEST_STORE_LEDGER_H
#define TEST_STORE_LEDGER_H

#include "test_store_world.h"

#include <malloc.h>

enum {
    LEDGER_ITEMS = 4, /* objects 1 to 4 of image 1; an even one is in PG 0 */
    LEDGER_BLOCKS = 8,
    LEDGER_GROUPS = 12, /* of dedup records, of a state */
    LEDGER_JOBS = 24,
    LEDGER_LIST_MAX = 3000,
    LEDGER_CLIENTS = 3,
};

/* Requests first .. first + count - 1 of a client, executed as `version`. */
struct group {
    uint64_t client, first, version;
    uint32_t count;
};

/* What a prepared version changes. */
struct pending {
    uint64_t version; /* 0: there is none */
    bool deletes;
    uint64_t touched; /* a bit per block */
    uint64_t values[LEDGER_BLOCKS];
};

struct shape {
    bool there, deleted;
    uint64_t version;
    uint64_t values[LEDGER_BLOCKS]; /* 0: a hole */
    struct pending pending;
    struct group groups[LEDGER_GROUPS];
    uint32_t groups_count;
};

struct item {
    struct shape *shapes;
    uint32_t count, capacity;
    uint32_t acked;
};

enum step_kind {
    STEP_WRITE,
    STEP_ZERO,
    STEP_DELETE,
    STEP_REPLACE,
    STEP_DEDUP,
    STEP_PURGE,
    STEP_PREPARE,
    STEP_COMMIT,
    STEP_ROLLBACK,
    STEP_TRIM,    /* of the item's PG, up to its version */
    STEP_FLOOR,   /* of a client */
    STEP_READ,    /* the whole object */
    STEP_WAIT,    /* until all is answered */
    STEP_SETTLE,  /* … and the store has nothing more to say */
    STEP_CRASH,   /* of the process, and a start */
    STEP_RESTART, /* with power loss */
    STEP_KINDS
};

struct step {
    enum step_kind kind;
    uint32_t item;
    uint32_t first, count; /* WRITE, ZERO, PREPARE: blocks */
    uint64_t present;      /* REPLACE */
    uint32_t list;         /* REPLACE, DEDUP: dedup records */
    bool lower;            /* REPLACE: with a version below; PREPARE: the same one again */
    bool zero, deletes;    /* PREPARE */
    bool quiet;            /* WRITE … : of no client */
    uint32_t pause_ns;     /* let the world go on for so long, afterwards */
};

struct job {
    struct ledger *ledger;
    struct op *op;
    struct store_dedup *dedups;
    bool busy, reading;
    uint32_t item, shape; /* write: the state it makes; read: the last acked when it began */
    int expected;         /* not 0: the write is refused so, and changes nothing */
};

struct ledger {
    struct world *w;
    struct item items[LEDGER_ITEMS];
    struct job jobs[LEDGER_JOBS];
    struct store_dedup *found;
    uint64_t version, value, seq;
    uint64_t floors[LEDGER_CLIENTS + 1];
    uint64_t trimmed[2];
    bool device_fails; /* then -EIO is an answer */
    uint64_t writes_acked, writes_refused;
    char error[200];
};

#define ledger_fault(l, ...)                                       \
    do {                                                           \
        if ((l)->error[0] == 0)                                    \
            snprintf((l)->error, sizeof((l)->error), __VA_ARGS__); \
    } while (0)

static inline uint64_t item_object(uint32_t item)
{
    return item + 1;
}

static inline uint64_t item_pg(uint32_t item)
{
    return item_object(item) % 2;
}

static inline struct shape *item_newest(struct item *it)
{
    return &it->shapes[it->count - 1];
}

static inline struct shape *item_push(struct item *it)
{
    if (it->count == it->capacity) {
        it->capacity = it->capacity == 0 ? 16 : 2 * it->capacity;
        it->shapes = mem_realloc(it->shapes, it->capacity * sizeof(*it->shapes));
    }
    it->shapes[it->count] = it->count == 0 ? (struct shape){0} : it->shapes[it->count - 1];
    return &it->shapes[it->count++];
}

static inline void ledger_init(struct ledger *l, struct world *w)
{
    /* A start takes and gives back megabytes: not from the kernel each time. */
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    *l = (struct ledger){.w = w};
    l->found = mem_zalloc(RECORD_DEDUPS_MAX * sizeof(*l->found));
    for (uint32_t i = 0; i < LEDGER_ITEMS; i++)
        item_push(&l->items[i]);
    for (uint32_t i = 0; i < LEDGER_JOBS; i++) {
        struct job *j = &l->jobs[i];
        j->ledger = l;
        j->op = mem_zalloc(sizeof(*j->op));
        j->op->world = w;
        j->op->data = mem_alloc_aligned(LEDGER_BLOCKS * STORE_BLOCK, STORE_BLOCK);
        j->dedups = mem_zalloc(LEDGER_LIST_MAX * sizeof(*j->dedups));
    }
}

static inline void ledger_deinit(struct ledger *l)
{
    for (uint32_t i = 0; i < LEDGER_ITEMS; i++)
        free(l->items[i].shapes);
    for (uint32_t i = 0; i < LEDGER_JOBS; i++) {
        op_free(l->jobs[i].op);
        free(l->jobs[i].dedups);
    }
    free(l->found);
}

/* What was promised, as another ledger knows it: nothing is in flight in the copy. */
static inline void ledger_copy(struct ledger *to, const struct ledger *from)
{
    for (uint32_t i = 0; i < LEDGER_ITEMS; i++) {
        struct item *a = &to->items[i];
        const struct item *b = &from->items[i];
        a->count = 0;
        for (uint32_t k = 0; k < b->count; k++)
            *item_push(a) = b->shapes[k];
        a->acked = b->acked;
    }
    to->version = from->version;
    to->value = from->value;
    to->seq = from->seq;
    memcpy(to->floors, from->floors, sizeof(to->floors));
    memcpy(to->trimmed, from->trimmed, sizeof(to->trimmed));
    to->error[0] = 0;
}

/* ---- Is the object in this state? ---- */

/* A tombstone that may be forgotten. */
static inline bool shape_is_trimmable(const struct ledger *l, uint32_t item, const struct shape *s)
{
    return s->there && s->deleted && s->pending.version == 0 &&
           s->version <= l->trimmed[item_pg(item)];
}

static inline void shape_commit(struct shape *s)
{
    for (uint32_t b = 0; b < LEDGER_BLOCKS; b++) {
        if (s->pending.deletes || (s->pending.touched >> b & 1) != 0)
            s->values[b] = s->pending.values[b];
    }
    s->version = s->pending.version;
    s->deleted = s->pending.deletes;
    s->pending = (struct pending){0};
}

/* Records below the floor may be there or not. */
static inline uint32_t group_needed(const struct ledger *l, const struct group *g)
{
    uint64_t floor = l->floors[g->client];

    if (g->first >= floor)
        return g->count;
    return g->first + g->count > floor ? (uint32_t)(g->first + g->count - floor) : 0;
}

static inline bool dedup_is_known(const struct shape *s, const struct store_dedup *d)
{
    for (uint32_t k = 0; k < s->groups_count; k++) {
        const struct group *g = &s->groups[k];
        if (g->client == d->client && d->seq >= g->first && d->seq < g->first + g->count &&
            d->version == g->version)
            return true;
    }
    return false;
}

static inline bool dedups_match(struct ledger *l, struct store *s, uint32_t item,
                                const struct shape *shape)
{
    struct store_id id = {1, item_object(item)};
    uint32_t needed = 0, seen = 0;
    uint32_t count = store_dedup_list(s, &id, 0, l->found, RECORD_DEDUPS_MAX);

    if (count > RECORD_DEDUPS_MAX)
        return false;
    for (uint32_t i = 0; i < shape->groups_count; i++)
        needed += group_needed(l, &shape->groups[i]);
    for (uint32_t i = 0; i < count; i++) {
        const struct store_dedup *d = &l->found[i];
        if (d->client > LEDGER_CLIENTS)
            return false;
        if (d->seq < l->floors[d->client])
            continue;
        if (!dedup_is_known(shape, d))
            return false;
        seen++;
    }
    return seen == needed;
}

static inline bool blocks_match(struct store *s, uint32_t item, const struct shape *shape,
                                const struct store_object *o)
{
    struct store_id id = {1, item_object(item)};
    uint8_t block[STORE_BLOCK];

    for (uint32_t b = 0; b < LEDGER_BLOCKS; b++) {
        uint32_t crc = 0;
        if (((o->present[0] >> b & 1) != 0) != (shape->values[b] != 0))
            return false;
        if (shape->values[b] == 0)
            continue;
        block_fill(block, shape->values[b]);
        if (!store_block_crc(s, &id, b, &crc) ||
            crc != crc32c_block(id.image, id.object, b, block, STORE_BLOCK))
            return false;
    }
    return o->present[0] >> LEDGER_BLOCKS == 0;
}

static inline bool shape_matches(struct ledger *l, struct store *s, uint32_t item,
                                 const struct shape *shape)
{
    struct store_id id = {1, item_object(item)};
    struct store_object o;

    if (!store_lookup(s, &id, &o))
        return !shape->there || shape_is_trimmable(l, item, shape);
    return shape->there && o.version == shape->version && o.deleted == shape->deleted &&
           o.prepared == shape->pending.version && o.pg == item_pg(item) &&
           blocks_match(s, item, shape, &o) && dedups_match(l, s, item, shape);
}

/* The state that the object is in, from the last acked one on; -1: none of them. */
static inline int ledger_find(struct ledger *l, struct store *s, uint32_t item)
{
    const struct item *it = &l->items[item];

    for (uint32_t k = it->acked; k < it->count; k++) {
        if (shape_matches(l, s, item, &it->shapes[k]))
            return (int)k;
    }
    return -1;
}

static inline bool ledger_read_shows(const struct op *op, const struct shape *shape)
{
    for (uint32_t b = 0; b < op->r.len / STORE_BLOCK; b++) {
        if (!block_is(op->data + (size_t)b * STORE_BLOCK,
                      shape->values[op->r.offset / STORE_BLOCK + b]))
            return false;
    }
    return true;
}

static inline int op_read_prepared(struct op *op, uint64_t object)
{
    op->done = false;
    memset(op->data, 0x5a, LEDGER_BLOCKS * STORE_BLOCK);
    op->r = (struct store_read){
        .id = {1, object},
        .len = LEDGER_BLOCKS * STORE_BLOCK,
        .buf = op->data,
        .crcs = op->crcs,
        .prepared = true,
        .done = op_on_read,
    };
    store_read_start(op->world->store, &op->r);
    assert_true(world_wait(op->world, &op->done, 60 * NS_PER_S));
    return op->r.result;
}

static inline void ledger_read_prepared(struct ledger *l, struct op *op, uint32_t item,
                                        const struct shape *shape)
{
    struct shape committed = *shape;
    int got = op_read_prepared(op, item_object(item));

    if (got == -EIO && l->device_fails)
        got = op_read_prepared(op, item_object(item)); /* only once */
    if (shape->pending.version == 0) {
        if (got != -ENOENT)
            ledger_fault(l, "object %u: a read of no prepared version ends with %d", item, got);
        return;
    }
    shape_commit(&committed);
    if (got != 0 || op->r.version != committed.version || !ledger_read_shows(op, &committed))
        ledger_fault(l, "object %u: the prepared version is another one (%d)", item, got);
}

/* Read all of an object. */
static inline void ledger_read(struct ledger *l, struct world *w, uint32_t item,
                               const struct shape *shape)
{
    struct op *op = l->jobs[0].op;
    struct world *own = op->world;

    op->world = w;
    int got = op_read(op, item_object(item), 0, LEDGER_BLOCKS);
    if (got == -EIO && l->device_fails)
        got = op_read(op, item_object(item), 0, LEDGER_BLOCKS); /* only once */
    if (got != (shape->there ? 0 : -ENOENT) &&
        !(got == -ENOENT && shape_is_trimmable(l, item, shape)))
        ledger_fault(l, "object %u: a read ends with %d", item, got);
    else if (!ledger_read_shows(op, shape))
        ledger_fault(l, "object %u: a read shows something else", item);
    ledger_read_prepared(l, op, item, shape);
    op->world = own;
}

/*
 * The store of `w` was just opened after what this ledger knows: each object in one state, all
 * content read back. With `adopt` these states are what there is from now on.
 */
static inline bool ledger_check(struct ledger *l, struct world *w, bool adopt)
{
    for (uint32_t i = 0; i < LEDGER_ITEMS && l->error[0] == 0; i++) {
        struct item *it = &l->items[i];
        int k = ledger_find(l, w->store, i);
        if (k < 0) {
            struct store_object o = {0};
            bool there = store_lookup(w->store, &(struct store_id){1, item_object(i)}, &o);
            ledger_fault(l, "object %u is in no state from %u to %u (%s, version %llu)", i,
                         it->acked, it->count - 1, there ? "there" : "not there",
                         (unsigned long long)o.version);
            return false;
        }
        ledger_read(l, w, i, &it->shapes[k]);
        if (adopt) {
            it->shapes[0] = it->shapes[k];
            it->count = 1;
            it->acked = 0;
        }
    }
    return l->error[0] == 0;
}

/* ---- Writes ---- */

static inline void job_on_written(struct store_write *w)
{
    struct job *j = w->priv;
    struct ledger *l = j->ledger;
    struct item *it = &l->items[j->item];

    j->busy = false;
    if (w->result == -ENOSPC || (w->result == -EIO && l->device_fails) ||
        (w->result == j->expected && j->expected != 0))
        return;
    if (w->result != 0 || j->expected != 0)
        ledger_fault(l, "object %u: a write ends with %d", j->item, w->result);
    if (j->shape <= it->acked)
        ledger_fault(l, "object %u: state %u acked after state %u", j->item, j->shape, it->acked);
    it->acked = j->shape;
    l->writes_acked++;
}

static inline void job_on_read(struct store_read *r)
{
    struct job *j = r->priv;
    struct ledger *l = j->ledger;
    struct item *it = &l->items[j->item];

    j->busy = false;
    if (r->result == -EIO && l->device_fails)
        return;
    for (uint32_t k = j->shape; k < it->count; k++) {
        bool shows = r->result == 0 || r->result == -ENOENT;
        for (uint32_t b = 0; b < LEDGER_BLOCKS && shows; b++)
            shows = block_is(j->op->data + (size_t)b * STORE_BLOCK, it->shapes[k].values[b]);
        if (shows)
            return;
    }
    ledger_fault(l, "object %u: a read (%d) shows no state", j->item, r->result);
}

static inline void job_list(struct job *j, struct shape *shape, uint32_t count)
{
    struct ledger *l = j->ledger;

    if (count == 0 || shape->groups_count >= LEDGER_GROUPS - 1)
        return;
    struct group g = {1 + l->seq % LEDGER_CLIENTS, l->seq + 1, ++l->version, count};
    l->seq += count;
    for (uint32_t i = 0; i < count; i++)
        j->dedups[i] = (struct store_dedup){g.client, g.first + i, g.version};
    shape->groups[shape->groups_count++] = g;
    j->op->w.dedups = j->dedups;
    j->op->w.dedups_count = count;
}

static inline void job_client(struct job *j, struct shape *shape, const struct step *st)
{
    struct ledger *l = j->ledger;
    struct store_write *w = &j->op->w;

    if (st->quiet || shape->groups_count == LEDGER_GROUPS)
        return;
    w->client = 1 + l->seq % LEDGER_CLIENTS;
    w->seq = ++l->seq;
    shape->groups[shape->groups_count++] = (struct group){w->client, w->seq, w->version, 1};
}

static inline void job_replace(struct job *j, struct shape *shape, const struct step *st)
{
    struct op *op = j->op;
    uint32_t n = 0;

    op->w.deleted = st->present == 0;
    op->w.present[0] = st->present;
    shape->groups_count = 0; /* all of them are above 0 */
    shape->pending = (struct pending){0};
    job_list(j, shape, st->list);
    for (uint32_t b = 0; b < LEDGER_BLOCKS; b++) {
        shape->values[b] = 0;
        if ((st->present >> b & 1) == 0)
            continue;
        uint8_t *block = op->data + (size_t)n * STORE_BLOCK;
        shape->values[b] = ++j->ledger->value;
        block_fill(block, shape->values[b]);
        op->crcs[n++] = crc32c_block(1, op->w.id.object, b, block, STORE_BLOCK);
    }
    shape->deleted = op->w.deleted;
}

static inline void job_range(struct job *j, struct shape *shape, const struct step *st)
{
    struct ledger *l = j->ledger;
    bool writes = st->kind == STEP_WRITE;

    op_prepare_range(j->op, writes ? STORE_WRITE : STORE_ZERO, j->op->w.id.object, j->op->w.version,
                     st->first, st->count, l->value + 1);
    for (uint32_t i = 0; i < st->count; i++)
        shape->values[st->first + i] = writes ? ++l->value : 0;
    shape->deleted = false;
    job_client(j, shape, st);
}

static inline void job_delete(struct job *j, struct shape *shape, const struct step *st)
{
    memset(shape->values, 0, sizeof(shape->values));
    shape->deleted = true;
    job_client(j, shape, st);
}

static inline void job_prepare(struct job *j, struct shape *shape, const struct step *st)
{
    struct ledger *l = j->ledger;
    struct store_write *w = &j->op->w;
    struct pending *p = &shape->pending;
    uint32_t count = st->deletes ? 0 : st->count;

    if (p->version != 0 && st->lower)
        w->version = p->version; /* instead of the one there is */
    else if (p->version != 0)
        shape_commit(shape);
    if (!shape->there)
        shape->deleted = true;
    shape->there = true;
    *p = (struct pending){.version = w->version, .deletes = st->deletes};
    w->deleted = st->deletes;
    w->zero = st->zero;
    w->offset = st->first * STORE_BLOCK;
    w->len = count * STORE_BLOCK;
    if (!st->zero)
        op_fill(j->op, w->id.object, st->first, count, l->value + 1);
    for (uint32_t i = 0; i < count; i++) {
        p->values[st->first + i] = st->zero ? 0 : ++l->value;
        p->touched |= (uint64_t)1 << (st->first + i);
    }
    job_client(j, shape, st);
}

static inline void job_commit(struct job *j, struct shape *shape)
{
    if (shape->pending.version == 0) {
        j->expected = -ENOENT;
        return;
    }
    j->op->w.version = shape->pending.version;
    shape_commit(shape);
}

/* With the version its dedup record goes. */
static inline void job_rollback(struct job *j, struct shape *shape)
{
    uint32_t n = 0;

    if (shape->pending.version == 0)
        return;
    j->op->w.version = shape->pending.version;
    shape->pending = (struct pending){0};
    for (uint32_t i = 0; i < shape->groups_count; i++) {
        if (shape->groups[i].version != j->op->w.version)
            shape->groups[n++] = shape->groups[i];
    }
    shape->groups_count = n;
    if (shape->version == 0 && n == 0)
        *shape = (struct shape){0};
}

static inline enum store_write_kind step_write_kind(enum step_kind kind)
{
    static const enum store_write_kind kinds[STEP_KINDS] = {
        [STEP_WRITE] = STORE_WRITE,     [STEP_ZERO] = STORE_ZERO,
        [STEP_DELETE] = STORE_DELETE,   [STEP_PREPARE] = STORE_PREPARE,
        [STEP_COMMIT] = STORE_COMMIT,   [STEP_ROLLBACK] = STORE_ROLLBACK,
        [STEP_REPLACE] = STORE_REPLACE, [STEP_DEDUP] = STORE_DEDUP,
        [STEP_PURGE] = STORE_PURGE,
    };

    return kinds[kind];
}

/* What makes another version at once. */
static inline void job_change(struct job *j, struct shape *shape, const struct step *st)
{
    if (st->kind != STEP_REPLACE && shape->pending.version != 0) {
        j->expected = -EBUSY;
        if (st->kind != STEP_DELETE)
            op_prepare_range(j->op, STORE_ZERO, j->op->w.id.object, j->op->w.version, st->first,
                             st->count, 0);
        return;
    }
    if (st->kind == STEP_REPLACE && st->lower && shape->version > 1)
        j->op->w.version = shape->version - 1;
    shape->version = j->op->w.version;
    shape->there = true;
    if (st->kind == STEP_REPLACE)
        job_replace(j, shape, st);
    else if (st->kind == STEP_DELETE)
        job_delete(j, shape, st);
    else
        job_range(j, shape, st);
}

/* Fill in the write, and what it makes of the state before it. */
static inline void job_generate(struct job *j, struct shape *shape, const struct step *st)
{
    op_prepare(j->op, step_write_kind(st->kind), item_object(j->item), ++j->ledger->version);
    j->expected = 0;
    if (st->kind == STEP_PREPARE) {
        job_prepare(j, shape, st);
    } else if (st->kind == STEP_COMMIT) {
        job_commit(j, shape);
    } else if (st->kind == STEP_ROLLBACK) {
        job_rollback(j, shape);
    } else if (st->kind == STEP_PURGE) {
        *shape = (struct shape){0};
    } else if (st->kind == STEP_DEDUP) {
        job_list(j, shape, st->list);
        if (!shape->there)
            shape->deleted = true;
        shape->there = true;
    } else {
        job_change(j, shape, st);
    }
    j->op->w.priv = j;
    j->op->w.done = job_on_written;
}

static inline struct job *ledger_job(struct ledger *l)
{
    for (uint32_t i = 0; i < LEDGER_JOBS; i++) {
        if (!l->jobs[i].busy)
            return &l->jobs[i];
    }
    return NULL;
}

static inline bool ledger_is_idle(void *arg)
{
    const struct ledger *l = arg;

    for (uint32_t i = 0; i < LEDGER_JOBS; i++) {
        if (l->jobs[i].busy)
            return false;
    }
    return true;
}

static inline bool ledger_wait(struct ledger *l)
{
    if (!ledger_is_idle(l) &&
        !sim_run_until_true(l->w->sim, ledger_is_idle, l, sim_now(l->w->sim) + 20 * NS_PER_S))
        ledger_fault(l, "an operation does not end");
    return l->error[0] == 0;
}

/* The group of a shape whose records nobody needs any more goes. */
static inline void shape_drop_floored(const struct ledger *l, struct shape *s)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->groups_count; i++) {
        if (group_needed(l, &s->groups[i]) > 0)
            s->groups[n++] = s->groups[i];
    }
    s->groups_count = n;
}

static inline void ledger_start_write(struct ledger *l, const struct step *st)
{
    struct item *it = &l->items[st->item];
    struct job *j = ledger_job(l);
    struct store_object o;

    if (j == NULL && ledger_wait(l))
        j = ledger_job(l);
    if (j == NULL)
        return;
    /* A tombstone that was forgotten: what comes now begins from nothing, though a restart may
     * still find it. */
    if (shape_is_trimmable(l, st->item, item_newest(it)) &&
        !store_lookup(l->w->store, &(struct store_id){1, item_object(st->item)}, &o))
        *item_push(it) = (struct shape){0};
    struct shape *shape = item_push(it);
    shape_drop_floored(l, shape);
    j->item = st->item;
    j->shape = it->count - 1;
    j->busy = true;
    j->reading = false;
    job_generate(j, shape, st);
    store_write_start(l->w->store, &j->op->w);
    if (j->op->w.result == -ENOSPC || j->expected != 0) { /* nothing changes */
        it->count--;
        l->writes_refused++;
    }
}

static inline void ledger_start_read(struct ledger *l, const struct step *st)
{
    struct job *j = ledger_job(l);

    if (j == NULL)
        return;
    j->item = st->item;
    j->shape = l->items[st->item].acked;
    j->busy = true;
    j->reading = true;
    j->op->r = (struct store_read){
        .id = {1, item_object(st->item)},
        .len = LEDGER_BLOCKS * STORE_BLOCK,
        .buf = j->op->data,
        .crcs = j->op->crcs,
        .done = job_on_read,
        .priv = j,
    };
    store_read_start(l->w->store, &j->op->r);
}

/* What was in flight comes back no more. */
static inline void ledger_forget_jobs(struct ledger *l)
{
    for (uint32_t i = 0; i < LEDGER_JOBS; i++)
        l->jobs[i].busy = false;
}

/* The process ends, another one begins, and what it finds is right. */
static inline void ledger_restart(struct ledger *l, bool power_loss)
{
    world_crash(l->w, power_loss);
    ledger_forget_jobs(l);
    int result = world_open(l->w);
    if (result != 0)
        ledger_fault(l, "a start ends with %d: it %s", result, l->w->open.error);
    else
        ledger_check(l, l->w, true);
}

/* All is answered: the newest state is the only one. */
static inline void ledger_settle(struct ledger *l)
{
    for (uint32_t i = 0; i < LEDGER_ITEMS; i++) {
        struct item *it = &l->items[i];
        it->shapes[0] = *item_newest(it);
        it->count = 1;
        it->acked = 0;
    }
}

static inline void ledger_trim(struct ledger *l, uint32_t item)
{
    uint64_t *trimmed = &l->trimmed[item_pg(item)];
    uint64_t version = item_newest(&l->items[item])->version;

    if (version > *trimmed)
        *trimmed = version;
    store_trim(l->w->store, item_pg(item), *trimmed);
}

static inline void ledger_floor(struct ledger *l, uint32_t item)
{
    uint64_t client = 1 + item % LEDGER_CLIENTS;

    l->floors[client] = l->seq > 20 ? l->seq - 20 : 0;
    for (uint64_t pg = 0; pg < 2; pg++)
        store_dedup_floor(l->w->store, pg, client, l->floors[client]);
}

static inline void ledger_step(struct ledger *l, const struct step *st)
{
    switch (st->kind) {
    case STEP_WRITE:
    case STEP_ZERO:
    case STEP_DELETE:
    case STEP_REPLACE:
    case STEP_DEDUP:
    case STEP_PURGE:
    case STEP_PREPARE:
    case STEP_COMMIT:
    case STEP_ROLLBACK:
        ledger_start_write(l, st);
        break;
    case STEP_TRIM:
        ledger_trim(l, st->item);
        break;
    case STEP_FLOOR:
        ledger_floor(l, st->item);
        break;
    case STEP_READ:
        ledger_start_read(l, st);
        break;
    case STEP_WAIT:
        ledger_wait(l);
        break;
    case STEP_SETTLE:
        if (ledger_wait(l))
            world_settle(l->w);
        break;
    case STEP_CRASH:
    case STEP_RESTART:
        ledger_restart(l, st->kind == STEP_RESTART);
        break;
    case STEP_KINDS:
        never("not a step");
    }
    if (st->pause_ns > 0 && l->error[0] == 0)
        world_run(l->w, st->pause_ns);
}

/* ---- One crash looked at ---- */

/*
 * Another host, into whose disk images are put: what the first one's crash would leave is opened
 * and compared there, while the first one goes on.
 */
struct probe {
    struct world w;
    struct ledger ledger;
    uint64_t states; /* looked at */
    uint64_t starts_cut;
};

static inline void probe_init(struct probe *m, uint64_t seed)
{
    world_create(&m->w, &(struct sim_config){.seed = seed});
    world_format_store(&m->w);
    ledger_init(&m->ledger, &m->w);
}

static inline void probe_deinit(struct probe *m)
{
    world_deinit(&m->w);
    ledger_deinit(&m->ledger);
}

/* After a crash that left the image like this: is all right that the ledger knows? In `m->ledger`
 * is what was found, and the store stays open. */
static inline bool probe_look(struct probe *m, const struct sim_image *image,
                              const struct sim_page_choice *choices, bool power_loss,
                              const struct ledger *known)
{
    m->states++;
    ledger_copy(&m->ledger, known);
    world_crash(&m->w, false);
    assert_int_equal(sim_image_put(m->w.host, WORLD_PATH, image, choices, power_loss), 0);
    int result = world_open(&m->w);
    if (result != 0)
        ledger_fault(&m->ledger, "the start ends with %d: it %s", result, m->w.open.error);
    else
        ledger_check(&m->ledger, &m->w, true);
    return m->ledger.error[0] == 0;
}

/* What it found it finds again, and the store works. */
static inline bool probe_look_again(struct probe *m, bool power_loss)
{
    struct ledger *l = &m->ledger;

    ledger_restart(l, power_loss);
    for (uint32_t i = 0; i < LEDGER_ITEMS && l->error[0] == 0; i++)
        ledger_step(l, &(struct step){.kind = STEP_WRITE, .item = i, .first = i, .count = 2});
    if (l->error[0] == 0 && ledger_wait(l))
        ledger_restart(l, power_loss);
    return l->error[0] == 0;
}

/* Of each sector any of the contents that the page may have. */
static inline void choice_torn(struct sim_page_choice *c, struct prng *p, uint32_t from,
                               uint32_t contents)
{
    for (uint32_t i = 0; i < COUNT_OF(c->sectors); i++)
        c->sectors[i] = (uint8_t)(from + prng_below(p, contents - from));
}

#endif /* TEST_STORE_LEDGER_H */
