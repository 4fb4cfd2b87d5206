/*
 * Frames over one connection that has been welcomed.
 *
 * In client role it sends calls and receives their answers; in server role the other way round.
 * Both send a ping when they had nothing to say for a second, and both give the peer up after three
 * seconds without a byte. Time in which we did not read (back-pressure) or did not run counts for
 * nobody.
 *
 * Receiving: bytes land in rx_buf, many small frames at once; the rest of a part that is at least a
 * page long is received straight into its place. What is not wanted any more (an answer after the
 * deadline) goes nowhere. A request that cannot be admitted stops the reading (RX_ADMIT): the rest
 * waits in the socket. Answers are never stopped.
 *
 * Sending: all that is queued goes in one send, up to CONN_BATCH_BYTES.
 *
 * The end: conn_lose() ends or releases everything at once; what the socket still works on is
 * released when it comes back, and then the memory goes.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "net/impl.h"

static struct loop *conn_loop(const struct conn *c)
{
    return net_loop(c->net);
}

/* ---- Sending ---- */

void conn_send_call(struct conn *c, struct rpc_call *call)
{
    check(c->is_client && c->state == CONN_OPEN);

    call->conn = c;
    list_remove(&call->link);
    list_push(&c->queue, &call->link);
    call_move(call, CALL_QUEUED);
    loop_wake(conn_loop(c), &c->task);
}

void conn_send_reply(struct conn *c, struct request *r)
{
    check(!c->is_client && c->state == CONN_OPEN);

    list_push(&c->queue, &r->link);
    loop_wake(conn_loop(c), &c->task);
}

struct batch {
    struct iovec *iov;
    int count;
    size_t bytes;
};

static void batch_add(struct batch *b, const void *base, size_t len)
{
    if (len == 0)
        return;
    check(b->count < CONN_IOV_MAX);
    b->iov[b->count++] = (struct iovec){(void *)(uintptr_t)base, len};
    b->bytes += len;
}

static void conn_batch_call(struct conn *c, struct batch *b, struct rpc_call *call)
{
    uint32_t data_len = 0;

    for (int i = 0; i < call->data_count; i++)
        data_len += (uint32_t)call->data[i].iov_len;

    struct frame f = {
        .type = call->oneway ? FRAME_ONEWAY : FRAME_REQUEST,
        .version = c->version,
        .kind = call->kind,
        .epoch = call->epoch,
        .id = call->id,
        .pg = call->pg,
        .revision = call->revision,
        .from_incarnation = c->net->config.incarnation,
        .to_incarnation = call->to_incarnation,
        .body_len = (uint32_t)call->body.len,
        .data_len = data_len,
        .body_crc = call->body.len > 0 ? crc32c(0, call->body.base, call->body.len) : 0,
    };
    frame_encode(&f, call->header);
    batch_add(b, call->header, FRAME_HEADER);
    batch_add(b, call->body.base, call->body.len);
    for (int i = 0; i < call->data_count; i++)
        batch_add(b, call->data[i].iov_base, call->data[i].iov_len);

    list_push(&c->sending, &call->link);
    hash_insert(&c->net->calls_by_id, &call->by_id, call->id);
    call->flags |= CALL_HASHED | CALL_IN_SEND;
    call_move(call, CALL_SENT);
}

static void conn_batch_reply(struct conn *c, struct batch *b, struct request *r)
{
    const struct rpc_request *req = &r->pub;
    struct frame f = {
        .type = FRAME_REPLY,
        .version = c->version,
        .kind = req->kind,
        .epoch = req->epoch,
        .id = r->id,
        .pg = req->pg,
        .revision = req->reply_revision,
        .from_incarnation = c->net->config.incarnation,
        .to_incarnation = req->from_incarnation,
        .status = req->status,
        .body_len = (uint32_t)req->reply_body.len,
        .data_len = req->reply_data_len,
        .body_crc =
            req->reply_body.len > 0 ? crc32c(0, req->reply_body.base, req->reply_body.len) : 0,
    };
    frame_encode(&f, r->header);
    batch_add(b, r->header, FRAME_HEADER);
    batch_add(b, req->reply_body.base, req->reply_body.len);
    batch_add(b, req->reply_data, req->reply_data_len);

    list_push(&c->sending, &r->link);
    request_sending(r);
}

static void conn_batch_ping(struct conn *c, struct batch *b)
{
    struct frame f = {
        .type = FRAME_PING,
        .version = c->version,
        .from_incarnation = c->net->config.incarnation,
    };
    frame_encode(&f, c->ping_header);
    batch_add(b, c->ping_header, FRAME_HEADER);
}

static void conn_send_batch(struct conn *c)
{
    struct batch b = {.iov = c->iov};

    if (c->send_busy)
        return;
    batch_add(&b, c->preface, c->preface_len);
    c->preface_len = 0;
    while (!list_empty(&c->queue) && b.count + 2 + NET_PIECES_MAX <= CONN_IOV_MAX &&
           b.bytes < CONN_BATCH_BYTES) {
        struct list *link = list_pop(&c->queue);
        if (c->is_client)
            conn_batch_call(c, &b, container_of(link, struct rpc_call, link));
        else
            conn_batch_reply(c, &b, container_of(link, struct request, link));
    }
    if (b.count == 0 && c->ping)
        conn_batch_ping(c, &b);
    if (b.count == 0)
        return;
    c->ping = false;
    c->send_busy = true;
    c->sent_ns = loop_now(conn_loop(c));
    c->send_since_ns = c->sent_ns;
    stage_send(&c->stage, &c->send, c->iov, b.count);
}

static void conn_on_sent(struct loop_op *op)
{
    struct conn *c = container_of(op, struct conn, send);

    c->send_came = true;
    loop_wake(conn_loop(c), &c->task);
}

/* The socket gave the call's memory back. Its answer may have come before that. */
static void conn_call_sent(struct conn *c, struct rpc_call *call, bool ok)
{
    bool over = call_is_over(call);

    call_unhold(call, CALL_IN_SEND);
    if (over)
        return;
    if (call->oneway && ok)
        call_end(call, 0, false);
    else
        list_push(&c->waiting, &call->link);
}

static void conn_sent(struct conn *c)
{
    int64_t result = c->send.result;
    struct list *link;

    c->send_came = false;
    c->send_busy = false;
    while ((link = list_pop(&c->sending)) != NULL) {
        if (c->is_client)
            conn_call_sent(c, container_of(link, struct rpc_call, link), result >= 0);
        else
            request_finish(container_of(link, struct request, link));
    }
    if (result < 0 && c->state == CONN_OPEN)
        conn_lose(c, -EPIPE, "send failed");
}

/* ---- Receiving ---- */

static void rx_part(struct conn *c, enum rx_state part, void *dst, uint32_t len)
{
    c->rx = part;
    c->rx_dst = dst;
    c->rx_left = len;
}

/* An answer: whose, and is there room for it? */
static void rx_reply_begin(struct conn *c)
{
    const struct frame *f = &c->rx_frame;

    c->rx_since_ns = c->heard_ns;
    struct hash_link *found = hash_find(&c->net->calls_by_id, f->id);
    struct rpc_call *call = found != NULL ? container_of(found, struct rpc_call, by_id) : NULL;

    if (call == NULL || call->conn != c || call->oneway) {
        rx_part(c, RX_BODY, NULL, f->body_len); /* too late: to nowhere */
        return;
    }
    uint32_t body_room = call->body_buf != NULL ? call->body_buf_size : NET_BODY_INLINE;
    uint32_t data_room = call->data_buf != NULL ? call->data_buf_size : 0;
    if (f->body_len > body_room || f->data_len > data_room) {
        log_warn("net", "an answer does not fit self=%s kind=%u body=%u data=%u", c->net->name,
                 f->kind, f->body_len, f->data_len);
        call_end(call, -EPROTO, false);
        rx_part(c, RX_BODY, NULL, f->body_len);
        return;
    }
    c->rx_call = call;
    rx_part(c, RX_BODY, call->body_buf != NULL ? call->body_buf : call->inline_body, f->body_len);
}

static void rx_reply_end(struct conn *c)
{
    const struct frame *f = &c->rx_frame;
    struct rpc_call *call = c->rx_call;

    c->rx_call = NULL;
    if (call == NULL)
        return;
    call->reply_body.base = call->body_buf != NULL ? call->body_buf : call->inline_body;
    call->reply_body.len = f->body_len;
    call->reply_data_len = f->data_len;
    call->reply_revision = f->revision;
    call->reply_incarnation = f->from_incarnation;
    call_end(call, f->status, true);
}

/* False: not now. */
static bool rx_request_begin(struct conn *c)
{
    const struct frame *f = &c->rx_frame;
    uint32_t data_pages = arena_pages(f->data_len);
    uint32_t body_pages = f->body_len > REQUEST_BODY_INLINE ? arena_pages(f->body_len) : 0;
    struct request *r = intake_admit(c->intake, c, data_pages + body_pages);

    if (r == NULL)
        return false;
    c->rx_since_ns = c->heard_ns;
    r->id = f->id;
    r->to_incarnation = f->to_incarnation;
    uint8_t *body =
        body_pages > 0 ? (uint8_t *)r->run + (size_t)data_pages * ARENA_PAGE : r->body_inline;
    r->pub = (struct rpc_request){
        .from = c->remote,
        .from_node = c->remote_node,
        .from_incarnation = f->from_incarnation,
        .from_advertise = c->remote_advertise,
        .kind = f->kind,
        .oneway = f->type == FRAME_ONEWAY,
        .pg = f->pg,
        .epoch = f->epoch,
        .revision = f->revision,
        .body = {body, f->body_len},
        .data = f->data_len > 0 ? r->run : NULL,
        .data_len = f->data_len,
    };
    c->rx_request = r;
    rx_part(c, RX_BODY, body, f->body_len);
    return true;
}

static void rx_request_end(struct conn *c)
{
    struct request *r = c->rx_request;

    c->rx_request = NULL;
    request_handle(r);
}

/* Only what the peer's role lets it send. */
static bool rx_type_is_fine(const struct conn *c, enum frame_type type)
{
    switch (type) {
    case FRAME_PING:
        return true;
    case FRAME_REPLY:
        return c->is_client;
    case FRAME_REQUEST:
    case FRAME_ONEWAY:
        return !c->is_client;
    }
    return false;
}

/* False: no whole header yet, or the connection is lost. */
static bool rx_header(struct conn *c)
{
    if (c->rx_end - c->rx_begin < FRAME_HEADER)
        return false;

    int error = frame_decode(c->rx_buf + c->rx_begin, &c->rx_frame);
    c->rx_begin += FRAME_HEADER;
    if (error == 0 && !rx_type_is_fine(c, c->rx_frame.type))
        error = -EPROTO;
    if (error != 0) {
        conn_lose(c, -EPIPE,
                  error == -EMSGSIZE          ? "a frame over the limit came"
                  : error == -EPROTONOSUPPORT ? "a frame of another version came"
                                              : "garbage came");
        return false;
    }
    if (c->is_client && c->rx_frame.from_incarnation != 0)
        c->peer->incarnation = c->rx_frame.from_incarnation;
    if (c->rx_frame.type == FRAME_REPLY)
        rx_reply_begin(c);
    else if (c->rx_frame.type != FRAME_PING)
        c->rx = RX_ADMIT;
    return true;
}

/* Take what has come of this part. True: all of it. */
static bool rx_take(struct conn *c)
{
    uint32_t have = c->rx_end - c->rx_begin;
    uint32_t n = have < c->rx_left ? have : c->rx_left;

    if (n > 0 && c->rx_dst != NULL) {
        memcpy(c->rx_dst, c->rx_buf + c->rx_begin, n);
        c->rx_dst += n;
    }
    c->rx_begin += n;
    c->rx_left -= n;
    return c->rx_left == 0;
}

static bool rx_body(struct conn *c)
{
    const struct frame *f = &c->rx_frame;

    if (!rx_take(c))
        return false;
    const void *body = c->rx_dst != NULL ? c->rx_dst - f->body_len : NULL;
    if (body != NULL && frame_check_body(f, body) != 0) {
        conn_lose(c, -EPIPE, "a damaged body came");
        return false;
    }
    if (c->rx_request != NULL)
        rx_part(c, RX_DATA, c->rx_request->pub.data, f->data_len);
    else
        rx_part(c, RX_DATA, c->rx_call != NULL ? c->rx_call->data_buf : NULL, f->data_len);
    return true;
}

static bool rx_data(struct conn *c)
{
    if (!rx_take(c))
        return false;
    rx_part(c, RX_HEADER, NULL, 0);
    if (c->is_client)
        rx_reply_end(c);
    else
        rx_request_end(c);
    return true;
}

/* All frames that are there; handlers run in here. */
static void conn_parse(struct conn *c)
{
    bool more = true;

    while (more && c->state == CONN_OPEN) {
        switch (c->rx) {
        case RX_HEADER:
            more = rx_header(c);
            break;
        case RX_ADMIT:
            more = rx_request_begin(c);
            break;
        case RX_BODY:
            more = rx_body(c);
            break;
        case RX_DATA:
            more = rx_data(c);
            break;
        }
    }
}

static void conn_receive(struct conn *c)
{
    if (c->recv_busy || c->rx == RX_ADMIT)
        return;
    if (c->rx_begin == c->rx_end) {
        c->rx_begin = 0;
        c->rx_end = 0;
    } else if (c->rx_begin > 0) {
        memmove(c->rx_buf, c->rx_buf + c->rx_begin, c->rx_end - c->rx_begin);
        c->rx_end -= c->rx_begin;
        c->rx_begin = 0;
    }
    c->recv_busy = true;
    c->recv_direct = c->rx_dst != NULL && c->rx_left >= CONN_RX_DIRECT && c->rx_end == 0;
    if (c->recv_direct)
        stage_recv(&c->stage, &c->recv, c->rx_dst, c->rx_left);
    else
        stage_recv(&c->stage, &c->recv, c->rx_buf + c->rx_end, CONN_RX_SIZE - c->rx_end);
}

static void conn_on_received(struct loop_op *op)
{
    struct conn *c = container_of(op, struct conn, recv);

    c->recv_came = true;
    loop_wake(conn_loop(c), &c->task);
}

/* Nobody waits for the answer that is coming in. */
static void rx_drop_call(struct conn *c)
{
    c->rx_call = NULL;
    c->rx_dst = NULL;
}

void conn_forget_call(struct conn *c, struct rpc_call *call)
{
    if (c->rx_call != call)
        return;
    if (c->recv_busy && c->recv_direct)
        call->flags |= CALL_IN_RECV; /* conn_received() lets go */
    else
        rx_drop_call(c);
}

static void conn_received(struct conn *c)
{
    int64_t result = c->recv.result;

    c->recv_came = false;
    c->recv_busy = false;
    if (result > 0) {
        c->heard_ns = loop_now(conn_loop(c));
        if (c->recv_direct) {
            check(result <= (int64_t)c->rx_left);
            c->rx_dst += result;
            c->rx_left -= (uint32_t)result;
        } else {
            c->rx_end += (uint32_t)result;
        }
    }
    if (c->rx_call != NULL && call_is_over(c->rx_call)) {
        call_unhold(c->rx_call, CALL_IN_RECV);
        rx_drop_call(c);
    }
    if (result <= 0 && c->state == CONN_OPEN)
        conn_lose(c, -EPIPE, result == 0 ? "the peer closed it" : "receive failed");
}

/* ---- Life and death ---- */

static void conn_on_tick(struct loop_timer *t)
{
    struct conn *c = container_of(t, struct conn, timer);

    c->tick = true;
    loop_wake(conn_loop(c), &c->task);
}

static void conn_next_tick(struct conn *c, uint64_t now)
{
    c->tick = false;
    c->tick_due_ns = now + NET_TICK_NS;
    loop_timer_start(conn_loop(c), &c->timer, c->tick_due_ns);
}

/* Does the send hold up somebody beyond what is bearable? */
static bool conn_is_stuck(const struct conn *c, uint64_t now)
{
    if (!c->send_busy)
        return false;
    if (!c->is_client)
        return now - c->send_since_ns >= NET_STUCK_REPLY_NS;
    if (now - c->send_since_ns < NET_STUCK_CALL_NS)
        return false;
    list_for_each (pos, &c->sending) {
        if (call_is_over(container_of(pos, struct rpc_call, link)))
            return true;
    }
    return false;
}

/* A byte now and then is no silence, but keeps the frame's memory, and who waits behind it. */
static bool conn_is_trickling(const struct conn *c, uint64_t now)
{
    return (c->rx == RX_BODY || c->rx == RX_DATA) && now - c->rx_since_ns >= NET_FRAME_NS;
}

static bool conn_is_idle(const struct conn *c, uint64_t now)
{
    return c->is_client && !c->peer->wanted && c->peer->calls == 0 &&
           now - c->used_ns >= NET_IDLE_NS;
}

static void conn_check_life(struct conn *c)
{
    uint64_t now = loop_now(conn_loop(c));

    bool overslept = now > c->tick_due_ns + 2 * NET_TICK_NS;
    if (!c->recv_busy || overslept)
        c->heard_ns = now; /* we did not read, or did not run: it may have spoken */
    if (overslept) {
        c->rx_since_ns = now;
        c->send_since_ns = now;
    }
    if (c->is_client && c->peer->calls > 0)
        c->used_ns = now;
    if (now - c->sent_ns >= NET_PING_NS)
        c->ping = true;

    conn_next_tick(c, now);
    if (now - c->heard_ns >= NET_SILENCE_NS)
        conn_lose(c, -ETIMEDOUT, "nothing heard for 3 s");
    else if (conn_is_stuck(c, now))
        conn_lose(c, -EPIPE, "the peer does not take what we send");
    else if (conn_is_trickling(c, now))
        conn_lose(c, -EPIPE, "a frame does not come to its end");
    else if (conn_is_idle(c, now))
        conn_lose(c, 0, NULL);
}

static void conn_end_calls(struct conn *c)
{
    while (!list_empty(&c->queue))
        call_end(container_of(c->queue.next, struct rpc_call, link), -EPIPE, false);
    while (!list_empty(&c->waiting))
        call_end(container_of(c->waiting.next, struct rpc_call, link), -EPIPE, false);
    list_for_each (pos, &c->sending) { /* these stay until the send comes back */
        struct rpc_call *call = container_of(pos, struct rpc_call, link);
        if (!call_is_over(call))
            call_end(call, -EPIPE, false);
    }
}

static void conn_leave_requests(struct conn *c)
{
    while (!list_empty(&c->queue))
        request_finish(container_of(c->queue.next, struct request, link));
    while (!list_empty(&c->waiting))
        request_leave_conn(container_of(c->waiting.next, struct request, link));
}

void conn_lose(struct conn *c, int why, const char *reason)
{
    char remote[NET_ENDPOINT_STR];

    check(c->state == CONN_OPEN);
    if (reason != NULL)
        log_info("net", "connection lost: %s self=%s peer=%s", reason, c->net->name,
                 net_endpoint_str(c->remote, remote));
    c->state = CONN_CLOSING;
    loop_timer_stop(conn_loop(c), &c->timer);
    stage_close(&c->stage);
    if (c->is_client) {
        conn_end_calls(c);
        peer_conn_lost(c->peer, why);
        c->peer = NULL;
    } else {
        intake_leave(c);
        conn_leave_requests(c);
    }
    loop_wake(conn_loop(c), &c->task);
}

/* The socket gives back one thing after the other; then this is gone. */
static void conn_step_closing(struct conn *c)
{
    if (c->recv_busy)
        return;
    if (c->rx_request != NULL) {
        request_free(c->rx_request);
        c->rx_request = NULL;
    }
    if (c->send_busy)
        return;
    check(list_empty(&c->queue) && list_empty(&c->sending) && list_empty(&c->waiting));
    check(c->requests == 0 && c->rx_call == NULL);
    if (!c->is_client)
        c->net->conns_incoming--;
    list_remove(&c->link);
    task_cancel(&c->task); /* request_free() woke it */
    conn_destroy(c);
}

static void conn_step(struct task *task)
{
    struct conn *c = container_of(task, struct conn, task);

    if (c->send_came)
        conn_sent(c);
    if (c->recv_came)
        conn_received(c);
    if (c->state == CONN_OPEN && c->tick)
        conn_check_life(c);
    conn_parse(c);
    if (c->state == CONN_CLOSING) {
        conn_step_closing(c);
        return;
    }
    conn_send_batch(c);
    conn_receive(c);
}

struct conn *conn_create(struct net *n, const struct stage *stage, const struct hello *h,
                         struct peer *to_peer)
{
    struct conn *c = mem_zalloc(sizeof(*c));
    uint64_t now = loop_now(net_loop(n));

    c->net = n;
    c->stage = *stage;
    c->rx_buf = mem_alloc_aligned(CONN_RX_SIZE, ARENA_PAGE);
    c->peer = to_peer;
    c->is_client = to_peer != NULL;
    c->remote = to_peer != NULL ? to_peer->endpoint : h->from;
    c->remote_node = h->node;
    c->remote_advertise = h->advertise;
    c->version = h->version;
    c->opened_ns = c->heard_ns = c->sent_ns = c->used_ns = now;
    list_init(&c->link);
    list_init(&c->intake_link);
    list_init(&c->queue);
    list_init(&c->sending);
    list_init(&c->waiting);
    task_init(&c->task, conn_step);
    loop_op_init(&c->recv, conn_on_received);
    loop_op_init(&c->send, conn_on_sent);
    loop_timer_init(&c->timer, conn_on_tick);
    if (!c->is_client) {
        const uint8_t *welcome;
        c->intake = intake_of(n, c->remote);
        c->preface_len = hello_output(h, &welcome);
        check(c->preface_len <= sizeof(c->preface));
        memcpy(c->preface, welcome, c->preface_len);
        n->conns_incoming++;
    }
    list_push(&n->conns, &c->link);
    conn_next_tick(c, now);
    loop_wake(net_loop(n), &c->task);
    return c;
}

void conn_destroy(struct conn *c)
{
    free(c->rx_buf);
    free(c);
}
