#include "osd/pg.h"

#include <errno.h>
#include <string.h>

/*
 * A client's write, or zero, at the primary.
 *
 *   QUEUED --turn--> MERGING --blocks read--> REPLICATING --all needed have it--> LEAVING
 *      |  \--turn, whole blocks-----------------^                                  ^
 *      +--reign over-----+------------------------------+--------------------------+
 *
 * The version is given on entry to REPLICATING, in the order in which writes of
 * the PG get there; pg.writes is kept in that order for those that have one. The
 * promise: an answer of 0 is sent when the own store and every OSD of `need` have the
 * write on stable storage, under a reign that was never fenced (R2, R3).
 *
 * A retry of a request (same client, same seq) finds the write here, or its
 * dedup record in the store: it is never executed twice (R10).
 */

static void write_step(struct task *task);

/* ---- What may come in ---- */

static int client_image_check(struct osd *o, const struct osd_pg *pg, const struct wire_osd_io *io)
{
    const struct map_image *image = map_image(o->map, io->image);

    if (image == NULL)
        return io->image > o->map->image_last ? -EAGAIN : -ENOENT;

    const struct map_pool *pool = map_pool(o->map, image->pool);
    if (pool == NULL || io->len == 0 || io->len > pool->object_size ||
        io->offset > pool->object_size - io->len)
        return -EINVAL;
    if (io->object > image->size / pool->object_size)
        return -EINVAL;
    return map_pg_of(pool, image->root, io->object) == pg->id ? 0 : -EINVAL;
}

/* Everything about a client's request that can be judged before it waits for anything. */
int osd_client_check(struct osd *o, struct osd_pg *pg, const struct rpc_request *req,
                     const struct wire_osd_io *io)
{
    if (!osd_pg_acting(pg) || req->epoch != pg->view.epoch)
        return -EAGAIN;
    if (io->client != 0 && map_client_is_fenced(o->map, io->client))
        return -EPERM;
    return client_image_check(o, pg, io);
}

static int write_parse(struct rpc_request *req, struct wire_osd_io *io)
{
    if (req->body.len < WIRE_OSD_IO_SIZE)
        return -EINVAL;
    wire_osd_io_get(req->body.base, io);
    if (io->client == 0 || io->len == 0 || io->len > STORE_OBJECT_MAX ||
        io->offset > STORE_OBJECT_MAX - io->len)
        return -EINVAL;
    if (req->kind == WIRE_OSD_ZERO)
        return req->body.len == WIRE_OSD_IO_SIZE && req->data_len == 0 ? 0 : -EINVAL;

    uint32_t pieces = wire_pieces(io->offset, io->len);
    return req->body.len == WIRE_OSD_IO_SIZE + 4 * pieces && req->data_len == io->len ? 0 : -EINVAL;
}

/* Each piece against the crc that the client sent; whole blocks keep theirs as what the stores
 * record. */
static int write_verify(struct osd_write *w)
{
    const uint8_t *crcs = (const uint8_t *)w->req->body.base + WIRE_OSD_IO_SIZE;
    const uint8_t *data = w->req->data;
    uint32_t at = 0, piece = 0;

    while (at < w->io.len) {
        uint32_t offset = w->io.offset + at;
        uint32_t block = offset / WIRE_BLOCK;
        uint32_t left = WIRE_BLOCK - offset % WIRE_BLOCK;
        uint32_t len = left < w->io.len - at ? left : w->io.len - at;
        uint32_t crc = crc32c_block(w->io.image, w->io.object, block, data + at, len);
        if (crc != get_u32(crcs + 4 * (size_t)piece))
            return -EBADMSG;
        w->crcs[block - w->block_offset / WIRE_BLOCK] = crc;
        at += len;
        piece++;
    }
    return 0;
}

/* ---- Ends ---- */

static void write_reply(struct rpc_request **req, int status)
{
    if (*req != NULL) {
        struct rpc_request *r = *req;
        *req = NULL;
        rpc_reply_status(r, status);
    }
}

static bool write_is_idle(const struct osd_write *w)
{
    if (w->local_started && !w->local_done)
        return false;
    for (uint32_t i = 0; i < w->legs_count; i++) {
        if (w->legs[i].in_flight)
            return false;
    }
    return w->merges_left == 0;
}

/* From here on its store counts what it needs. */
static void write_release_room(struct osd_write *w)
{
    w->osd->queued_bytes -= w->room;
    w->room = 0;
}

static void write_free(struct osd_write *w)
{
    struct osd *o = w->osd;

    if (w->merge != NULL)
        pool_put(&o->merges_pool, w->merge);
    task_cancel(&w->task);
    pool_put(&o->writes_pool, w);
}

/*
 * Answer, and give the object to the next. The request's data may still be
 * named by legs to members that are no longer needed: then a request that waits to be
 * answered keeps its memory, and it is freed with the write.
 */
static void write_leave(struct osd_write *w, int status)
{
    struct osd_pg *pg = w->pg;

    list_remove(&w->link);
    write_release_room(w);
    if (w->use.object != NULL)
        osd_use_end(&w->use);
    w->state = OSD_WRITE_LEAVING;
    w->refuse_status = status;
    for (uint32_t i = 0; i < w->legs_count; i++) {
        if (w->legs[i].in_flight)
            rpc_call_cancel(w->osd->net, &w->legs[i].call);
    }
    write_reply(&w->retry, status);
    osd_pg_wake(pg);
    loop_wake(w->osd->loop, &w->task);
}

/* ---- Merging ---- */

static void write_on_edge(struct store_read *r)
{
    struct osd_write *w = r->priv;

    if (r->result != 0 && r->result != -ENOENT)
        w->merge_result = r->result;
    w->merges_left--;
    loop_wake(w->osd->loop, &w->task);
}

static void write_read_edge(struct osd_write *w, struct store_read *r, uint32_t offset)
{
    *r = (struct store_read){
        .id = {w->io.image, w->io.object},
        .offset = offset,
        .len = STORE_BLOCK,
        .buf = w->merge + (offset - w->block_offset),
        .done = write_on_edge,
        .priv = w,
    };
    store_read_start(w->osd->store, r);
}

/* The blocks at the edges, as they are now: nobody changes the object meanwhile. */
static void write_start_merge(struct osd_write *w)
{
    uint32_t last = w->block_offset + w->block_len - STORE_BLOCK;
    bool head = w->io.offset % STORE_BLOCK != 0;
    bool tail = (w->io.offset + w->io.len) % STORE_BLOCK != 0;

    w->state = OSD_WRITE_MERGING;
    w->merge_result = 0;
    w->merges_left = 0;
    if (head || last == w->block_offset)
        w->merges_left++;
    if (tail && last != w->block_offset)
        w->merges_left++;

    if (head || last == w->block_offset)
        write_read_edge(w, &w->edge[0], w->block_offset);
    if (tail && last != w->block_offset)
        write_read_edge(w, &w->edge[1], last);
}

static void write_apply_merge(struct osd_write *w)
{
    uint8_t *at = w->merge + (w->io.offset - w->block_offset);

    if (w->zero)
        memset(at, 0, w->io.len);
    else
        memcpy(at, w->req->data, w->io.len);
    w->zero = false;
    w->data = w->merge;
    for (uint32_t i = 0; i < w->block_len / STORE_BLOCK; i++)
        w->crcs[i] = crc32c_block(w->io.image, w->io.object, w->block_offset / STORE_BLOCK + i,
                                  w->data + (size_t)i * STORE_BLOCK, STORE_BLOCK);
}

/* ---- Replicating ---- */

static void write_encode(struct osd_write *w, uint64_t client_floor)
{
    uint8_t *p = w->body;

    put_u64(p, w->io.image);
    put_u64(p + 8, w->io.object);
    put_u64(p + 16, w->version);
    put_u64(p + 24, w->previous);
    put_u64(p + 32, osd_pg_stable(w->pg));
    put_u64(p + 40, osd_pg_tombstone_floor(w->pg));
    put_u64(p + 48, w->io.client);
    put_u64(p + 56, w->io.seq);
    put_u64(p + 64, client_floor);
    put_u32(p + 72, w->block_offset);
    put_u32(p + 76, w->block_len);
    put_u32(p + 80, w->zero ? 2 : 1);
    put_u32(p + 84, 0);
    w->body_len = WIRE_SUB_WRITE_SIZE;
    if (w->zero)
        return;
    for (uint32_t i = 0; i < w->block_len / STORE_BLOCK; i++, w->body_len += 4)
        put_u32(p + w->body_len, w->crcs[i]);
}

static void write_on_leg(struct rpc_call *c)
{
    struct osd_leg *leg = container_of(c, struct osd_leg, call);
    struct osd_write *w = leg->write;
    uint64_t now = loop_now(w->osd->loop);

    leg->in_flight = false;
    leg->acked = leg->acked || c->status == 0;
    leg->refused = c->status == -ECONNREFUSED;
    leg->retry_ns = c->status == -EPIPE ? now : now + 5 * NS_PER_MS;
    loop_wake(w->osd->loop, &w->task);
}

static void write_on_store(struct store_write *sw)
{
    struct osd_write *w = container_of(sw, struct osd_write, sw);

    w->local_done = true;
    osd_pg_store_done(w->pg);
    loop_wake(w->osd->loop, &w->task);
}

static void write_send_leg(struct osd_write *w, struct osd_leg *leg, uint64_t now)
{
    struct osd *o = w->osd;

    leg->in_flight = true;
    leg->call = (struct rpc_call){
        .to = net_endpoint_make(NET_OSD, leg->osd),
        .kind = WIRE_SUB_WRITE,
        .pg = w->pg->id,
        .epoch = w->pg->view.epoch,
        .to_incarnation = osd_incarnation_of(o, leg->osd),
        .revision = w->pg->view_revision,
        .body = {w->body, w->body_len},
        .data = w->zero ? NULL : &w->iov,
        .data_count = w->zero ? 0 : 1,
        .deadline_ns = now + o->subwrite_ns,
        .done = write_on_leg,
    };
    rpc_call_start(o->net, &leg->call);
}

static struct osd_leg *write_leg(struct osd_write *w, uint32_t osd)
{
    for (uint32_t i = 0; i < w->legs_count; i++) {
        if (w->legs[i].osd == osd)
            return &w->legs[i];
    }
    /* A leg to an OSD that is needed no more makes room; there are more slots than needed OSDs. */
    struct osd_leg *leg = NULL;
    if (w->legs_count < OSD_MEMBERS_MAX)
        leg = &w->legs[w->legs_count++];
    for (uint32_t i = 0; leg == NULL && i < w->legs_count; i++) {
        if (!w->legs[i].in_flight && !osd_pg_in_set(w->pg, w->legs[i].osd))
            leg = &w->legs[i];
    }
    if (leg != NULL) {
        memset(leg, 0, sizeof(*leg));
        leg->write = w;
        leg->osd = osd;
    }
    return leg;
}

/* Send to whoever is needed and has not answered. True if every needed member has it. */
static bool write_serve_legs(struct osd_write *w)
{
    struct osd *o = w->osd;
    struct store_id id = {w->io.image, w->io.object};
    uint32_t need[OSD_MEMBERS_MAX], acked = 0;
    uint32_t count = osd_pg_need(w->pg, &id, need);
    uint64_t now = loop_now(o->loop);

    for (uint32_t i = 0; i < count; i++) {
        struct osd_leg *leg = write_leg(w, need[i]);
        if (leg == NULL)
            continue;
        if (leg->acked || (leg->refused && osd_mutated(o, OSD_MUTANT_ACK_BEFORE_SHRINK))) {
            acked++;
            continue;
        }
        if (!leg->in_flight && now >= leg->retry_ns && osd_is_up(o, leg->osd))
            write_send_leg(w, leg, now);
    }
    if (osd_mutated(o, OSD_MUTANT_ACK_BEFORE_ALL) && acked > 0)
        return true;
    return acked == count;
}

/* The members that refuse connections, or have not answered for too long, leave S (R5), or are
 * given up as joiners (R9). */
static void write_blame_late(struct osd_write *w, uint64_t now)
{
    struct osd_pg *pg = w->pg;
    struct store_id id = {w->io.image, w->io.object};
    uint32_t out[OSD_MEMBERS_MAX], count = 0;
    bool late = now >= w->sent_ns + w->osd->subwrite_ns;
    bool joiner_late = false;

    for (uint32_t i = 0; i < w->legs_count; i++) {
        struct osd_leg *leg = &w->legs[i];
        if (leg->acked || !(late || leg->refused))
            continue;
        if (osd_pg_in_set(pg, leg->osd))
            out[count++] = leg->osd;
        else if (leg->osd == osd_recovery_member(pg)) /* others left S, and are not waited for */
            joiner_late = osd_recovery_has(pg, &id) || pg->pending_add != 0;
    }
    if (joiner_late && pg->pending_add == 0) {
        osd_recovery_stop(pg);
        osd_pg_wake_writes(pg);
    }
    if (count > 0 || (joiner_late && pg->pending_add != 0))
        osd_pg_shrink(pg, out, count);
}

static void write_begin(struct osd_write *w)
{
    struct osd *o = w->osd;
    struct osd_pg *pg = w->pg;
    struct store_id id = {w->io.image, w->io.object};
    struct store_object object;

    bool known = store_lookup(o->store, &id, &object);
    w->previous = known && !object.deleted ? object.version : 0;
    w->version = pg->version_last = osd_version(pg->view.epoch, ++pg->seq);
    list_remove(&w->link); /* to the end of those that have a version, which is the end of all that
                              were given one */
    list_push(&pg->writes, &w->link);
    w->sent_ns = loop_now(o->loop);
    w->iov = (struct iovec){w->data, w->block_len};
    w->state = OSD_WRITE_REPLICATING;
    if (w->use.kind == OSD_USE_MERGE)
        osd_use_merged(&w->use);
    osd_recovery_written(pg, &id);
    write_encode(w, osd_floor(o, pg->id, w->io.client, w->io.floor));

    w->sw = (struct store_write){
        .kind = w->zero ? STORE_ZERO : STORE_WRITE,
        .id = id,
        .pg = pg->id,
        .version = w->version,
        .offset = w->block_offset,
        .len = w->block_len,
        .data = w->data,
        .crcs = w->crcs,
        .client = w->io.client,
        .seq = w->io.seq,
        .done = write_on_store,
    };
    w->local_started = true;
    pg->store_busy++;
    o->counters.writes_total++;
    store_write_start(o->store, &w->sw);
    write_release_room(w);
}

/* ---- The machine ---- */

static void write_on_begin(struct osd_use *u)
{
    struct osd_write *w = container_of(u, struct osd_write, use);

    loop_wake(w->osd->loop, &w->task);
}

static void write_on_refuse(struct osd_use *u, int status)
{
    struct osd_write *w = container_of(u, struct osd_write, use);

    w->refused = true;
    w->refuse_status = status;
    loop_wake(w->osd->loop, &w->task);
}

/* Its turn may come after a candidate was promised a newer epoch: then nothing is started, not
 * even in our own store (R3). */
static void write_step_queued(struct osd_write *w)
{
    if (w->refused) {
        write_leave(w, w->refuse_status);
    } else if (!w->use.begun) {
        return;
    } else if (!osd_pg_acting(w->pg)) {
        write_leave(w, -EAGAIN);
    } else if (w->partial) {
        write_start_merge(w);
    } else {
        write_begin(w);
        write_serve_legs(w);
    }
}

static void write_step_merging(struct osd_write *w)
{
    if (w->merges_left > 0)
        return;
    if (w->refused || !osd_pg_acting(w->pg)) {
        write_leave(w, -EAGAIN);
    } else if (w->merge_result != 0) {
        struct store_id id = {w->io.image, w->io.object};
        write_leave(w, osd_repair_start(w->pg, &id)); /* another member has it */
    } else {
        write_apply_merge(w);
        write_begin(w);
        write_serve_legs(w);
    }
}

static void write_step_replicating(struct osd_write *w)
{
    if (w->refused) {
        write_leave(w, -EAGAIN);
        return;
    }
    if (!osd_pg_acting(w->pg))
        return; /* fenced: the view that deposes or confirms us will come */

    bool all = write_serve_legs(w);
    if (w->local_done && w->sw.result != 0) {
        osd_fail(w->osd, w->sw.result, "its store refused a write that was sent to others");
    } else if (w->local_done && all) {
        write_leave(w, 0);
    } else {
        write_blame_late(w, loop_now(w->osd->loop));
    }
}

static void write_step(struct task *task)
{
    struct osd_write *w = container_of(task, struct osd_write, task);

    switch (w->state) {
    case OSD_WRITE_QUEUED:
        write_step_queued(w);
        return;
    case OSD_WRITE_MERGING:
        write_step_merging(w);
        return;
    case OSD_WRITE_REPLICATING:
        write_step_replicating(w);
        return;
    case OSD_WRITE_LEAVING:
        if (write_is_idle(w)) {
            write_reply(&w->req, w->refuse_status);
            write_free(w);
        }
        return;
    }
}

/* ---- Arrival ---- */

/* R10: the same request again. True: it was dealt with. */
static bool write_find_retry(struct osd_pg *pg, struct rpc_request *req,
                             const struct wire_osd_io *io)
{
    struct osd *o = pg->osd;
    uint64_t version;

    list_for_each (pos, &pg->writes) {
        struct osd_write *w = container_of(pos, struct osd_write, link);
        if (w->io.client == io->client && w->io.seq == io->seq) {
            write_reply(&w->retry, -EAGAIN); /* only the newest of the retries is waited for */
            w->retry = req;
            return true;
        }
    }
    if (osd_mutated(o, OSD_MUTANT_NO_DEDUP) ||
        !store_dedup_find(o->store, pg->id, io->client, io->seq, &version))
        return false;
    rpc_reply_status(req, 0);
    return true;
}

static void write_init(struct osd_write *w, struct osd_pg *pg, struct rpc_request *req,
                       const struct wire_osd_io *io)
{
    memset(w, 0, offsetof(struct osd_write, legs));
    w->osd = pg->osd;
    w->pg = pg;
    w->req = req;
    w->io = *io;
    w->zero = req->kind == WIRE_OSD_ZERO;
    w->partial = io->offset % STORE_BLOCK != 0 || io->len % STORE_BLOCK != 0;
    w->block_offset = io->offset / STORE_BLOCK * STORE_BLOCK;
    w->block_len = wire_pieces(io->offset, io->len) * STORE_BLOCK;
    w->data = req->data;
    w->started_ns = loop_now(pg->osd->loop);
    task_init(&w->task, write_step);
    list_init(&w->link);
    w->use = (struct osd_use){
        .kind = w->partial ? OSD_USE_MERGE : OSD_USE_WRITE,
        .offset = w->block_offset,
        .len = w->block_len,
        .begin = write_on_begin,
        .refuse = write_on_refuse,
    };
}

static int write_start(struct osd_pg *pg, struct rpc_request *req, const struct wire_osd_io *io)
{
    struct osd *o = pg->osd;
    struct store_id id = {io->image, io->object};
    struct osd_write *w = pool_get(&o->writes_pool);

    if (w == NULL)
        return -EBUSY;
    write_init(w, pg, req, io);
    if (w->partial && (w->merge = pool_get(&o->merges_pool)) == NULL) {
        pool_put(&o->writes_pool, w);
        return -EBUSY;
    }
    int result = w->zero ? 0 : write_verify(w);
    list_push_front(&pg->writes, &w->link);
    if (result == 0)
        result = osd_use_start(pg, &id, &w->use);
    if (result != 0) {
        list_remove(&w->link);
        write_free(w);
    } else if (!w->zero) {
        w->room = w->block_len;
        o->queued_bytes += w->room;
    }
    return result;
}

/* How many blocks of its range our store has. */
static uint32_t write_blocks_there(struct osd *o, const struct wire_osd_io *io)
{
    struct store_id id = {io->image, io->object};
    struct store_object object;
    uint32_t first = io->offset / STORE_BLOCK, there = 0;

    if (!store_lookup(o->store, &id, &object))
        return 0;
    for (uint32_t b = first; b < first + wire_pieces(io->offset, io->len); b++)
        there += (uint32_t)(object.present[b / 64] >> (b % 64) & 1);
    return there;
}

/*
 * Zeros where there is nothing: done. Discards of a whole new image would else leave a record of
 * each of its objects. It is a look at what is there, and so needs leases as a read does (R7).
 */
static bool write_is_nothing(struct osd_pg *pg, const struct rpc_request *req,
                             const struct wire_osd_io *io)
{
    struct osd *o = pg->osd;
    struct store_id id = {io->image, io->object};

    if (req->kind != WIRE_OSD_ZERO)
        return false;
    if (osd_was_nothing(o, pg->id, io->client, io->seq))
        return true;
    if (osd_object_find(o, &id) != NULL || write_blocks_there(o, io) > 0 || !osd_leased(pg))
        return false;
    osd_note_nothing(o, pg->id, io->client, io->seq);
    return true;
}

/*
 * Room for new data everywhere; or it takes the place of what is there already, and our own store
 * has room for that; or it gives room back. What is not refused here is carried through, and our
 * own store must not refuse it (write_step_replicating()).
 */
static bool write_fits(struct osd_pg *pg, const struct rpc_request *req,
                       const struct wire_osd_io *io)
{
    if (osd_pg_has_room(pg))
        return true;
    uint32_t there = write_blocks_there(pg->osd, io);
    if (req->kind == WIRE_OSD_ZERO)
        return there > 0;
    return there == wire_pieces(io->offset, io->len) && osd_has_room(pg->osd, OSD_ROOM_IN_PLACE);
}

void osd_write_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req)
{
    struct wire_osd_io io;
    int result = write_parse(req, &io);

    if (result == 0 && io.seq >= STORE_SEQ_MAX)
        result = -EINVAL;
    if (result == 0)
        result = osd_client_check(o, pg, req, &io);
    if (result == 0 && write_find_retry(pg, req, &io))
        return;
    if (result == 0) {
        uint64_t floor = osd_floor(o, pg->id, io.client, io.floor);
        if (io.seq < floor || io.seq >= io.floor + WIRE_OSD_WINDOW)
            result = -ECANCELED;
    }
    if (result == 0 && write_is_nothing(pg, req, &io)) {
        rpc_reply_status(req, 0);
        return;
    }
    if (result == 0 && !write_fits(pg, req, &io))
        result = -ENOSPC;
    if (result == 0)
        result = write_start(pg, req, &io);
    if (result != 0)
        rpc_reply_status(req, result);
}

/* ---- The reign ---- */

/* The lowest version in flight. Writes without one stand in front (they were pushed there), those
 * with one in order. */
uint64_t osd_writes_lowest(const struct osd_pg *pg)
{
    list_for_each (pos, &pg->writes) {
        const struct osd_write *w = container_of(pos, struct osd_write, link);
        if (w->version != 0)
            return w->version;
    }
    return 0;
}

/* A new epoch of the same reign: every member gets its full time again. */
void osd_writes_continue(struct osd_pg *pg)
{
    list_for_each (pos, &pg->writes)
        container_of(pos, struct osd_write, link)->sent_ns = loop_now(pg->osd->loop);
    osd_pg_wake_writes(pg);
}

void osd_writes_reset(struct osd_pg *pg)
{
    list_for_each (pos, &pg->writes) {
        struct osd_write *w = container_of(pos, struct osd_write, link);
        w->refused = true;
        w->refuse_status = -EAGAIN;
        loop_wake(pg->osd->loop, &w->task);
    }
}

/* Legs that wait for their time, and members that are late. */
void osd_writes_tick(struct osd_pg *pg, uint64_t now)
{
    list_for_each (pos, &pg->writes) {
        struct osd_write *w = container_of(pos, struct osd_write, link);
        if (w->state == OSD_WRITE_REPLICATING && now > w->sent_ns + NS_PER_MS)
            loop_wake(pg->osd->loop, &w->task);
    }
}
