#include "osd/pg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * What a member does for a primary, or for a candidate. Every handler here begins
 * with the promise (R3), and what was written to the store is acknowledged only if the
 * promise did not move on meanwhile: a new primary that has asked may count on
 * nothing of an older epoch being acknowledged behind its back.
 *
 * Sub-writes of one object arrive in order on one connection, but may be sent again after it broke;
 * so each names the version it goes on top of: version <= W                          it is durable
 * everywhere, long ago: acknowledge, change nothing (R8) version <= the object's               we
 * have it; acknowledge, once it is durable previous == the object's version      apply else an
 * earlier one is missing: refuse, it will be sent again
 */

static void sub_step(struct task *task);

static struct osd_sub *sub_get(struct osd_pg *pg, struct rpc_request *req)
{
    struct osd_sub *s = pool_get(&pg->osd->subs_pool);

    if (s == NULL)
        return NULL;
    memset(s, 0, offsetof(struct osd_sub, sw));
    s->osd = pg->osd;
    s->pg = pg;
    s->req = req;
    task_init(&s->task, sub_step);
    list_init(&s->link);
    return s;
}

static void sub_finish(struct osd_sub *s, int status)
{
    struct rpc_request *req = s->req;

    list_remove(&s->link);
    task_cancel(&s->task);
    pool_put(&s->osd->subs_pool, s);
    rpc_reply_status(req, status);
}

static void sub_on_store(struct store_write *sw)
{
    struct osd_sub *s = container_of(sw, struct osd_sub, sw);

    osd_pg_store_done(s->pg);
    loop_wake(s->osd->loop, &s->task);
}

static void sub_step(struct task *task)
{
    struct osd_sub *s = container_of(task, struct osd_sub, task);
    bool fenced = s->req->epoch < s->pg->promised && !osd_mutated(s->osd, OSD_MUTANT_NO_FENCE);

    if (fenced)
        s->osd->counters.epochs_refused_total++;
    sub_finish(s, fenced ? -EAGAIN : s->sw.result);
}

/* ---- Sub-writes ---- */

static int sub_parse(const struct osd_pg *pg, struct rpc_request *req, struct osd_sub *s)
{
    const uint8_t *p = req->body.base;

    if (req->body.len < WIRE_SUB_WRITE_SIZE)
        return -EINVAL;
    uint32_t kind = get_u32(p + 80);
    s->sw = (struct store_write){
        .kind = kind == 2 ? STORE_ZERO : STORE_WRITE,
        .id = {get_u64(p), get_u64(p + 8)},
        .pg = pg->id,
        .version = get_u64(p + 16),
        .offset = get_u32(p + 72),
        .len = get_u32(p + 76),
        .client = get_u64(p + 48),
        .seq = get_u64(p + 56),
        .data = req->data,
        .crcs = s->crcs,
        .done = sub_on_store,
    };
    const struct store_write *w = &s->sw;
    if (kind < 1 || kind > 2 || w->len == 0 || w->len % STORE_BLOCK != 0 ||
        w->offset % STORE_BLOCK != 0 || w->len > STORE_OBJECT_MAX ||
        w->offset > STORE_OBJECT_MAX - w->len)
        return -EINVAL;

    uint32_t blocks = kind == 1 ? w->len / STORE_BLOCK : 0;
    if (req->body.len != WIRE_SUB_WRITE_SIZE + 4 * blocks ||
        req->data_len != (kind == 1 ? w->len : 0))
        return -EINVAL;
    for (uint32_t i = 0; i < blocks; i++)
        s->crcs[i] = get_u32(p + WIRE_SUB_WRITE_SIZE + 4 * (size_t)i);
    return 0;
}

static int sub_verify(const struct osd_sub *s)
{
    const struct store_write *w = &s->sw;

    for (uint32_t i = 0; w->kind == STORE_WRITE && i < w->len / STORE_BLOCK; i++) {
        const uint8_t *block = (const uint8_t *)w->data + (size_t)i * STORE_BLOCK;
        if (crc32c_block(w->id.image, w->id.object, w->offset / STORE_BLOCK + i, block,
                         STORE_BLOCK) != s->crcs[i])
            return -EBADMSG;
    }
    return 0;
}

/* Is a write of this object still on its way to our device? */
static bool sub_object_busy(const struct osd_pg *pg, const struct store_id *id)
{
    list_for_each (pos, &pg->subs) {
        const struct osd_sub *s = container_of(pos, struct osd_sub, link);
        if (s->sw.id.image == id->image && s->sw.id.object == id->object)
            return true;
    }
    return false;
}

/* 1: apply it; 0: it is here and durable; -errno. */
static int sub_judge(struct osd_sub *s, uint64_t previous)
{
    struct store_object object;
    const struct store_write *w = &s->sw;
    bool known = store_lookup(s->osd->store, &w->id, &object);
    uint64_t have = known ? object.version : 0;

    /* The one it goes on top of may have been dropped already; its writer must come to its end. */
    if (w->version <= s->pg->stable || osd_image_is_gone(s->osd, w->id.image))
        return 0;
    if (w->version <= have)
        return sub_object_busy(s->pg, &w->id) ? -EAGAIN : 0;
    if (have == previous || (known && object.deleted && previous == 0))
        return 1; /* whether there is room was asked before it had a version; the reserve is for it
                   */
    return -EAGAIN;
}

void osd_sub_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req)
{
    struct osd_sub *s = sub_get(pg, req);

    if (s == NULL) {
        rpc_reply_status(req, -EBUSY);
        return;
    }
    int result = sub_parse(pg, req, s);
    if (result == 0)
        result = sub_verify(s);
    if (result == 0) {
        const uint8_t *p = req->body.base;
        osd_pg_hear(pg, get_u64(p + 32), get_u64(p + 40));
        osd_floor(o, pg->id, s->sw.client, get_u64(p + 64));
        result = sub_judge(s, get_u64(p + 24));
    }
    if (result <= 0) {
        sub_finish(s, result);
        return;
    }
    list_push(&pg->subs, &s->link);
    pg->store_busy++;
    o->counters.subwrites_total++;
    store_write_start(o->store, &s->sw);
}

/*
 * ---- Queries and lists: R6b, R8 ----
 *
 * The promise is made; what was under way in the store finishes first, for it may still be
 * lost, and what is not durable does not count as held.
 */

static void list_answer(struct osd_pg *pg, struct rpc_request *req);

static void query_answer(struct osd_sub *s)
{
    uint8_t *body = (uint8_t *)s->crcs;
    struct rpc_request *req = s->req;
    bool fenced = req->epoch < s->pg->promised;

    put_u64(body, osd_pg_known(s->pg));
    req->reply_body = (struct slice){body, fenced ? 0 : sizeof(uint64_t)};
    sub_finish(s, fenced ? -EAGAIN : 0); /* a body this short is copied by rpc_reply() */
}

static void drained_answer(struct osd_sub *s)
{
    struct osd_pg *pg = s->pg;
    struct rpc_request *req = s->req;

    if (req->kind == WIRE_QUERY) {
        query_answer(s);
    } else if (req->epoch < pg->promised) {
        sub_finish(s, -EAGAIN);
    } else {
        pool_put(&s->osd->subs_pool, s);
        list_answer(pg, req);
    }
}

static void drain(struct osd_pg *pg, struct rpc_request *req)
{
    struct osd_sub *s = sub_get(pg, req);

    if (s == NULL)
        rpc_reply_status(req, -EBUSY);
    else if (pg->store_busy == 0)
        drained_answer(s);
    else
        list_push(&pg->draining, &s->link);
}

void osd_query_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req)
{
    (void)o;
    drain(pg, req);
}

void osd_queries_drained(struct osd_pg *pg)
{
    for (struct list *l = list_pop(&pg->draining); l != NULL; l = list_pop(&pg->draining))
        drained_answer(container_of(l, struct osd_sub, link));
}

/* ---- Lists ---- */

static int compare_newest(const void *a, const void *b)
{
    const struct store_dedup *x = a, *y = b;

    return x->version > y->version ? -1 : x->version < y->version;
}

/*
 * Where there are more than fit, the oldest are left out: what members of S may differ in are the
 * writes that were in flight (at most OSD_WRITES_MAX), and these are the newest.
 */
uint32_t osd_dedups_newest(struct osd *o, const struct store_id *id, uint64_t above,
                           struct store_dedup *out, uint32_t max)
{
    uint32_t total = store_dedup_list(o->store, id, above, out, max);

    if (total <= max)
        return total;
    struct store_dedup *all = mem_zalloc((size_t)total * sizeof(*all));
    store_dedup_list(o->store, id, above, all, total);
    qsort(all, total, sizeof(*all), compare_newest);
    memcpy(out, all, (size_t)max * sizeof(*out));
    free(all);
    return max;
}

static uint8_t *list_put_object(struct osd *o, const struct store_object *object, uint64_t above,
                                uint8_t *p, const uint8_t *end)
{
    static_assert(OSD_LIST_CHUNK > WIRE_LIST_HEAD + WIRE_LIST_ITEM, "an object fits");
    struct store_dedup dedups[2 * OSD_WRITES_MAX];
    uint32_t count = osd_dedups_newest(o, &object->id, above, dedups, COUNT_OF(dedups));

    if ((size_t)(end - p) < WIRE_LIST_ITEM + (size_t)count * WIRE_DEDUP_SIZE)
        return NULL;
    put_u64(p, object->id.image);
    put_u64(p + 8, object->id.object);
    put_u64(p + 16, object->version);
    put_u32(p + 24, object->deleted);
    put_u32(p + 28, count);
    p += WIRE_LIST_ITEM;
    for (uint32_t i = 0; i < count; i++, p += WIRE_DEDUP_SIZE) {
        put_u64(p, dedups[i].client);
        put_u64(p + 8, dedups[i].seq);
        put_u64(p + 16, dedups[i].version);
    }
    return p;
}

uint32_t osd_list_encode(struct osd *o, uint64_t pg, uint64_t above, struct store_cursor *cursor,
                         uint8_t *out, uint32_t out_max, bool *more)
{
    uint8_t *p = out + WIRE_LIST_HEAD;
    uint32_t count = 0;

    *more = false;
    for (;;) {
        struct store_cursor before = *cursor;
        struct store_object object;
        if (store_list(o->store, pg, above, cursor, &object, 1) == 0) {
            *more = !cursor->ended;
            break;
        }
        uint8_t *next = list_put_object(o, &object, above, p, out + out_max);
        if (next == NULL) {
            *cursor = before;
            *more = true;
            break;
        }
        p = next;
        count++;
    }
    put_u32(out, count);
    put_u32(out + 4, *more);
    put_u64(out + 8, cursor->position[0]);
    put_u64(out + 16, cursor->position[1]);
    return (uint32_t)(p - out);
}

static void list_on_replied(struct rpc_request *req, void *arg)
{
    struct osd_copy *c = arg;

    (void)req;
    osd_copy_put(c);
}

static void list_answer(struct osd_pg *pg, struct rpc_request *req)
{
    const uint8_t *p = req->body.base;
    struct osd *o = pg->osd;
    struct osd_copy *c = osd_copy_get(pg, true);

    if (c == NULL) {
        rpc_reply_status(req, -EBUSY);
        return;
    }
    struct store_cursor cursor = {
        .pg = pg->id,
        .position = {get_u64(p + 8), get_u64(p + 16)},
        .started = get_u32(p + 24) == 1,
    };
    bool more;
    uint32_t len = osd_list_encode(o, pg->id, get_u64(p), &cursor, c->body, OSD_LIST_CHUNK, &more);
    req->status = 0;
    req->reply_body = (struct slice){c->body, len};
    req->replied = list_on_replied;
    req->replied_arg = c;
    rpc_reply(req);
}

/* The first chunk waits for what is on its way; whatever begins later is of the asker's epoch, and
 * its own doing. */
void osd_list_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req)
{
    const uint8_t *p = req->body.base;

    (void)o;
    if (req->body.len != WIRE_LIST_SIZE || get_u32(p + 24) > 1 || get_u32(p + 28) > 1) {
        rpc_reply_status(req, -EINVAL);
        return;
    }
    /* We may have dropped what the asker, whose map is old, takes us to have. */
    if (get_u32(p + 28) == 1 && get_u64(p) > 0 && req->epoch <= pg->purged) {
        rpc_reply_status(req, -EAGAIN);
        return;
    }
    if (get_u32(p + 28) == 1)
        osd_pg_joins(pg, req->epoch);
    if (get_u32(p + 24) == 1)
        list_answer(pg, req);
    else
        drain(pg, req);
}
