#include "store/replay.h"

#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"

/* ---- Sets ---- */

static void seqs_add(struct replay_seqs *q, uint64_t seq)
{
    if (q->count == q->capacity) {
        q->capacity = q->capacity == 0 ? 64 : 2 * q->capacity;
        q->items = mem_realloc(q->items, q->capacity * sizeof(*q->items));
    }
    q->items[q->count++] = seq;
}

static int seqs_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

bool replay_seqs_has(const struct replay_seqs *q, uint64_t seq)
{
    return q->count > 0 &&
           bsearch(&seq, q->items, q->count, sizeof(*q->items), seqs_compare) != NULL;
}

static void replay_break(struct replay *r, struct object *o)
{
    if (r->broken_count == r->broken_capacity) {
        r->broken_capacity = r->broken_capacity == 0 ? 16 : 2 * r->broken_capacity;
        r->broken = mem_realloc(r->broken, r->broken_capacity * sizeof(struct object *));
    }
    r->broken[r->broken_count++] = o;
    o->broken = true;
}

void replay_deinit(struct replay *r)
{
    free(r->named.items);
    free(r->named_in.items);
    free(r->dropped.items);
    free(r->broken);
}

/* ---- Drops of earlier starts ---- */

/* Into its place in the sorted set, which is nearly always the last one. */
static void seqs_insert(struct replay_seqs *q, uint64_t seq)
{
    seqs_add(q, seq);
    for (uint64_t i = q->count - 1; i > 0 && q->items[i - 1] > seq; i--) {
        q->items[i] = q->items[i - 1];
        q->items[i - 1] = seq;
    }
}

static int replay_name(struct replay *r, uint64_t seq, uint64_t block)
{
    if (!r->begun) {
        seqs_add(&r->named, seq);
        seqs_add(&r->named_in, block);
        return 0;
    }
    if (replay_seqs_has(&r->named, seq))
        return 0;
    if (seq <= r->s->seq_last)
        return -EBADMSG;
    seqs_insert(&r->named, seq);
    return 0;
}

int replay_note_drops(struct replay *r, const uint8_t *block, const struct block_head *h)
{
    struct piece p;
    struct piece_at at = {0};
    int result;

    while ((result = piece_next(block, h, &at, &p)) == 1) {
        if (p.offset != 0 || p.len != p.total || p.len < sizeof(uint32_t) ||
            get_u32(p.bytes) != RECORD_DROPS)
            continue;
        int count = drops_decode(p.bytes, p.len);
        if (count < 0)
            return count;
        for (uint32_t i = 0; i < (uint32_t)count; i++) {
            if (replay_name(r, drops_get(p.bytes, i), h->seq) < 0)
                return -EBADMSG;
        }
    }
    return result;
}

void replay_begin(struct replay *r, uint64_t first, uint64_t last, uint64_t mark)
{
    uint64_t n = 0;

    r->mark = mark;
    r->begun = true;
    for (uint64_t i = 0; i < r->named.count; i++) {
        if (r->named_in.items[i] >= first && r->named_in.items[i] <= last)
            r->named.items[n++] = r->named.items[i];
    }
    r->named.count = n;
    if (r->named.count > 0)
        qsort(r->named.items, r->named.count, sizeof(*r->named.items), seqs_compare);
}

/* ---- Records out of pieces ---- */

int replay_add_piece(struct replay *r, const struct piece *p, uint64_t block_seq)
{
    if (p->offset == 0) {
        if (p->seq <= r->s->seq_last)
            return -EBADMSG;
        r->s->seq_last = p->seq;
        r->open = true;
        r->seq = p->seq;
        r->total = p->total;
        r->first_block = block_seq;
        r->len = 0;
    }
    if (!r->open)
        return 0;
    if (p->seq != r->seq || p->total != r->total || p->len > r->total - r->len)
        return -EBADMSG;
    memcpy(r->s->scratch + r->len, p->bytes, p->len);
    r->len += p->len;
    return r->len == r->total;
}

int replay_next(struct replay *r, const uint8_t *block, const struct block_head *h,
                struct piece_at *at)
{
    struct piece p;
    int result;

    while ((result = piece_next(block, h, at, &p)) == 1) {
        result = replay_add_piece(r, &p, h->seq);
        if (result < 0)
            return result;
        if (result == 0)
            continue;
        r->open = false;
        if (r->len >= sizeof(uint32_t) && get_u32(r->s->scratch) == RECORD_DROPS)
            continue;
        result = record_decode(r->s->scratch, r->len, r->s->super.blocks, &r->head);
        return result < 0 ? result : 1;
    }
    return result;
}

/* ---- Does it count? ---- */

static bool replay_is_dropped(const struct replay *r)
{
    const struct object *o = object_find(r->s, &r->head.id);

    return o != NULL && o->broken && !store_mutated(r->s, STORE_MUTANT_NO_DROP_CHAIN);
}

bool replay_must_verify(const struct replay *r)
{
    bool beyond = r->seq > r->mark || store_mutated(r->s, STORE_MUTANT_CHECK_ALL);

    return beyond && !store_mutated(r->s, STORE_MUTANT_TRUST_ALL) &&
           !replay_seqs_has(&r->named, r->seq) && !replay_is_dropped(r);
}

bool replay_matches(const struct replay *r, const uint8_t *slots, struct replay_mismatch *out)
{
    const struct record_head *h = &r->head;
    uint32_t n = 0;

    for (uint32_t i = 0; i < h->runs_count; i++) {
        struct record_run run;
        record_run_get(r->s->scratch, i, &run);
        for (uint32_t k = 0; run.slot != 0 && k < run.count; k++, n++) {
            if (run.settled)
                continue;
            uint32_t crc = crc32c_block(h->id.image, h->id.object, run.first + k,
                                        slots + (size_t)n * STORE_BLOCK, STORE_BLOCK);
            uint32_t expected = record_crc_get(r->s->scratch, h, n);
            if (crc == expected)
                continue;
            if (out != NULL)
                *out = (struct replay_mismatch){run.first + k, run.slot + k, expected, crc};
            return false;
        }
    }
    return true;
}

/* ---- Into the index ---- */

/* What the record's runs say, of what is or of the prepared part, into `l`; and which blocks. */
static void replay_runs(const struct replay *r, bool prepared, struct layout *l, uint64_t *touched)
{
    const uint8_t *record = r->s->scratch;
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->head.runs_count; i++) {
        struct record_run run;
        record_run_get(record, i, &run);
        for (uint32_t k = 0; k < run.count; k++) {
            uint32_t crc = run.slot == 0 ? 0 : record_crc_get(record, &r->head, n++);
            if (run.prepared != prepared)
                continue;
            layout_set(l, run.first + k, run.slot == 0 ? 0 : run.slot + k, crc);
        }
        if (run.prepared == prepared)
            bitmap_set(touched, run.first, run.count);
    }
}

static void replay_dedups(struct replay *r, struct object *o)
{
    for (uint32_t i = 0; i < r->head.dedups_count; i++) {
        struct store_dedup d;
        record_dedup_get(r->s->scratch, &r->head, i, &d);
        dedup_add(r->s, o, &d)->deferred = false;
    }
}

/* The last thing to do with a record: the objects that lose one of theirs may be this one. */
static void replay_floors(struct replay *r)
{
    for (uint32_t i = 0; i < r->head.dedups_count; i++) {
        uint64_t floor = record_floor_get(r->s->scratch, &r->head, i);
        struct store_dedup d;
        record_dedup_get(r->s->scratch, &r->head, i, &d);
        if (floor != 0)
            dedup_replay_floor(r->s, r->head.pg, d.client, floor);
    }
}

static void replay_set_headless(struct replay *r, struct object *o, bool headless)
{
    r->headless_count = r->headless_count + headless - o->headless;
    o->headless = headless;
}

static void replay_drop_prepared(struct store *s, struct object *o)
{
    if (object_work(s, o)->prepared != NULL)
        prepared_free(s, o);
}

static void replay_full(struct replay *r, struct object *o)
{
    struct store *s = r->s;
    struct layout l = {.count = 0};
    uint64_t touched[STORE_BLOCKS_MAX / 64] = {0};

    replay_set_headless(r, o, false);
    replay_drop_prepared(s, o);
    dedup_drop_above(s, o, 0, true);
    o->gone = false;
    o->full_needed = false;
    o->version = r->head.version;
    o->deleted = (r->head.flags & RECORD_DELETED) != 0;
    object_set_full(s, o, r->first_block);
    replay_runs(r, false, &l, touched);
    object_write(s, o, &l);
    if (!store_mutated(s, STORE_MUTANT_LOSE_DEDUPS))
        replay_dedups(r, o);
    if ((r->head.flags & RECORD_BOTH) == 0)
        return;

    struct record_prepared both;
    l.count = 0;
    memset(touched, 0, sizeof(touched));
    record_prepared_get(s->scratch, &r->head, &both);
    replay_runs(r, true, &l, touched);
    struct prepared *p = prepared_make(s, o, both.version, &l, touched);
    p->clear = both.clear;
    p->deleted = both.deleted;
}

/* ---- Steps of erasure coding: as write.c takes them ---- */

static void replay_commit(struct store *s, struct object *o)
{
    const struct prepared *p = object_work(s, o)->prepared;
    struct layout now;

    prepared_read(o, p, &now);
    o->version = p->version;
    o->deleted = p->deleted;
    object_write(s, o, &now);
    prepared_free(s, o);
}

static void replay_prepare(struct replay *r, struct object *o)
{
    struct store *s = r->s;
    const struct prepared *before = object_work(s, o)->prepared;
    struct layout l = {.count = 0};
    uint64_t touched[STORE_BLOCKS_MAX / 64] = {0};

    if (before != NULL && before->version == r->head.version)
        prepared_free(s, o);
    else if (before != NULL)
        replay_commit(s, o);
    replay_runs(r, false, &l, touched);
    struct prepared *p = prepared_make(s, o, r->head.version, &l, touched);
    p->clear = (r->head.flags & RECORD_CLEAR) != 0;
    p->deleted = (r->head.flags & RECORD_DELETED) != 0;
}

/* -EBADMSG: the step names a version that was not prepared. */
static int replay_step(struct replay *r, struct object *o)
{
    struct store *s = r->s;
    const struct prepared *p = object_work(s, o)->prepared;

    if ((r->head.flags & RECORD_PREPARE) != 0) {
        replay_prepare(r, o);
        return 0;
    }
    if (p == NULL || p->version != r->head.version)
        return -EBADMSG;
    if ((r->head.flags & RECORD_COMMIT) != 0) {
        replay_commit(s, o);
    } else {
        prepared_free(s, o);
        dedup_drop_version(s, o, r->head.version);
    }
    return 0;
}

/* A delta whose full record lies before the tail: a later full record stands for both. */
static int replay_delta(struct replay *r, struct object *o)
{
    struct store *s = r->s;
    struct layout l = {.count = 0};
    uint64_t touched[STORE_BLOCKS_MAX / 64] = {0};
    int result = 0;

    if (o->gone) {
        replay_set_headless(r, o, true);
        return 0;
    }
    if ((r->head.flags & (RECORD_PREPARE | RECORD_COMMIT | RECORD_ROLLBACK)) != 0) {
        result = replay_step(r, o);
    } else {
        if ((r->head.flags & RECORD_CLEAR) == 0)
            object_read(o, &l);
        if ((r->head.flags & RECORD_KEEP) == 0) {
            o->version = r->head.version;
            o->deleted = (r->head.flags & RECORD_DELETED) != 0;
        }
        replay_runs(r, false, &l, touched);
        object_write(s, o, &l);
    }
    replay_dedups(r, o);
    return result;
}

static void replay_purge(struct replay *r, struct object *o)
{
    struct layout l = {.count = 0};

    replay_set_headless(r, o, false);
    replay_drop_prepared(r->s, o);
    object_write(r->s, o, &l);
    dedup_drop_above(r->s, o, 0, true);
    object_set_full(r->s, o, 0);
    o->gone = true;
    o->full_needed = true;
    o->version = 0;
    o->deleted = true;
}

/* None of its later records counts. */
static void replay_lose(struct replay *r)
{
    struct object *o = object_find(r->s, &r->head.id);

    if (o == NULL)
        o = object_get(r->s, &r->head.id, r->head.pg);
    if (!o->broken)
        replay_break(r, o);
}

/* What was found so far is what a restart would find. */
static void replay_account(struct store *s, struct object *o)
{
    struct work *x = object_work(s, o);

    x->ring_blocks = x->next_blocks = object_blocks(s, o);
    x->ring_dedups = x->next_dedups = x->dedups_count;
    object_account(s, o);
    object_rest(s, o);
}

int replay_apply(struct replay *r, bool matches)
{
    struct store *s = r->s;
    int result = 0;

    if (replay_seqs_has(&r->named, r->seq)) {
        /* Beyond the mark: the start that named it did not come to its end, and may have had more
         * of this object to name. */
        if (r->seq > r->mark && !store_mutated(s, STORE_MUTANT_REVIVE))
            replay_lose(r);
        return 0;
    }
    if (!matches || replay_is_dropped(r)) {
        replay_lose(r);
        seqs_add(&r->dropped, r->seq);
        return 0;
    }
    struct object *o = object_get(s, &r->head.id, r->head.pg);
    object_work_make(s, o);
    switch (r->head.kind) {
    case RECORD_FULL:
        replay_full(r, o);
        break;
    case RECORD_DELTA:
        result = replay_delta(r, o);
        break;
    case RECORD_PURGE:
        replay_purge(r, o);
        break;
    case RECORD_DROPS:
        never("not a record of an object");
    }
    replay_account(s, o);
    replay_floors(r);
    return result;
}

/* ---- The end ---- */

static int replay_mark_slots(struct store *s, const struct layout *l)
{
    for (uint32_t b = 0; b < l->count; b++) {
        if (l->slots[b] == 0)
            continue;
        if (slots_is_used(&s->slots, l->slots[b]))
            return -EBADMSG;
        slots_mark(&s->slots, l->slots[b], true);
    }
    return 0;
}

static int replay_settle(struct store *s, const struct object *o)
{
    const struct work *x = object_work(s, o);
    struct layout l;

    object_read(o, &l);
    int result = replay_mark_slots(s, &l);
    if (result == 0 && x != NULL && x->prepared != NULL) {
        prepared_changes(x->prepared, &l);
        result = replay_mark_slots(s, &l);
    }
    return result;
}

int replay_end(struct replay *r)
{
    struct store *s = r->s;
    int result = 0;

    for (uint64_t i = 0; i < r->broken_count; i++) {
        struct object *o = r->broken[i];
        o->broken = false;
        object_rest(s, o);
    }
    r->broken_count = 0;
    if (r->headless_count > 0)
        return -EBADMSG;
    if (s->seq_last < r->mark) /* the last records lie before the tail */
        s->seq_last = r->mark;
    for (struct object *o = object_at(s, s->age_first); o != NULL && result == 0;
         o = object_at(s, o->age_next))
        result = replay_settle(s, o);
    return result;
}
