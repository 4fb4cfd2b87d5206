#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "store/inspect_impl.h"

/*
 * Every slot in use is read once and compared. Objects are taken in the order of their newest full
 * records, which is about the order in which they were written; slots that follow each other, also
 * those of several objects, become one read. What the device cannot read as a whole is read
 * again block by block: it may be one of many.
 */
struct verify_entry {
    struct store_id id;
    uint32_t block, crc;
    bool prepared;
};

struct verifier;

struct verify_read {
    struct loop_op op;
    struct verifier *r;
    bool is_busy, is_back;
    uint8_t *buf;
    uint64_t first; /* slot */
    uint32_t count;
    struct verify_entry entries[INSPECT_READ_BLOCKS];
};

struct verifier {
    struct inspect_verify *v;
    struct inspect *in;
    struct task task;
    struct verify_read reads[INSPECT_READS];

    /* Where it is: this block of this object, of what is or of the prepared version. */
    const struct object *object;
    struct layout layout;
    bool prepared, is_loaded;
    uint32_t block;
};

/* ---- The next slot ---- */

static void verify_load(struct verifier *r)
{
    const struct work *x = object_work(r->in->s, r->object);

    if (r->prepared && x != NULL && x->prepared != NULL)
        prepared_changes(x->prepared, &r->layout);
    else if (r->prepared)
        r->layout.count = 0;
    else
        object_read(r->object, &r->layout);
    r->is_loaded = true;
    r->block = 0;
}

/* False: there are no more. Else r->block of r->layout has a slot. */
static bool verify_find(struct verifier *r)
{
    while (r->object != NULL) {
        if (!r->is_loaded)
            verify_load(r);
        while (r->block < r->layout.count && r->layout.slots[r->block] == 0)
            r->block++;
        if (r->block < r->layout.count)
            return true;
        if (r->prepared)
            r->object = object_at(r->in->s, r->object->age_next);
        r->prepared = !r->prepared;
        r->is_loaded = false;
    }
    return false;
}

/* ---- Reading ---- */

static void verify_on_read(struct loop_op *op)
{
    struct verify_read *read = container_of(op, struct verify_read, op);

    read->is_back = true;
    loop_wake(read->r->in->config.loop, &read->r->task);
}

static bool verify_start_read(struct verifier *r, struct verify_read *read)
{
    read->count = 0;
    while (read->count < INSPECT_READ_BLOCKS && verify_find(r)) {
        uint64_t slot = r->layout.slots[r->block];
        if (read->count == 0)
            read->first = slot;
        else if (slot != read->first + read->count)
            break;
        read->entries[read->count++] = (struct verify_entry){
            .id = r->object->id,
            .block = r->block,
            .crc = r->layout.crcs[r->block],
            .prepared = r->prepared,
        };
        r->block++;
    }
    if (read->count == 0)
        return false;
    read->is_busy = true;
    read->is_back = false;
    loop_op_init(&read->op, verify_on_read);
    loop_read(r->in->config.loop, &read->op, r->in->file, read->buf,
              (size_t)read->count * STORE_BLOCK, read->first * STORE_BLOCK);
    return true;
}

/* ---- Comparing ---- */

static void verify_block(struct verifier *r, struct verify_read *read, uint32_t i, int error)
{
    const struct verify_entry *e = &read->entries[i];
    struct inspect_bad bad = {
        .id = e->id,
        .block = e->block,
        .slot = read->first + i,
        .prepared = e->prepared,
        .error = error,
        .expected = e->crc,
    };

    r->v->blocks_done++;
    if (error == 0) {
        bad.found = crc32c_block(e->id.image, e->id.object, e->block,
                                 read->buf + (size_t)i * STORE_BLOCK, STORE_BLOCK);
        if (bad.found == e->crc)
            return;
        bad.error = -EBADMSG;
    }
    r->v->blocks_bad++;
    r->v->bad(r->v, &bad);
}

static void verify_end_read(struct verifier *r, struct verify_read *read)
{
    bool whole = read->op.result == (int64_t)read->count * STORE_BLOCK;

    read->is_busy = false;
    for (uint32_t i = 0; i < read->count; i++) {
        int64_t got = STORE_BLOCK;
        if (!whole)
            got = loop_read_now(r->in->file, read->buf + (size_t)i * STORE_BLOCK, STORE_BLOCK,
                                (read->first + i) * STORE_BLOCK);
        verify_block(r, read, i, got == STORE_BLOCK ? 0 : got < 0 ? (int)got : -EIO);
    }
}

static void verify_end(struct verifier *r)
{
    struct inspect_verify *v = r->v;

    for (uint32_t i = 0; i < INSPECT_READS; i++)
        free(r->reads[i].buf);
    free(r);
    v->done(v);
}

static void verify_step(struct task *task)
{
    struct verifier *r = container_of(task, struct verifier, task);
    bool is_busy = false;

    for (uint32_t i = 0; i < INSPECT_READS; i++) {
        struct verify_read *read = &r->reads[i];
        if (read->is_busy && read->is_back)
            verify_end_read(r, read);
        if (!read->is_busy)
            verify_start_read(r, read);
        is_busy = is_busy || read->is_busy;
    }
    r->v->progress(r->v);
    if (!is_busy)
        verify_end(r);
}

void inspect_verify_start(struct inspect_verify *v)
{
    struct verifier *r = mem_zalloc(sizeof(*r));
    struct store *s = v->in->s;

    check(s != NULL && v->in->report.has_state);
    r->v = v;
    r->in = v->in;
    r->object = object_at(s, s->age_first);
    for (uint32_t i = 0; i < INSPECT_READS; i++) {
        r->reads[i].r = r;
        r->reads[i].buf = mem_alloc_aligned((size_t)INSPECT_READ_BLOCKS * STORE_BLOCK, STORE_BLOCK);
    }
    v->blocks_total = s->slots_live;
    v->blocks_done = 0;
    v->blocks_bad = 0;
    task_init(&r->task, verify_step);
    loop_wake(s->loop, &r->task);
}
