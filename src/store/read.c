#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "store/impl.h"

/*
 *     start --> BLOCKED (data of an overlapping write is on its way) --> READING --> done
 *
 * What is read is decided when READING begins: version, slots and checksums belong together, and
 * the slots are not given away before the read is over (S1).
 */
enum read_state { READ_BLOCKED, READ_READING };

static void read_finish(struct store_read *r, int result)
{
    struct store *s = r->store;

    list_remove(&r->link);
    list_remove(&r->starved_link);
    if (s->freed.count > 0)
        store_wake(s);
    r->result = result;
    r->done(r);
}

/* 0, or -EBADMSG and which block. Fills the holes. */
static int read_verify(struct store_read *r)
{
    const struct store *s = r->store;
    uint32_t first = r->offset / STORE_BLOCK;

    for (uint32_t i = 0; i < r->len / STORE_BLOCK; i++) {
        uint8_t *data = (uint8_t *)r->buf + (size_t)i * STORE_BLOCK;
        if (r->slots[i] == 0)
            memset(data, 0, STORE_BLOCK);
        if (r->slots[i] == 0 && r->crcs == NULL)
            continue;
        uint32_t crc = crc32c_block(r->id.image, r->id.object, first + i, data, STORE_BLOCK);
        if (r->crcs != NULL)
            r->crcs[i] = crc;
        if (r->slots[i] != 0 && crc != r->expected[i] && !store_mutated(s, STORE_MUTANT_NO_CRC)) {
            r->bad_block = first + i;
            return -EBADMSG;
        }
    }
    return 0;
}

static void read_step(struct task *task)
{
    struct store_read *r = container_of(task, struct store_read, task);
    struct store *s = r->store;
    int result = s->failed != 0 ? -EIO : r->result;

    if (result == 0 || result == -ENOENT) {
        int verified = read_verify(r);
        if (verified != 0) {
            result = verified;
            s->counters.crc_errors_total++;
        }
    }
    read_finish(r, result);
}

/* Give the device as much as there are ios for. */
static void read_submit(struct store_read *r)
{
    struct store *s = r->store;
    uint32_t blocks = r->len / STORE_BLOCK;

    while (r->next < blocks) {
        uint32_t i = r->next, run = 1;
        if (r->slots[i] == 0) {
            r->next++;
            continue;
        }
        while (i + run < blocks && r->slots[i + run] == r->slots[i] + run)
            run++;
        struct io *io = io_get(s);
        if (io == NULL) {
            if (list_empty(&r->starved_link))
                list_push(&s->reads_starved, &r->starved_link);
            return;
        }
        io->read = r;
        r->next += run;
        r->ops_left++;
        loop_op_init(&io->op, io_read_done);
        loop_read(s->loop, &io->op, s->file, (uint8_t *)r->buf + (size_t)i * STORE_BLOCK,
                  (size_t)run * STORE_BLOCK, r->slots[i] * STORE_BLOCK);
    }
    r->ops_left--; /* read_begin()'s own */
    if (r->ops_left == 0)
        loop_wake(s->loop, &r->task);
}

static bool read_is_blocked(const struct store_read *r, const struct work *x)
{
    list_for_each (l, &x->writing) {
        const struct store_write *w = container_of(l, struct store_write, data_link);
        if (w->kind == STORE_REPLACE ||
            (w->offset < r->offset + r->len && r->offset < w->offset + w->len))
            return true;
    }
    return false;
}

/* Where its blocks lie; 0, or -ENOENT. */
static int read_find(struct store_read *r, const struct object *o, const struct work *x)
{
    uint32_t first = r->offset / STORE_BLOCK, count = r->len / STORE_BLOCK;
    struct layout l;

    if (!r->prepared) {
        map_read(o->map, o->runs, first, count, r->slots, r->expected);
        r->version = x != NULL ? x->version_visible : o->version;
        return 0;
    }
    if (x == NULL || x->prepared == NULL)
        return -ENOENT;
    prepared_read(o, x->prepared, &l);
    for (uint32_t i = 0; i < count; i++) {
        r->slots[i] = layout_slot(&l, first + i);
        r->expected[i] = l.crcs[first + i];
    }
    r->version = x->prepared->version;
    return 0;
}

static void read_begin(struct store_read *r)
{
    struct store *s = r->store;
    const struct object *o = object_find(s, &r->id);
    const struct work *x = o == NULL ? NULL : object_work(s, o);
    bool known = o != NULL && !object_is_hidden(s, o);

    if (x != NULL && known && s->failed == 0 && read_is_blocked(r, x) &&
        !store_mutated(s, STORE_MUTANT_READ_AHEAD)) {
        list_push(&s->reads_blocked, &r->starved_link);
        return;
    }
    r->state = READ_READING;
    r->number = ++s->read_number;
    r->version = 0;
    r->next = 0;
    r->ops_left = 1; /* until all is submitted */
    list_push(&s->reads, &r->link);
    r->result = known ? read_find(r, o, x) : -ENOENT;
    if (r->result != 0)
        memset(r->slots, 0, r->len / STORE_BLOCK * sizeof(*r->slots));
    read_submit(r);
}

void store_read_start(struct store *s, struct store_read *r)
{
    check(r->done != NULL && r->len > 0 && r->len % STORE_BLOCK == 0);
    check(r->offset % STORE_BLOCK == 0 && r->offset <= STORE_OBJECT_MAX &&
          r->len <= STORE_OBJECT_MAX - r->offset);

    r->store = s;
    r->state = READ_BLOCKED;
    r->result = 0;
    r->bad_block = 0;
    list_init(&r->link);
    list_init(&r->starved_link);
    task_init(&r->task, read_step);
    s->counters.reads_total++;
    read_begin(r);
}

void reads_unblock(struct store *s)
{
    struct list *last = s->reads_blocked.prev;

    while (!list_empty(&s->reads_blocked)) {
        struct list *l = list_pop(&s->reads_blocked);
        read_begin(container_of(l, struct store_read, starved_link));
        if (l == last)
            return;
    }
}

/* A failed store reads no more; what was submitted comes back. */
void reads_submit_starved(struct store *s)
{
    struct list *last = s->reads_starved.prev;

    while (!list_empty(&s->reads_starved)) {
        struct list *l = list_pop(&s->reads_starved);
        struct store_read *r = container_of(l, struct store_read, starved_link);
        if (s->failed != 0)
            r->next = r->len / STORE_BLOCK;
        read_submit(r);
        if (l == last || !list_empty(&r->starved_link))
            return;
    }
}
