#include <errno.h>
#include <stdlib.h>

#include "store/inspect_impl.h"

/* The log block by block, and the objects one by one. */

const char *inspect_place_name(enum inspect_place_state state)
{
    static const char *const names[] = {
        [INSPECT_PLACE_VALID] = "valid",           [INSPECT_PLACE_EMPTY] = "empty",
        [INSPECT_PLACE_OTHER] = "other",           [INSPECT_PLACE_BROKEN] = "broken",
        [INSPECT_PLACE_MISPLACED] = "misplaced",   [INSPECT_PLACE_NEWER] = "newer",
        [INSPECT_PLACE_UNREADABLE] = "unreadable",
    };

    return names[state];
}

/* ---- The log ---- */

struct walker {
    struct inspect *in;
    const struct inspect_walk *walk;
    struct replay replay; /* puts records together; its store has no more than that takes */
    struct store *s;
};

static void walk_record(struct walker *w, uint64_t block_seq)
{
    const struct inspect *in = w->in;
    struct inspect_record r = {
        .seq = w->replay.seq,
        .block_first = w->replay.first_block,
        .block_last = block_seq,
        .len = w->replay.len,
        .bytes = w->s->scratch,
        .is_beyond_mark = in->report.has_state && w->replay.seq > in->report.mark,
    };

    if (r.len >= sizeof(uint32_t) && get_u32(r.bytes) == RECORD_DROPS) {
        int count = drops_decode(r.bytes, r.len);
        r.head = (struct record_head){.kind = RECORD_DROPS,
                                      .dedups_count = count < 0 ? 0 : (uint32_t)count};
        r.is_bad = count < 0;
    } else {
        r.is_bad = record_decode(r.bytes, r.len, in->report.super.blocks, &r.head) < 0;
    }
    r.is_dropped =
        replay_seqs_has(&in->replay.dropped, r.seq) || replay_seqs_has(&in->replay.named, r.seq);
    w->walk->record(w->walk->arg, &r);
}

/* What cannot be put together is left out; check has said so. */
static void walk_records(struct walker *w, const uint8_t *block, const struct block_head *h)
{
    struct piece_at at = {0};
    struct piece p;
    int result;

    while ((result = piece_next(block, h, &at, &p)) == 1) {
        result = replay_add_piece(&w->replay, &p, h->seq);
        if (result < 0)
            break;
        if (result == 0)
            continue;
        w->replay.open = false;
        walk_record(w, h->seq);
    }
    if (result < 0) {
        w->replay.open = false;
        w->s->seq_last = 0;
    }
}

static void walk_block(struct walker *w, uint64_t n)
{
    const struct inspect_report *rep = &w->in->report;
    uint64_t place = n % rep->super.ring_blocks;
    const uint8_t *block;
    struct inspect_block b = {
        .seq = n,
        .place = rep->super.ring_first + place,
        .is_needed = rep->has_state && n >= rep->tail && n <= rep->end,
    };

    b.state = inspect_place(w->in, place, &b.head, &block);
    if (w->walk->block != NULL)
        w->walk->block(w->walk->arg, &b);
    if (w->walk->record == NULL)
        return;
    if (b.state == INSPECT_PLACE_VALID && b.head.seq == n)
        walk_records(w, block, &b.head);
    else
        w->replay.open = false;
}

void inspect_walk(struct inspect *in, const struct inspect_walk *walk)
{
    const struct inspect_report *rep = &in->report;
    uint64_t ring = rep->super.ring_blocks, last = rep->highest;
    uint64_t lowest = last >= ring ? last - ring + 1 : 1;
    uint64_t from = walk->from != 0 ? walk->from : rep->has_state ? rep->tail : lowest;
    struct walker w = {.in = in, .walk = walk};

    if (in->s == NULL)
        return;
    if (from < lowest)
        from = lowest;
    w.s = mem_zalloc(sizeof(*w.s));
    w.s->scratch = mem_alloc_aligned(RECORD_BYTES_MAX, 64);
    w.replay.s = w.s;
    in->chunk_count = 0;
    for (uint64_t n = from; n <= last && (walk->count == 0 || n - from < walk->count); n++)
        walk_block(&w, n);
    free(w.s->scratch);
    free(w.s);
}

/* ---- Objects ---- */

static void object_visit(struct inspect *in, const struct object *o,
                         void (*each)(void *arg, const struct inspect_object *o), void *arg)
{
    const struct work *x = object_work(in->s, o);
    const struct prepared *p = x == NULL ? NULL : x->prepared;
    struct layout now, changes;
    struct inspect_object out = {
        .id = o->id,
        .pg = object_pg(in->s, o),
        .version = o->version,
        .deleted = o->deleted,
        .blocks = o->blocks,
        .dedups = x == NULL ? 0 : x->dedups_count,
        .full_block = object_full(in->s, o),
        .now = &now,
        .changes = &changes,
    };

    changes.count = 0;
    object_read(o, &now);
    if (p != NULL) {
        prepared_changes(p, &changes);
        out.prepared = p->version;
        out.prepared_clear = p->clear;
        out.prepared_deleted = p->deleted;
        out.prepared_blocks = p->blocks;
    }
    each(arg, &out);
}

void inspect_objects(struct inspect *in, void (*each)(void *arg, const struct inspect_object *o),
                     void *arg)
{
    struct store *s = in->s;

    if (s == NULL)
        return;
    for (const struct object *o = object_at(s, s->age_first); o != NULL;
         o = object_at(s, o->age_next))
        object_visit(in, o, each, arg);
}

bool inspect_object(struct inspect *in, const struct store_id *id,
                    void (*each)(void *arg, const struct inspect_object *o), void *arg)
{
    const struct object *o = in->s == NULL ? NULL : object_find(in->s, id);

    if (o == NULL || o->gone)
        return false;
    object_visit(in, o, each, arg);
    return true;
}
