#include "osd/pg.h"

#include <errno.h>
#include <string.h>

/*
 * A client's read at the primary (R7): its turn at the object, so that no write of
 * the range is in flight; then leases from every member of `need`, looked at after
 * the request came and before the data is read; then the store, which verifies.
 * A deposed primary may still answer a read that got that far: at the moment
 * the leases were looked at, nobody else could have acknowledged anything newer.
 */

static void read_step(struct task *task);

static void read_on_begin(struct osd_use *u)
{
    struct osd_read *r = container_of(u, struct osd_read, use);

    r->begun = true;
    loop_wake(r->osd->loop, &r->task);
}

static void read_on_refuse(struct osd_use *u, int status)
{
    struct osd_read *r = container_of(u, struct osd_read, use);

    r->refused = true;
    r->refuse_status = status;
    loop_wake(r->osd->loop, &r->task);
}

static void read_on_store(struct store_read *sr)
{
    struct osd_read *r = container_of(sr, struct osd_read, sr);

    r->done = true;
    loop_wake(r->osd->loop, &r->task);
}

static void read_finish(struct osd_read *r, int status)
{
    struct osd *o = r->osd;
    struct rpc_request *req = r->req;

    list_remove(&r->link);
    if (r->use.object != NULL)
        osd_use_end(&r->use);
    task_cancel(&r->task);
    pool_put(&o->reads_pool, r);
    rpc_reply_status(req, status);
}

static void read_on_replied(struct rpc_request *req, void *arg)
{
    struct osd_read *r = arg;

    (void)req;
    pool_put(&r->osd->reads_pool, r);
}

/* One crc for each piece: the store's own for whole blocks, computed for the edges. */
static uint32_t read_encode_crcs(struct osd_read *r)
{
    uint32_t at = 0, count = 0;

    while (at < r->io.len) {
        uint32_t offset = r->io.offset + at;
        uint32_t block = offset / WIRE_BLOCK;
        uint32_t left = WIRE_BLOCK - offset % WIRE_BLOCK;
        uint32_t len = left < r->io.len - at ? left : r->io.len - at;
        uint32_t crc = r->crcs[block - r->sr.offset / WIRE_BLOCK];
        if (len != WIRE_BLOCK)
            crc = crc32c_block(r->io.image, r->io.object, block, r->buf + (offset - r->sr.offset),
                               len);
        put_u32(r->body + 4 * (size_t)count++, crc);
        at += len;
    }
    return 4 * count;
}

/* The answer is built in the read's own memory, which lives until the net has let go of it. */
static void read_answer(struct osd_read *r)
{
    struct rpc_request *req = r->req;

    list_remove(&r->link);
    osd_use_end(&r->use);
    task_cancel(&r->task);
    r->osd->counters.reads_total++;
    req->status = 0;
    req->reply_body = (struct slice){r->body, read_encode_crcs(r)};
    req->reply_data = r->buf + (r->io.offset - r->sr.offset);
    req->reply_data_len = r->io.len;
    req->replied = read_on_replied;
    req->replied_arg = r;
    rpc_reply(req);
}

static void read_start_store(struct osd_read *r)
{
    uint32_t first = r->io.offset / STORE_BLOCK * STORE_BLOCK;

    r->sr = (struct store_read){
        .id = {r->io.image, r->io.object},
        .offset = first,
        .len = wire_pieces(r->io.offset, r->io.len) * STORE_BLOCK,
        .crcs = r->crcs,
        .done = read_on_store,
    };
    r->buf = rpc_reply_buffer(r->req, r->sr.len);
    if (r->buf == NULL) {
        read_finish(r, -EBUSY);
        return;
    }
    r->sr.buf = r->buf;
    store_read_start(r->osd->store, &r->sr);
}

/* Our device does not give it back: another member has it (repair.c). */
static void read_repair(struct osd_read *r)
{
    struct osd_pg *pg = r->pg;
    struct store_id id = r->sr.id;
    int result = -EAGAIN;

    if (osd_is_unreadable(r->sr.result) && osd_pg_acting(pg))
        result = osd_repair_start(pg, &id);
    read_finish(r, result);
}

static void read_step(struct task *task)
{
    struct osd_read *r = container_of(task, struct osd_read, task);

    if (r->buf == NULL) { /* it waited for its turn */
        if (r->refused || !osd_pg_acting(r->pg) || !osd_leased(r->pg))
            read_finish(r, r->refused ? r->refuse_status : -EAGAIN);
        else if (r->begun)
            read_start_store(r);
    } else if (r->done) {
        if (r->sr.result == 0 || r->sr.result == -ENOENT)
            read_answer(r);
        else
            read_repair(r);
    }
}

void osd_read_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req)
{
    struct wire_osd_io io;

    if (req->body.len != WIRE_OSD_IO_SIZE || req->data_len != 0) {
        rpc_reply_status(req, -EINVAL);
        return;
    }
    wire_osd_io_get(req->body.base, &io);
    int result = osd_client_check(o, pg, req, &io);
    if (result == 0 && !osd_leased(pg))
        result = -EAGAIN;
    struct osd_read *r = result == 0 ? pool_get(&o->reads_pool) : NULL;
    if (r == NULL) {
        rpc_reply_status(req, result == 0 ? -EBUSY : result);
        return;
    }

    memset(r, 0, offsetof(struct osd_read, sr));
    r->osd = o;
    r->pg = pg;
    r->req = req;
    r->io = io;
    task_init(&r->task, read_step);
    list_init(&r->link);
    list_push(&pg->reads, &r->link);
    r->use = (struct osd_use){
        .kind = OSD_USE_READ,
        .offset = io.offset,
        .len = io.len,
        .begin = read_on_begin,
        .refuse = read_on_refuse,
    };
    struct store_id id = {io.image, io.object};
    if (osd_use_start(pg, &id, &r->use) != 0)
        read_finish(r, -EBUSY);
}

void osd_reads_reset(struct osd_pg *pg)
{
    list_for_each (pos, &pg->reads)
        loop_wake(pg->osd->loop, &container_of(pos, struct osd_read, link)->task);
}
