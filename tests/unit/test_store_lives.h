/*
 * Random lives of one small store, against a model: each object is a list of the states that were
 * submitted, and the last one that was acknowledged. After a crash the object must be in one
 * of the states from there on, and everything in it of that state.
 *
 * Two things are made scarce so that they run out all the time: free slots (most of the device is
 * marked as used), and the ring (long lists of dedup records fill it).
 */

#ifndef TEST_STORE_LIVES_H
#define TEST_STORE_LIVES_H

#include "test_store_world.h"

enum {
    OBJECTS = 20,
    BLOCKS = 16, /* of an object, at most */
    GROUPS = 24, /* of dedup records, of a state */
    OPS = 64,
    CLIENTS = 5,
    DEDUPS_MAX = 3000, /* in one list; it takes 18 blocks of the ring */
    FREE_SLOTS = OBJECTS * BLOCKS + 100,
};

/* Requests first .. first + count - 1 of a client, executed as `version`. */
struct group {
    uint64_t client, first, version;
    uint32_t count;
};

/* One more version, on top of what is. */
struct pending {
    uint64_t version; /* 0: none */
    bool clear;       /* it is a tombstone */
    uint64_t touched; /* blocks */
    uint64_t values[BLOCKS];
};

struct state {
    bool there, deleted;
    uint64_t version;
    uint64_t values[BLOCKS]; /* 0: a hole */
    struct pending pending;
    struct group groups[GROUPS];
    uint32_t groups_count;
};

struct model {
    struct store_id id;
    struct state *states;
    uint32_t count, capacity;
    uint32_t acked;
};

struct slot {
    struct op *op;
    struct life *life;
    bool busy, reading;
    uint32_t object, state; /* write: the state it makes; read: the last acked when it began */
    uint64_t started;
    int expected; /* not 0: it is refused, and changes nothing */
    struct store_dedup *dedups;
};

struct life {
    struct world w;
    struct prng *p;
    struct model models[OBJECTS];
    struct slot slots[OPS];
    struct store_dedup *found; /* room for a list */
    uint64_t version, value, seq;
    uint64_t floors[CLIENTS + 1];
    uint64_t trimmed[2]; /* by PG */
    uint64_t ballast, ring;
    uint32_t boots;
    uint32_t incarnation; /* the last one that was told */
    uint32_t objects;    /* of the seed: few, and the tail of the ring jumps; many, and it creeps */
    uint32_t active;     /* that are written to in this life; the others grow old */
    uint32_t big_chance; /* per cent of lists that are long */
    uint32_t list_max;
    bool flood; /* most writes are long records that replace each other, all around */
    uint32_t turn;
    struct {
        uint64_t writes, reads, cleaned, laps, dropped, discarded;
    } total;
    char error[200];
};

#define fault(life, ...)                                                 \
    do {                                                                 \
        if ((life)->error[0] == 0)                                       \
            snprintf((life)->error, sizeof((life)->error), __VA_ARGS__); \
    } while (0)

/* ---- The model ---- */

static inline struct state *model_newest(struct model *m)
{
    return &m->states[m->count - 1];
}

static inline struct state *model_push(struct model *m)
{
    if (m->count == m->capacity) {
        m->capacity = m->capacity == 0 ? 16 : 2 * m->capacity;
        m->states = mem_realloc(m->states, m->capacity * sizeof(*m->states));
    }
    m->states[m->count] = m->count == 0 ? (struct state){0} : m->states[m->count - 1];
    return &m->states[m->count++];
}

/* A tombstone that may be forgotten. */
static inline bool state_is_trimmable(const struct life *l, const struct model *m,
                                      const struct state *s)
{
    return s->there && s->deleted && s->pending.version == 0 &&
           s->version <= l->trimmed[m->id.object % 2];
}

/* Records below the floor may be there or not. */
static inline uint32_t group_needed(const struct life *l, const struct group *g)
{
    uint64_t floor = l->floors[g->client];

    if (g->first >= floor)
        return g->count;
    return g->first + g->count > floor ? (uint32_t)(g->first + g->count - floor) : 0;
}

static inline void state_drop_floored(const struct life *l, struct state *s)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->groups_count; i++) {
        if (group_needed(l, &s->groups[i]) > 0)
            s->groups[n++] = s->groups[i];
    }
    s->groups_count = n;
}

static inline void state_drop_above(struct state *s, uint64_t above)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->groups_count; i++) {
        if (s->groups[i].version <= above)
            s->groups[n++] = s->groups[i];
    }
    s->groups_count = n;
}

/* Its request was not answered: as if it had never come. */
static inline void state_drop_version(struct state *s, uint64_t version)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->groups_count; i++) {
        if (s->groups[i].version != version)
            s->groups[n++] = s->groups[i];
    }
    s->groups_count = n;
}

static inline uint64_t pending_value(const struct state *s, uint32_t block)
{
    const struct pending *p = &s->pending;

    if (p->version == 0)
        return 0;
    return (p->touched >> block & 1) != 0 ? p->values[block] : p->clear ? 0 : s->values[block];
}

static inline void state_commit(struct state *s)
{
    for (uint32_t b = 0; b < BLOCKS; b++)
        s->values[b] = pending_value(s, b);
    s->version = s->pending.version;
    s->deleted = s->pending.clear;
    s->pending = (struct pending){0};
}

/* ---- Is the object in this state? ---- */

static inline bool dedups_match(struct life *l, const struct model *m, const struct state *s)
{
    uint32_t needed = 0, seen = 0;
    uint32_t count = store_dedup_list(l->w.store, &m->id, 0, l->found, RECORD_DEDUPS_MAX);

    if (count > RECORD_DEDUPS_MAX)
        return false;
    for (uint32_t i = 0; i < s->groups_count; i++)
        needed += group_needed(l, &s->groups[i]);
    for (uint32_t i = 0; i < count; i++) {
        const struct store_dedup *d = &l->found[i];
        if (d->client > CLIENTS)
            return false;
        if (d->seq < l->floors[d->client])
            continue;
        bool known = false;
        for (uint32_t k = 0; k < s->groups_count && !known; k++) {
            const struct group *g = &s->groups[k];
            known = g->client == d->client && d->seq >= g->first && d->seq < g->first + g->count &&
                    d->version == g->version;
        }
        if (!known)
            return false;
        seen++;
    }
    return seen == needed;
}

static inline bool blocks_match(struct life *l, const struct model *m, const struct state *s,
                                const struct store_object *o)
{
    uint8_t block[STORE_BLOCK];

    for (uint32_t b = 0; b < BLOCKS; b++) {
        uint32_t crc = 0;
        if (((o->present[0] >> b & 1) != 0) != (s->values[b] != 0))
            return false;
        if (s->values[b] == 0)
            continue;
        block_fill(block, s->values[b]);
        if (!store_block_crc(l->w.store, &m->id, b, &crc) ||
            crc != crc32c_block(m->id.image, m->id.object, b, block, STORE_BLOCK))
            return false;
    }
    return o->present[0] >> BLOCKS == 0;
}

/* No call tells what a prepared version changes: it may be prepared again with other content. */
static inline bool pending_matches(struct life *l, const struct model *m, const struct state *s)
{
    const struct object *o = object_find(l->w.store, &m->id);
    const struct prepared *p = object_work(l->w.store, o)->prepared;
    uint8_t block[STORE_BLOCK];
    struct layout layout;

    prepared_changes(p, &layout);
    if (p->touched[0] != s->pending.touched || p->clear != s->pending.clear)
        return false;
    for (uint32_t b = 0; b < BLOCKS; b++) {
        block_fill(block, s->pending.values[b]);
        if ((layout_slot(&layout, b) != 0) != (s->pending.values[b] != 0))
            return false;
        if (layout_slot(&layout, b) != 0 &&
            layout.crcs[b] != crc32c_block(m->id.image, m->id.object, b, block, STORE_BLOCK))
            return false;
    }
    return true;
}

static inline bool state_matches(struct life *l, const struct model *m, const struct state *s,
                                 bool with_content)
{
    struct store_object o;

    if (!store_lookup(l->w.store, &m->id, &o))
        return !s->there || state_is_trimmable(l, m, s);
    /* A rollback forgets an object that nothing is left of; to a restarted store, which was not
     * told the floors yet, old requests are left. */
    if (!s->there && o.version == 0 && o.prepared == 0)
        return o.deleted && blocks_match(l, m, s, &o) && dedups_match(l, m, s);
    if (!s->there || o.version != s->version || o.deleted != s->deleted || o.pg != m->id.object % 2)
        return false;
    if (with_content &&
        (o.prepared != s->pending.version || (o.prepared != 0 && !pending_matches(l, m, s))))
        return false;
    return !with_content || (blocks_match(l, m, s, &o) && dedups_match(l, m, s));
}

static inline uint64_t model_live_blocks(struct life *l)
{
    uint64_t blocks = 0;

    for (uint32_t i = 0; i < OBJECTS; i++) {
        const struct state *s = model_newest(&l->models[i]);
        for (uint32_t b = 0; b < BLOCKS; b++)
            blocks += (uint64_t)(s->values[b] != 0) + (s->pending.values[b] != 0);
    }
    return blocks;
}

/* ---- Writes ---- */

static inline void life_on_written(struct store_write *w)
{
    struct slot *s = container_of(w, struct op, w)->world == NULL ? NULL : w->priv;
    struct life *l = s->life;
    struct model *m = &l->models[s->object];

    s->busy = false;
    if (w->result == -ENOSPC || (w->result == s->expected && s->expected != 0))
        return;
    if (w->result != 0)
        fault(l, "write of object %u (kind %u): %d", s->object, w->kind, w->result);
    if (s->state <= m->acked && m->acked != 0)
        fault(l, "object %u: state %u acked after state %u", s->object, s->state, m->acked);
    m->acked = s->state;
    l->total.writes++;
}

static inline struct slot *life_free_slot(struct life *l)
{
    for (uint32_t i = 0; i < OPS; i++) {
        if (!l->slots[i].busy)
            return &l->slots[i];
    }
    return NULL;
}

static inline uint32_t any_object(struct life *l)
{
    uint32_t object = (uint32_t)prng_below(l->p, l->objects);

    if (l->flood)
        object = l->turn++ % l->objects;
    while ((l->active >> object & 1) == 0 && !prng_chance(l->p, 1, 50))
        object = (uint32_t)prng_below(l->p, l->objects);
    return object;
}

static inline uint64_t any_seq(struct life *l, uint32_t count)
{
    uint64_t seq = l->seq + 1;

    l->seq += count;
    return seq;
}

static inline void slot_list_dedups(struct life *l, struct slot *s, struct state *state)
{
    struct store_write *w = &s->op->w;
    uint32_t count = prng_chance(l->p, l->flood ? 90 : l->big_chance, 100)
                         ? l->list_max / 2 + (uint32_t)prng_below(l->p, l->list_max / 2)
                         : (uint32_t)prng_below(l->p, 5);

    if (count == 0 || state->groups_count >= GROUPS - 1)
        return;
    struct group g = {1 + prng_below(l->p, CLIENTS), any_seq(l, count), ++l->version, count};
    for (uint32_t i = 0; i < count; i++)
        s->dedups[i] = (struct store_dedup){g.client, g.first + i, g.version};
    state->groups[state->groups_count++] = g;
    w->dedups = s->dedups;
    w->dedups_count = count;
}

static inline void slot_replace(struct life *l, struct slot *s, struct state *state)
{
    struct op *op = s->op;
    uint32_t n = 0;

    op->w.deleted = prng_chance(l->p, 1, 6);
    op->w.dedup_above = l->flood || prng_chance(l->p, 1, 2) ? 0 : prng_below(l->p, l->version);
    state_drop_above(state, op->w.dedup_above);
    slot_list_dedups(l, s, state);
    state->there = true;
    state->deleted = op->w.deleted;
    for (uint32_t b = 0; b < BLOCKS; b++) {
        state->values[b] = 0;
        if (op->w.deleted || prng_chance(l->p, 1, 2))
            continue;
        uint8_t *block = op->data + (size_t)n * STORE_BLOCK;
        state->values[b] = ++l->value;
        block_fill(block, l->value);
        op->crcs[n++] = crc32c_block(1, op->w.id.object, b, block, STORE_BLOCK);
        op->w.present[0] |= (uint64_t)1 << b;
    }
}

static inline void slot_range(struct life *l, struct slot *s, struct state *state,
                              enum store_write_kind kind)
{
    uint32_t first = (uint32_t)prng_below(l->p, BLOCKS);
    uint32_t count = 1 + (uint32_t)prng_below(l->p, BLOCKS - first);

    if (prng_chance(l->p, 1, 2))
        count = 1;
    op_prepare_range(s->op, kind, s->op->w.id.object, s->op->w.version, first, count, l->value + 1);
    for (uint32_t i = 0; i < count; i++)
        state->values[first + i] = kind == STORE_WRITE ? ++l->value : 0;
    state->there = true;
    state->deleted = false;
}

static inline void slot_client(struct life *l, struct slot *s, struct state *state)
{
    struct store_write *w = &s->op->w;

    if (state->groups_count == GROUPS || prng_chance(l->p, 1, 3))
        return;
    w->client = 1 + prng_below(l->p, CLIENTS);
    w->seq = any_seq(l, 1);
    state->groups[state->groups_count++] = (struct group){w->client, w->seq, w->version, 1};
}

/* ---- Steps of erasure coding ---- */

static inline void slot_prepare(struct life *l, struct slot *s, struct state *state)
{
    struct store_write *w = &s->op->w;
    struct pending *p = &state->pending;
    uint32_t first = (uint32_t)prng_below(l->p, BLOCKS);
    uint32_t count = prng_chance(l->p, 1, 6) ? 0 : 1 + (uint32_t)prng_below(l->p, BLOCKS - first);
    bool again = p->version != 0 && prng_chance(l->p, 1, 4);

    if (again)
        w->version = p->version;
    else if (p->version != 0)
        state_commit(state);
    if (again && p->version > 1 && prng_chance(l->p, 1, 8)) { /* not above what is: refused */
        w->version = state->version == 0 ? 1 : state->version;
        s->expected = -ESTALE;
    }
    if (!state->there)
        state->deleted = true;
    state->there = true;
    *p = (struct pending){.version = w->version, .clear = prng_chance(l->p, 1, 8)};
    w->deleted = p->clear;
    w->zero = prng_chance(l->p, 1, 4);
    if (p->clear)
        count = 0;
    w->offset = first * STORE_BLOCK;
    w->len = count * STORE_BLOCK;
    if (!w->zero)
        op_fill(s->op, w->id.object, first, count, l->value + 1);
    for (uint32_t i = 0; i < count; i++) {
        p->values[first + i] = w->zero ? 0 : ++l->value;
        p->touched |= (uint64_t)1 << (first + i);
    }
    slot_client(l, s, state);
}

static inline void slot_commit(struct life *l, struct slot *s, struct state *state)
{
    struct store_write *w = &s->op->w;
    uint64_t dice = prng_below(l->p, 20);

    if (dice == 0 && state->version != 0) { /* again */
        w->version = state->version;
    } else if (dice == 1 || state->pending.version == 0) {
        s->expected = -ENOENT;
    } else {
        w->version = state->pending.version;
        state_commit(state);
    }
}

static inline void slot_rollback(struct life *l, struct slot *s, struct state *state)
{
    struct store_write *w = &s->op->w;
    uint64_t dice = prng_below(l->p, 20);

    if (dice == 0 && state->version != 0) {
        w->version = state->version;
        s->expected = -ESTALE;
    } else if (dice > 1 && state->pending.version != 0) {
        w->version = state->pending.version;
        state->pending = (struct pending){0};
        state_drop_version(state, w->version);
        if (state->version == 0 && state->groups_count == 0)
            *state = (struct state){0};
    }
}

static inline enum store_write_kind any_kind(struct life *l, const struct state *state)
{
    uint64_t dice = prng_below(l->p, 100);

    if (state->pending.version == 0 && dice < 80)
        return dice < 42   ? STORE_WRITE
               : dice < 50 ? STORE_ZERO
               : dice < 56 ? STORE_DELETE
               : dice < 66 ? STORE_REPLACE
               : dice < 77 ? STORE_DEDUP
                           : STORE_PURGE;
    if (state->pending.version == 0)
        return dice < 97 ? STORE_PREPARE : dice < 98 ? STORE_COMMIT : STORE_ROLLBACK;
    return dice < 40   ? STORE_COMMIT
           : dice < 65 ? STORE_PREPARE
           : dice < 85 ? STORE_ROLLBACK
           : dice < 90 ? STORE_REPLACE
           : dice < 98 ? STORE_DEDUP
                       : STORE_PURGE;
}

/* Fill in the write, and the state it makes. */
static inline void slot_generate(struct life *l, struct slot *s, struct state *state)
{
    uint64_t object = l->models[s->object].id.object;
    enum store_write_kind kind = any_kind(l, state);

    s->expected = 0;
    if (l->flood && prng_chance(l->p, 5, 6))
        kind = STORE_REPLACE;
    op_prepare(s->op, kind, object, ++l->version);
    if (kind == STORE_REPLACE && prng_chance(l->p, 1, 3))
        s->op->w.version = 1 + prng_below(l->p, l->version);
    switch (kind) {
    case STORE_WRITE:
    case STORE_ZERO:
        slot_range(l, s, state, kind);
        slot_client(l, s, state);
        break;
    case STORE_DELETE:
        memset(state->values, 0, sizeof(state->values));
        state->there = true;
        state->deleted = true;
        slot_client(l, s, state);
        break;
    case STORE_REPLACE:
        state->pending = (struct pending){0};
        slot_replace(l, s, state);
        break;
    case STORE_DEDUP:
        slot_list_dedups(l, s, state);
        if (!state->there) {
            state->deleted = true;
            state->version = 0;
        }
        state->there = true;
        break;
    case STORE_PURGE:
        *state = (struct state){0};
        break;
    case STORE_PREPARE:
        slot_prepare(l, s, state);
        break;
    case STORE_COMMIT:
        slot_commit(l, s, state);
        break;
    case STORE_ROLLBACK:
        slot_rollback(l, s, state);
        break;
    }
    if (kind <= STORE_REPLACE)
        state->version = s->op->w.version;
    s->op->w.priv = s;
    s->op->w.done = life_on_written;
}

/* What a step does shows when its turn has come. */
static inline bool has_steps(const struct life *l, uint32_t object)
{
    for (uint32_t i = 0; i < OPS; i++) {
        const struct slot *s = &l->slots[i];
        if (s->busy && !s->reading && s->object == object && s->op->w.kind >= STORE_PREPARE)
            return true;
    }
    return false;
}

static inline void life_write(struct life *l)
{
    struct slot *s = life_free_slot(l);
    struct store_object o;

    if (s == NULL)
        return;
    s->object = any_object(l);
    struct model *m = &l->models[s->object];
    /* A tombstone that was forgotten: what comes now begins from nothing, though a restart may
     * still find it. */
    if (state_is_trimmable(l, m, model_newest(m)) && !store_lookup(l->w.store, &m->id, &o))
        *model_push(m) = (struct state){0};
    struct state *state = model_push(m);
    state_drop_floored(l, state);
    slot_generate(l, s, state);
    s->state = m->count - 1;
    s->busy = true;
    s->reading = false;
    s->started = sim_now(l->w.sim);
    store_write_start(l->w.store, &s->op->w);
    if (s->op->w.result == -ENOSPC || s->expected != 0)
        m->count--;
    if (!has_steps(l, s->object) && !state_matches(l, m, model_newest(m), false))
        fault(l, "object %u: the index does not show what was submitted (kind %u, result %d)",
              s->object, s->op->w.kind, s->op->w.result);
    if (s->op->w.client != 0 && s->op->w.result == 0) {
        uint64_t version = 0;
        if (!store_dedup_find(l->w.store, s->op->w.pg, s->op->w.client, s->op->w.seq, &version) ||
            version != s->op->w.version)
            fault(l, "object %u: the dedup record is not there at once", s->object);
    }
}

/* ---- Reads ---- */

static inline bool read_shows(const struct slot *s, const struct state *state)
{
    const struct store_read *r = &s->op->r;

    for (uint32_t i = 0; i < r->len / STORE_BLOCK; i++) {
        uint32_t b = r->offset / STORE_BLOCK + i;
        if (!block_is(s->op->data + (size_t)i * STORE_BLOCK,
                      r->prepared ? pending_value(state, b) : state->values[b]))
            return false;
    }
    return true;
}

static inline void life_on_read(struct store_read *r)
{
    struct slot *s = r->priv;
    struct life *l = s->life;
    struct model *m = &l->models[s->object];

    s->busy = false;
    l->total.reads++;
    if (r->result != 0 && r->result != -ENOENT) {
        fault(l, "read of object %u: %d", s->object, r->result);
        return;
    }
    for (uint32_t i = 0; i < r->len / STORE_BLOCK; i++) {
        if (r->crcs[i] != crc32c_block(1, r->id.object, r->offset / STORE_BLOCK + i,
                                       s->op->data + (size_t)i * STORE_BLOCK, STORE_BLOCK))
            fault(l, "read of object %u: a wrong crc", s->object);
    }
    for (uint32_t i = s->state; i < m->count; i++) {
        if (read_shows(s, &m->states[i]))
            return;
    }
    fault(l, "read of object %u: shows no state from %u to %u", s->object, s->state, m->count - 1);
}

static inline void life_read(struct life *l)
{
    struct slot *s = life_free_slot(l);

    if (s == NULL)
        return;
    s->object = any_object(l);
    struct model *m = &l->models[s->object];
    uint32_t first = (uint32_t)prng_below(l->p, BLOCKS);
    uint32_t count = 1 + (uint32_t)prng_below(l->p, BLOCKS - first);
    s->state = m->acked;
    s->busy = true;
    s->reading = true;
    s->started = sim_now(l->w.sim);
    s->op->r = (struct store_read){
        .id = m->id,
        .offset = first * STORE_BLOCK,
        .len = count * STORE_BLOCK,
        .buf = s->op->data,
        .crcs = s->op->crcs,
        .prepared = prng_chance(l->p, 1, 4),
        .done = life_on_read,
        .priv = s,
    };
    store_read_start(l->w.store, &s->op->r);
}

/* ---- The rest of life ---- */

static inline void life_floor(struct life *l)
{
    uint64_t client = 1 + prng_below(l->p, CLIENTS);
    uint64_t back = prng_below(l->p, 200);
    uint64_t floor = l->seq > back ? l->seq - back : 0;

    if (floor < l->floors[client])
        return;
    l->floors[client] = floor;
    for (uint64_t pg = 0; pg < 2; pg++)
        store_dedup_floor(l->w.store, pg, client, floor);
}

static inline void life_trim(struct life *l)
{
    uint64_t pg = prng_below(l->p, 2);
    uint64_t floor = prng_below(l->p, l->version + 1);

    if (floor > l->trimmed[pg])
        l->trimmed[pg] = floor;
    store_trim(l->w.store, pg, l->trimmed[pg]);
}

static inline void life_run(struct life *l)
{
    uint64_t dice = prng_below(l->p, 100);

    world_run(&l->w, dice < 60   ? prng_below(l->p, 200 * 1000)
                     : dice < 97 ? prng_below(l->p, 2 * NS_PER_MS)
                                 : prng_below(l->p, 150 * NS_PER_MS));
    for (uint32_t i = 0; i < OPS; i++) {
        if (l->slots[i].busy && sim_now(l->w.sim) - l->slots[i].started > 5 * NS_PER_S)
            fault(l, "a %s of object %u does not end", l->slots[i].reading ? "read" : "write",
                  l->slots[i].object);
    }
}

static inline uint32_t life_busy_count(const struct life *l)
{
    uint32_t busy = 0;

    for (uint32_t i = 0; i < OPS; i++)
        busy += l->slots[i].busy;
    return busy;
}

/* All comes to an end, and then exactly what lives takes slots. */
static inline void life_settle(struct life *l)
{
    while (life_busy_count(l) > 0 && l->error[0] == 0)
        life_run(l);
    world_settle(&l->w);
    struct store_status st = world_status(&l->w);
    uint64_t live = model_live_blocks(l);
    if (l->error[0] == 0 && st.used_bytes / STORE_BLOCK != live + l->ballast)
        fault(l, "%llu slots are in use, %llu live",
              (unsigned long long)st.used_bytes / STORE_BLOCK,
              (unsigned long long)(live + l->ballast));
    if (l->error[0] == 0 && store_image_blocks(l->w.store, 1) != live)
        fault(l, "the image is said to have %llu blocks, it has %llu",
              (unsigned long long)store_image_blocks(l->w.store, 1), (unsigned long long)live);
    for (uint32_t i = 0; i < OBJECTS; i++) {
        if (!state_matches(l, &l->models[i], model_newest(&l->models[i]), true))
            fault(l, "object %u is not what was written last", i);
    }
}

/* Leave only so many slots free, as if others had the rest. */
static inline void life_squeeze(struct life *l)
{
    struct store *s = l->w.store;

    l->ballast = 0;
    for (uint64_t slot = s->slots.count;
         slot-- > 0 && s->slots.free + s->slots_live > FREE_SLOTS;) {
        if (slots_is_used(&s->slots, slot))
            continue;
        slots_mark(&s->slots, slot, true);
        l->ballast++;
    }
    s->slots_capacity = OBJECTS * BLOCKS - 10;
}

static inline void life_check_object(struct life *l, uint32_t i)
{
    struct model *m = &l->models[i];

    for (uint32_t k = m->acked; k < m->count; k++) {
        if (!state_matches(l, m, &m->states[k], true))
            continue;
        m->states[0] = m->states[k];
        m->count = 1;
        m->acked = 0;
        return;
    }
    struct store_object o = {0};
    bool there = store_lookup(l->w.store, &m->id, &o);
    fault(
        l,
        "boot %u: object %u is in no state from %u to %u (%s, version %llu, blocks %d, %u dedups)",
        l->boots, i, m->acked, m->count - 1, there ? "there" : "not there",
        (unsigned long long)o.version, there && blocks_match(l, m, model_newest(m), &o),
        store_dedup_list(l->w.store, &m->id, 0, l->found, RECORD_DEDUPS_MAX));
}

/* What is freed is discarded as soon as it may be, however little room there is. */
static inline void life_discard(struct life *l)
{
    struct discard *d = l->w.store->discard;

    if (d == NULL)
        return;
    d->keep = 0;
    d->least = 1 + prng_below(l->p, 16);
    d->pause_ms = 0;
    d->busy_ms = 1;
    d->pass_ms = 1;
    loop_wake(l->w.loop, &d->task);
}

static inline bool life_open(struct life *l)
{
    struct world *w = &l->w;

    world_open_start(w);
    l->boots++;
    if (prng_chance(l->p, 1, 5)) {
        world_run(w, prng_below(l->p, prng_chance(l->p, 1, 2) ? 4 * NS_PER_MS : 20 * NS_PER_MS));
        if (!w->opened)
            return false;
    }
    if (!world_wait(w, &w->opened, 60 * NS_PER_S))
        fault(l, "boot %u: the open does not end", l->boots);
    else if (w->open.result != 0)
        fault(l, "boot %u: %d, it %s", l->boots, w->open.result, w->open.error);
    else if (w->open.incarnation <= l->incarnation)
        fault(l, "boot %u: incarnation %u after %u", l->boots, w->open.incarnation, l->incarnation);
    l->incarnation = w->open.incarnation;
    if (l->error[0] != 0)
        return false;
    life_squeeze(l);
    life_discard(l);
    for (uint32_t i = 0; i < OBJECTS; i++)
        life_check_object(l, i);
    return l->error[0] == 0;
}

static inline void life_read_all(struct life *l)
{
    for (uint32_t i = 0; i < 2 * OBJECTS && l->error[0] == 0; i++) {
        struct slot *s = &l->slots[0];
        s->object = i / 2;
        s->state = 0;
        s->busy = true;
        s->reading = true;
        s->started = sim_now(l->w.sim);
        s->op->r = (struct store_read){.id = l->models[i / 2].id,
                                       .prepared = i % 2 != 0,
                                       .len = BLOCKS * STORE_BLOCK,
                                       .buf = s->op->data,
                                       .crcs = s->op->crcs,
                                       .done = life_on_read,
                                       .priv = s};
        store_read_start(l->w.store, &s->op->r);
        while (s->busy && l->error[0] == 0)
            life_run(l);
    }
}

/* Who is to write in this life, and what. */
static inline void life_choose(struct life *l)
{
    l->active = (uint32_t)prng_next(l->p) | (uint32_t)1 << prng_below(l->p, l->objects);
    l->list_max = DEDUPS_MAX >> prng_below(l->p, 4);
    l->flood = prng_chance(l->p, l->big_chance, 100);
    if (l->flood)
        l->active |= (uint32_t)prng_next(l->p) | (uint32_t)prng_next(l->p);
}

/* At random; or in crowds: as many as there may be, then none until some have ended. */
static inline void life_steps(struct life *l)
{
    static const uint32_t lengths[] = {4, 30, 100, 300, 1000};
    uint32_t steps = lengths[prng_below(l->p, COUNT_OF(lengths))];
    uint32_t crowd = prng_chance(l->p, 1, 3) ? 0 : 1 + (uint32_t)prng_below(l->p, OPS);
    bool waits = false;

    life_choose(l);
    for (uint32_t i = 0; i < steps && l->error[0] == 0; i++) {
        uint64_t dice = prng_below(l->p, 100);
        uint32_t busy = life_busy_count(l);
        waits = crowd > 0 && (busy == OPS || (waits && busy + crowd > OPS));
        if (waits)
            life_run(l);
        else if (dice < 55)
            life_write(l);
        else if (dice < 65)
            life_read(l);
        else if (dice < 69)
            life_floor(l);
        else if (dice < 72)
            life_trim(l);
        else if (crowd == 0)
            life_run(l);
    }
}

static inline void life_crash(struct life *l)
{
    struct store *s = l->w.store;

    if (s != NULL && l->w.opened) {
        l->total.cleaned += s->counters.cleaned_total;
        l->total.discarded += s->counters.discarded_bytes_total;
        l->total.laps = s->head / l->ring;
    }
    world_crash(&l->w, prng_chance(l->p, 2, 3));
    for (uint32_t i = 0; i < OPS; i++)
        l->slots[i].busy = false;
}

/* One disk in four writes through its cache, one makes single writes durable. */
static inline void life_choose_disk(struct life *l, uint64_t seed)
{
    struct loop_file_info info = {
        .is_device = true,
        .is_volatile = seed % 4 != 1,
        .has_fua = seed % 4 == 2,
        .can_discard = true,
        .io_align = 512,
        .discard_align = STORE_BLOCK,
    };

    if (seed % 4 == 1 || seed % 4 == 2)
        sim_disk_set_info(l->w.host, &info);
}

static inline void life_init(struct life *l, uint64_t seed, uint64_t mutants)
{
    *l = (struct life){0};
    bool lame = seed % 2 == 0; /* a disk on which much is in flight at once */
    world_create(&l->w, &(struct sim_config){.seed = seed,
                                             .disk_ns_min = lame ? 100 * 1000 : 0,
                                             .disk_ns_max = lame ? 4 * NS_PER_MS : 0});
    l->w.mutants = mutants;
    l->w.discards = seed / 4 % 2 == 0;
    life_choose_disk(l, seed);
    l->p = sim_prng(l->w.sim);
    l->objects = prng_chance(l->p, 1, 2) ? OBJECTS : 1 + (uint32_t)prng_below(l->p, 8);
    l->big_chance = prng_chance(l->p, 1, 2) ? 60 : prng_chance(l->p, 1, 2) ? 8 : 0;
    if (prng_chance(l->p, 2, 3))
        sim_disk_set_slow(l->w.host, 1, prng_chance(l->p, 1, 2) ? 2 : 8, 5 * NS_PER_MS);
    for (uint32_t i = 0; i < OBJECTS; i++) {
        l->models[i].id = (struct store_id){1, i + 1};
        model_push(&l->models[i]);
    }
    for (uint32_t i = 0; i < OPS; i++) {
        struct slot *s = &l->slots[i];
        s->life = l;
        s->op = mem_zalloc(sizeof(*s->op));
        s->op->world = &l->w;
        s->op->data = mem_alloc_aligned((size_t)BLOCKS * STORE_BLOCK, STORE_BLOCK);
        s->dedups = mem_zalloc(DEDUPS_MAX * sizeof(*s->dedups));
    }
    l->found = mem_zalloc(RECORD_DEDUPS_MAX * sizeof(*l->found));
    world_format_store(&l->w);
    l->ring = RING_BLOCKS_MIN + prng_below(l->p, seed % 3 == 0 ? 100 : 20);
    if (seed % 8 == 5) /* so big that a start does not read all of it */
        l->ring = 2049 + prng_below(l->p, 1000);
    world_shrink_ring(&l->w, l->ring);
}

static inline void life_deinit(struct life *l)
{
    world_deinit(&l->w);
    for (uint32_t i = 0; i < OPS; i++) {
        op_free(l->slots[i].op);
        free(l->slots[i].dedups);
    }
    for (uint32_t i = 0; i < OBJECTS; i++)
        free(l->models[i].states);
    free(l->found);
}

/* What went wrong in the lives of this seed is in l->error. */
static inline void lives(struct life *l, uint64_t seed, uint64_t mutants)
{
    life_init(l, seed, mutants);
    uint64_t boots = 3 + prng_below(l->p, 8);
    while (l->boots < boots && l->error[0] == 0) {
        if (life_open(l)) {
            life_read_all(l);
            life_steps(l);
            if (prng_chance(l->p, 1, 3))
                life_settle(l);
        }
        life_crash(l);
    }
    life_deinit(l);
}

#endif /* TEST_STORE_LIVES_H */
