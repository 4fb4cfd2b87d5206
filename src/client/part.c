#include "client/internal.h"

#include <errno.h>

#include "base/crc32c.h"
#include "base/log.h"

/*
 *        +--------timer, or the map names another route-------+
 *        v                                                    |
 *     WAITING --there is a primary--> SENT --not now----------+
 *      ^  |                           ^  |+--another route----> SENT
 *      |  |                           |  +---final answer-----> DONE
 *      |  +---fenced---+   +--fenced--|--+
 *      |               v   v          |
 *      +--a new id-- UNNAMED --a new id  (or DONE with -EPERM: it may have been executed)
 *
 * A part keeps its number (seq) on every attempt, so an attempt that was executed
 * without our hearing of it is found by its successor (R10). What an attempt
 * that ended otherwise tells is written down in `maybe_executed`.
 */
#define CAN_MOVE_TO(state) (1u << (state))

static const uint32_t part_moves[] = {
    [CLIENT_PART_WAITING] = CAN_MOVE_TO(CLIENT_PART_WAITING) | CAN_MOVE_TO(CLIENT_PART_SENT) |
                            CAN_MOVE_TO(CLIENT_PART_UNNAMED) | CAN_MOVE_TO(CLIENT_PART_DONE),
    [CLIENT_PART_SENT] = CAN_MOVE_TO(CLIENT_PART_WAITING) | CAN_MOVE_TO(CLIENT_PART_SENT) |
                         CAN_MOVE_TO(CLIENT_PART_UNNAMED) | CAN_MOVE_TO(CLIENT_PART_DONE),
    [CLIENT_PART_UNNAMED] = CAN_MOVE_TO(CLIENT_PART_WAITING) | CAN_MOVE_TO(CLIENT_PART_SENT) |
                            CAN_MOVE_TO(CLIENT_PART_DONE),
    [CLIENT_PART_DONE] = 0,
};

static bool part_is_write(const struct client_part *p)
{
    return p->op->kind != CLIENT_READ;
}

static void part_check(const struct client_part *p)
{
    switch (p->state) {
    case CLIENT_PART_WAITING:
        check(!part_is_write(p) || p->seq != 0);
        break;
    case CLIENT_PART_SENT:
        check(!part_is_write(p) || p->seq >= p->client->window.floor);
        check(!loop_timer_is_running(&p->timer));
        break;
    case CLIENT_PART_UNNAMED:
        check(part_is_write(p) && p->seq == 0 && !p->maybe_executed);
        break;
    case CLIENT_PART_DONE:
        check(p->seq == 0);
        break;
    }
}

static void part_move(struct client_part *p, enum client_part_state next)
{
    check(part_moves[p->state] & CAN_MOVE_TO(next));

    p->state = next;
    part_check(p);
}

/* ---- Names: client id and seq ---- */

static void part_take_name(struct client_part *p)
{
    struct client *c = p->client;

    check(c->id_state == CLIENT_ID_VALID);
    p->seq = seq_window_take(&c->window);
    check(p->seq != 0);
    c->named_count++;
}

static void part_drop_name(struct client_part *p)
{
    struct client *c = p->client;

    if (p->seq == 0)
        return;
    seq_window_answer(&c->window, p->seq);
    p->seq = 0;
    c->named_count--;
    if (c->named_count == 0)
        loop_wake(c->loop, &c->id_task);
}

/* ---- The route ---- */

/* 0; -ENOENT: the image is deleted; -EAGAIN: the map shows nobody to ask. */
static int part_find_route(const struct client_part *p, struct client_route *out)
{
    const struct map *map = p->client->map;
    const struct map_image *image = map_image(map, p->op->image->id);

    memset(out, 0, sizeof(*out));
    if (image == NULL)
        return -ENOENT;
    const struct map_pool *pool = map_pool(map, image->pool);
    if (pool == NULL)
        return -ENOENT;
    out->pg = map_pg_of(pool, image->root, p->object);
    out->image_epoch = image->epoch;

    const struct map_pg *pg = map_pg(map, out->pg);
    if (pg == NULL || pg->primary == 0)
        return -EAGAIN;
    const struct map_osd *osd = map_osd(map, pg->primary);
    if (osd == NULL)
        return -EAGAIN;
    out->epoch = pg->epoch;
    out->primary = osd->id;
    out->incarnation = osd->incarnation;
    out->serves = osd->up && pg->active;
    return 0;
}

static bool part_route_is_same(const struct client_route *a, const struct client_route *b)
{
    return a->pg == b->pg && a->epoch == b->epoch && a->primary == b->primary &&
           a->incarnation == b->incarnation && a->serves == b->serves;
}

/* ---- One attempt ---- */

static void part_step(struct task *task);

static void part_on_answer(struct rpc_call *call)
{
    struct client_part *p = container_of(call, struct client_part, call);

    p->call_is_done = true;
    loop_wake(p->client->loop, &p->task);
}

static void part_on_timer(struct loop_timer *timer)
{
    struct client_part *p = container_of(timer, struct client_part, timer);

    loop_wake(p->client->loop, &p->task);
}

/* Bytes of the piece that begins at `done` bytes into the part. */
static uint32_t part_piece_len(const struct client_part *p, uint32_t done)
{
    uint32_t len = WIRE_BLOCK - (p->offset + done) % WIRE_BLOCK;

    return len < p->len - done ? len : p->len - done;
}

/* The checksum of each piece of the part's data, as wire_osd.h has them, one u32 each. */
static void part_compute_crcs(const struct client_part *p, uint8_t *out)
{
    for (uint32_t done = 0; done < p->len; out += 4) {
        uint32_t len = part_piece_len(p, done);
        put_u32(out, crc32c_block(p->op->image->id, p->object, (p->offset + done) / WIRE_BLOCK,
                                  p->data + done, len));
        done += len;
    }
}

static uint32_t part_crcs_size(const struct client_part *p)
{
    return 4 * wire_pieces(p->offset, p->len);
}

/* The fixed part of the body; it differs between attempts in the floor and the image's epoch. */
static void part_put_body(struct client_part *p)
{
    const struct client *c = p->client;
    struct wire_osd_io io = {
        .image = p->op->image->id,
        .object = p->object,
        .image_epoch = p->route.image_epoch,
        .offset = p->offset,
        .len = p->len,
    };

    if (part_is_write(p)) {
        io.client = c->id;
        io.seq = p->seq;
        io.floor = c->window.floor;
    }
    wire_osd_io_put(p->body, &io);
}

static void part_send(struct client_part *p)
{
    struct client *c = p->client;
    struct rpc_call *call = &p->call;

    part_put_body(p);
    memset(call, 0, offsetof(struct rpc_call, inline_body));
    call->to = net_endpoint_make(NET_OSD, p->route.primary);
    call->pg = p->route.pg;
    call->epoch = p->route.epoch;
    call->to_incarnation = p->route.incarnation;
    call->revision = c->map->revision;
    call->body = (struct slice){p->body, WIRE_OSD_IO_SIZE};
    call->deadline_ns = loop_now(c->loop) + CLIENT_TRY_MS * NS_PER_MS;
    call->done = part_on_answer;
    switch (p->op->kind) {
    case CLIENT_WRITE:
        call->kind = WIRE_OSD_WRITE;
        call->body.len += part_crcs_size(p);
        p->iov = (struct iovec){p->data, p->len};
        call->data = &p->iov;
        call->data_count = 1;
        break;
    case CLIENT_READ:
        call->kind = WIRE_OSD_READ;
        call->body_buf = p->crcs;
        call->body_buf_size = sizeof(p->crcs);
        call->data_buf = p->data;
        call->data_buf_size = p->len;
        break;
    case CLIENT_ZERO:
        call->kind = WIRE_OSD_ZERO;
        break;
    case CLIENT_FLUSH:
        never("a flush has no parts");
    }
    p->call_is_done = false;
    loop_timer_stop(c->loop, &p->timer);
    part_move(p, CLIENT_PART_SENT);
    rpc_call_start(c->config.net, call);
}

static bool part_read_is_intact(struct client_part *p)
{
    uint8_t expected[4 * WIRE_OSD_PIECES_MAX];
    const uint32_t size = part_crcs_size(p);

    if (p->call.reply_data_len != p->len || p->call.reply_body.len != size)
        return false;
    part_compute_crcs(p, expected);
    return memcmp(expected, p->call.reply_body.base, size) == 0;
}

/* The result of the attempt. -ENOENT from an OSD that has not seen our map is "not yet", not "no
 * more". */
static int part_judge_answer(struct client_part *p)
{
    struct client *c = p->client;
    int status = p->call.status;

    if (status == 0 && p->op->kind == CLIENT_READ && !part_read_is_intact(p)) {
        c->status.crc_errors_total++;
        log_warn("client", "read failed its checksums osd=%u pg=%u.%x object=%llu",
                 p->route.primary, (uint32_t)(p->route.pg >> 32), (uint32_t)p->route.pg,
                 (unsigned long long)p->object);
        return -EBADMSG;
    }
    if (status == -ENOENT && p->call.reply_revision < c->map->revision &&
        map_image(c->map, p->op->image->id) != NULL)
        return -EAGAIN;
    if (status == -ECANCELED && !p->call.answered)
        return -EAGAIN; /* we gave the attempt up ourselves: the map names another primary */
    return status;
}

/* What no retry can cure. Anything else an OSD or the network says is tried again. */
static bool part_is_final(int status)
{
    switch (status) {
    case 0:
    case -ENOENT:
    case -EINVAL:
    case -ENOSPC:
    case -ENODATA:
    case -ECANCELED:
        return true;
    default:
        return false;
    }
}

/* True of answers that say: this attempt was not executed and never will be. */
static bool part_is_surely_not_executed(const struct client_part *p, int status)
{
    if (!p->call.answered)
        return status == -ECONNREFUSED || status == -EBUSY;
    return status == -EPERM || status == -EBUSY || status == -EBADMSG;
}

/* ---- Waiting ---- */

static uint64_t part_backoff_ns(const struct client_part *p)
{
    uint64_t ms = CLIENT_BACKOFF_MS_MIN;

    for (uint32_t i = 1; i < p->tries && ms < CLIENT_BACKOFF_MS_MAX; i++)
        ms *= 2;
    if (ms > CLIENT_BACKOFF_MS_MAX)
        ms = CLIENT_BACKOFF_MS_MAX;
    uint64_t half_ns = ms * NS_PER_MS / 2;
    return half_ns + loop_random_u64(p->client->loop) % half_ns;
}

static void part_wait(struct client_part *p, uint64_t delay_ns)
{
    struct loop *l = p->client->loop;

    part_move(p, CLIENT_PART_WAITING);
    loop_timer_start(l, &p->timer, loop_now(l) + delay_ns);
}

/* Not now: wait for a newer map that names another route, or a while. */
static void part_back_off(struct client_part *p, int status)
{
    p->tries++;
    if (p->tries == CLIENT_TRIES_LOGGED)
        log_warn("client", "still no answer for an object pg=%u.%x osd=%u epoch=%u status=%d",
                 (uint32_t)(p->route.pg >> 32), (uint32_t)p->route.pg, p->route.primary,
                 p->route.epoch, status);
    part_wait(p, part_backoff_ns(p));
}

/* `p` is gone after. */
static void part_finish(struct client_part *p, int result)
{
    struct client *c = p->client;
    struct client_op *op = p->op;

    loop_timer_stop(c->loop, &p->timer);
    part_drop_name(p);
    part_move(p, CLIENT_PART_DONE);
    list_remove(&p->link);
    task_cancel(&p->task);
    c->parts_of[client_queue_of(op)]--;
    pool_put(&c->parts, p);
    client_op_part_done(op, result);
    client_cut_wake(c);
}

/* The id is fenced. A write that may have been executed must not be sent under another id. */
static void part_lose_name(struct client_part *p)
{
    if (p->maybe_executed) {
        part_finish(p, -EPERM);
        return;
    }
    loop_timer_stop(p->client->loop, &p->timer);
    part_drop_name(p);
    part_move(p, CLIENT_PART_UNNAMED);
}

/* ---- The machine ---- */

/*
 * Send it if somebody serves. Where the map shows nobody, the next map is what to
 * wait for; but a map may be late (a client process whose node is cut off), so
 * the primary is asked all the same once in a while, if there is one.
 */
static void part_try(struct client_part *p, bool waited)
{
    struct client_route route;
    int found = part_find_route(p, &route);

    if (found == -ENOENT) {
        part_finish(p, -ENOENT);
        return;
    }
    if (!part_route_is_same(&route, &p->route)) {
        p->tries = 0;
        waited = false;
    }
    p->route = route;
    if (found == 0 && (route.serves || waited))
        part_send(p);
    else
        part_wait(p, CLIENT_PROBE_MS * NS_PER_MS);
}

static void part_take_answer(struct client_part *p)
{
    int status = part_judge_answer(p);

    if (part_is_final(status)) {
        part_finish(p, status);
        return;
    }
    if (part_is_write(p)) {
        if (!part_is_surely_not_executed(p, status))
            p->maybe_executed = true;
        if (status == -EPERM)
            client_set_fenced(p->client);
        if (p->client->id_state != CLIENT_ID_VALID) {
            part_lose_name(p);
            return;
        }
    }
    struct client_route route;
    p->client->status.retries_total++;
    if (part_find_route(p, &route) != 0 || !part_route_is_same(&route, &p->route))
        part_try(p, false);
    else
        part_back_off(p, status);
}

static void part_step(struct task *task)
{
    struct client_part *p = container_of(task, struct client_part, task);
    struct client *c = p->client;

    switch (p->state) {
    case CLIENT_PART_WAITING:
        if (part_is_write(p) && c->id_state != CLIENT_ID_VALID)
            part_lose_name(p);
        else
            part_try(p, !loop_timer_is_running(&p->timer));
        return;

    case CLIENT_PART_SENT:
        if (p->call_is_done)
            part_take_answer(p);
        return;

    case CLIENT_PART_UNNAMED: /* woken before anybody else may take a number of the new id */
        if (c->id_state != CLIENT_ID_VALID)
            return;
        part_take_name(p);
        part_try(p, false);
        return;

    case CLIENT_PART_DONE:
        never("a finished part was woken");
    }
}

void client_part_start(struct client *c, struct client_op *op, struct client_part *p)
{
    p->client = c;
    p->op = op;
    p->state = CLIENT_PART_WAITING;
    p->seq = 0;
    p->call_is_done = false;
    p->maybe_executed = false;
    p->tries = 0;
    memset(&p->route, 0, sizeof(p->route));
    task_init(&p->task, part_step);
    loop_timer_init(&p->timer, part_on_timer);
    list_init(&p->link);
    list_push(&c->parts_open, &p->link);
    c->status.parts_total++;

    check(wire_pieces(p->offset, p->len) <= WIRE_OSD_PIECES_MAX);
    if (op->kind != CLIENT_READ)
        part_take_name(p);
    if (op->kind == CLIENT_WRITE)
        part_compute_crcs(p, p->body + WIRE_OSD_IO_SIZE);
    part_check(p);
    loop_wake(c->loop, &p->task);
}

/*
 * A newer map. A waiting part goes on if its route changed, and is left to its
 * timer otherwise. One that is in flight to an OSD that is no longer the primary is
 * given up at once: a silent host would hold it until its deadline.
 */
void client_part_see_map(struct client_part *p)
{
    struct client *c = p->client;
    struct client_route route;

    if (p->state != CLIENT_PART_WAITING && p->state != CLIENT_PART_SENT)
        return;
    int found = part_find_route(p, &route);
    if (p->state == CLIENT_PART_WAITING) {
        if (found == -ENOENT || !part_route_is_same(&route, &p->route))
            loop_wake(c->loop, &p->task);
    } else if (route.primary != p->route.primary || route.incarnation != p->route.incarnation) {
        rpc_call_cancel(c->config.net, &p->call);
    }
}

/* The client's id was fenced, or there is a new one. */
void client_part_see_id(struct client_part *p)
{
    bool wants_id = p->state == CLIENT_PART_UNNAMED;
    bool loses_id = p->state == CLIENT_PART_WAITING && p->seq != 0;

    if (wants_id || loses_id)
        loop_wake(p->client->loop, &p->task);
}
