#include <errno.h>

#include "base/log.h"
#include "gw/nbd_internal.h"

/*
 *     NEGOTIATING --GO--> TRANSMITTING --DISC, stop--> ENDING --all answered--> CLOSING
 *          |                   |                          |                        ^
 *          +-------------------+--------- lost -----------+------------------------+
 *
 * A connection is one task. Completions (bytes came, bytes left, an op came back, a
 * timer fired) only record; conn_step() looks at all that was recorded and does
 * what can be done, until everything waits for something.
 *
 * Bytes are received into `rx`, several small requests at a time. Of a large WRITE,
 * what is not in rx yet is received straight into the page-aligned buffers it will
 * be sent on from; the data of small ones is copied there, which costs less than a call
 * to the kernel of its own for each.
 */

/* ---- Completions ---- */

static void conn_wake(struct nbd_conn *c)
{
    loop_wake(c->server->loop, &c->task);
}

static void conn_on_received(struct loop_op *op)
{
    struct nbd_conn *c = container_of(op, struct nbd_conn, receive_op);

    c->receive_is_done = true;
    conn_wake(c);
}

static void conn_on_sent(struct loop_op *op)
{
    struct nbd_conn *c = container_of(op, struct nbd_conn, send_op);

    c->send_is_done = true;
    conn_wake(c);
}

static void conn_on_deadline(struct loop_timer *timer)
{
    struct nbd_conn *c = container_of(timer, struct nbd_conn, deadline);

    c->is_late = true;
    conn_wake(c);
}

static void conn_on_lookup(struct loop_timer *timer)
{
    conn_wake(container_of(timer, struct nbd_conn, lookup));
}

/* ---- The socket ---- */

static void conn_close_socket(struct nbd_conn *c)
{
    struct loop *l = c->server->loop;

    check(c->state != NBD_CONN_CLOSING);
    c->state = NBD_CONN_CLOSING;
    loop_timer_stop(l, &c->deadline);
    loop_timer_stop(l, &c->lookup);
    nbd_memory_stop_waiting(c);
    loop_conn_close(c->socket);
    c->socket = NULL;
    conn_wake(c);
}

static void conn_set_deadline(struct nbd_conn *c, uint64_t ms)
{
    struct loop *l = c->server->loop;

    loop_timer_start(l, &c->deadline, loop_now(l) + ms * NS_PER_MS);
}

static void conn_receive(struct nbd_conn *c, struct nbd_piece *into)
{
    struct loop *l = c->server->loop;
    uint8_t *buf = c->rx + c->rx_end;
    size_t len = sizeof(c->rx) - c->rx_end;

    check(!c->is_receiving && !c->receive_is_done);
    if (into != NULL) {
        check(c->rx_start == c->rx_end);
        buf = into->buf + into->filled;
        len = into->len - into->filled;
    }
    check(len > 0);
    c->is_receiving = true;
    c->receive_into = into;
    loop_recv(l, &c->receive_op, c->socket, buf, len);
}

/* Make room at the end of rx, and fill it. */
static void conn_receive_more(struct nbd_conn *c)
{
    if (c->is_receiving)
        return;
    memmove(c->rx, c->rx + c->rx_start, c->rx_end - c->rx_start);
    c->rx_end -= c->rx_start;
    c->rx_start = 0;
    conn_receive(c, NULL);
}

/* False: the connection is lost, or the client ended it. */
static bool conn_take_received(struct nbd_conn *c)
{
    if (!c->receive_is_done)
        return true;
    c->receive_is_done = false;
    c->is_receiving = false;
    if (c->receive_op.result <= 0)
        return false;
    if (c->receive_into != NULL)
        c->receive_into->filled += (uint32_t)c->receive_op.result;
    else
        c->rx_end += (uint32_t)c->receive_op.result;
    return true;
}

static void conn_send(struct nbd_conn *c)
{
    struct loop *l = c->server->loop;

    c->is_sending = true;
    loop_send(l, &c->send_op, c->socket, c->iov, c->iov_count);
}

/* ---- Negotiation ---- */

/* True: the negotiation goes on. */
static bool conn_find_export(struct nbd_conn *c)
{
    struct nbd_server *s = c->server;
    struct nbd_negotiation *n = &c->negotiation;
    uint64_t now = loop_now(s->loop);
    struct client_image *image = NULL;
    uint64_t size = 0;

    if (loop_timer_is_running(&c->lookup))
        return false;
    int found = s->backend->open(s->backend, n->name, &image, &size);
    if (found == -ENOENT && c->unknown_until_ns == 0)
        c->unknown_until_ns = now + NBD_UNKNOWN_MS * NS_PER_MS;
    if (found == -EAGAIN || (found == -ENOENT && now < c->unknown_until_ns)) {
        loop_timer_start(s->loop, &c->lookup, now + NBD_LOOKUP_MS * NS_PER_MS);
        return false;
    }
    c->unknown_until_ns = 0;
    if (found != 0) {
        nbd_negotiation_not_found(n);
        return true;
    }
    nbd_negotiation_found(n, size);
    if (n->ask != NBD_ASK_TRANSMIT) {
        s->backend->close(s->backend, image);
        return true;
    }
    c->image = image;
    c->size = size;
    return true;
}

static void conn_list_exports(struct nbd_conn *c)
{
    struct nbd_backend *b = c->server->backend;

    for (;;) {
        if (c->list_name[0] == 0 && !b->next(b, &c->list_cursor, c->list_name))
            break;
        if (!nbd_negotiation_list_name(&c->negotiation, c->list_name))
            return;
        c->list_name[0] = 0;
    }
    if (nbd_negotiation_list_end(&c->negotiation))
        c->list_cursor = 0;
}

/* True: it took something and may be able to take more. */
static bool conn_feed(struct nbd_conn *c)
{
    size_t used =
        nbd_negotiation_feed(&c->negotiation, c->rx + c->rx_start, c->rx_end - c->rx_start);

    c->rx_start += (uint32_t)used;
    if (used > 0)
        return true;
    conn_receive_more(c);
    return false;
}

static void conn_start_transmission(struct nbd_conn *c)
{
    loop_timer_stop(c->server->loop, &c->deadline);
    c->state = NBD_CONN_TRANSMITTING;
}

static void conn_negotiate(struct nbd_conn *c)
{
    struct nbd_negotiation *n = &c->negotiation;

    for (bool goes_on = true; goes_on;) {
        if (c->is_sending || c->is_receiving)
            return;
        if (n->out_len > 0) {
            c->iov[0] = (struct iovec){n->out, n->out_len};
            c->iov_count = 1;
            conn_send(c);
            return;
        }
        switch (n->ask) {
        case NBD_ASK_MORE:
            goes_on = conn_feed(c);
            break;
        case NBD_ASK_EXPORT:
            goes_on = conn_find_export(c);
            break;
        case NBD_ASK_LIST:
            conn_list_exports(c);
            break;
        case NBD_ASK_TRANSMIT:
            conn_start_transmission(c);
            return;
        case NBD_ASK_CLOSE:
            conn_close_socket(c);
            return;
        }
    }
}

/* ---- Requests in ---- */

/* True when all data of the WRITE has come. */
static bool conn_take_data(struct nbd_conn *c)
{
    struct nbd_request *r = c->writing;

    for (;;) {
        if (c->filling != NULL && c->filling->filled == c->filling->len) {
            struct nbd_piece *full = c->filling;
            c->filling = NULL;
            nbd_request_piece_is_filled(r, full);
        }
        if (r->cut == r->cmd.len && c->filling == NULL)
            return true;
        if (c->filling == NULL)
            c->filling = nbd_request_next_piece(r);
        if (c->filling == NULL)
            return false; /* until one comes back */

        struct nbd_piece *p = c->filling;
        uint32_t len = c->rx_end - c->rx_start;
        if (len > p->len - p->filled)
            len = p->len - p->filled;
        memcpy(p->buf + p->filled, c->rx + c->rx_start, len);
        c->rx_start += len;
        p->filled += len;
        if (p->filled == p->len)
            continue;
        if (p->len - p->filled > NBD_RECEIVE_SIZE / 2)
            conn_receive(c, p);
        else
            conn_receive_more(c);
        return false;
    }
}

/* False: there is no memory for it now. */
static bool conn_start_request(struct nbd_conn *c, const struct nbd_command *cmd)
{
    struct nbd_request *r = nbd_request_start(c, cmd, nbd_command_check(cmd, c->size));

    if (r == NULL)
        return false;
    c->rx_start += NBD_REQUEST_SIZE;
    if (cmd->type == NBD_WRITE && cmd->len > 0)
        c->writing = r;
    return true;
}

/* One request. True: there may be another one. */
static bool conn_take_request(struct nbd_conn *c)
{
    struct nbd_command cmd;

    if (c->requests_count == NBD_DEPTH_MAX)
        return false;
    if (c->rx_end - c->rx_start < NBD_REQUEST_SIZE) {
        conn_receive_more(c);
        return false;
    }
    bool is_request = nbd_command_parse(c->rx + c->rx_start, &cmd);
    if (!is_request || (cmd.type == NBD_WRITE && cmd.len > NBD_LEN_MAX)) {
        log_warn("nbd", "a client broke the protocol: dropped");
        conn_close_socket(c);
        return false;
    }
    if (cmd.type == NBD_DISC) {
        c->state = NBD_CONN_ENDING;
        return false;
    }
    return conn_start_request(c, &cmd);
}

static void conn_take_requests(struct nbd_conn *c)
{
    while (c->state == NBD_CONN_TRANSMITTING && !c->is_receiving) {
        if (c->writing != NULL) {
            if (!conn_take_data(c))
                return;
            c->writing = NULL;
        }
        if (!conn_take_request(c))
            return;
    }
}

/* ---- Replies out ---- */

static void conn_add_iov(struct nbd_conn *c, void *base, size_t len)
{
    check(c->iov_count < NBD_IOV_MAX);
    c->iov[c->iov_count++] = (struct iovec){base, len};
}

/* Add what is there of a reply. True: that is all of it, the next reply may follow. */
static bool conn_add_reply(struct nbd_conn *c, struct nbd_request *r, size_t *bytes)
{
    uint64_t left = r->cmd.type == NBD_READ && r->error == NBD_OK ? r->cmd.len - r->sent : 0;

    if (!r->header_is_sent) {
        r->header_is_sending = true;
        conn_add_iov(c, r->header, sizeof(r->header));
    }
    list_for_each (pos, &r->pieces) {
        struct nbd_piece *p = container_of(pos, struct nbd_piece, link);
        if (left == 0 || p->state != NBD_PIECE_DONE || c->iov_count == NBD_IOV_MAX)
            break;
        p->state = NBD_PIECE_SENDING;
        conn_add_iov(c, p->buf, p->len);
        left -= p->len;
        *bytes += p->len;
    }
    return left == 0;
}

static void conn_send_replies(struct nbd_conn *c)
{
    size_t bytes = 0;

    if (c->is_sending)
        return;
    c->iov_count = 0;
    list_for_each (pos, &c->replies) {
        struct nbd_request *r = container_of(pos, struct nbd_request, reply_link);
        if (c->iov_count >= NBD_IOV_MAX - 1 || bytes >= NBD_SEND_MAX)
            break;
        if (!conn_add_reply(c, r, &bytes))
            break;
    }
    if (c->iov_count == 0)
        return;
    conn_set_deadline(c, NBD_SEND_MS);
    conn_send(c);
}

static void conn_reply_has_left(struct nbd_request *r)
{
    if (r->header_is_sending) {
        r->header_is_sending = false;
        r->header_is_sent = true;
    }
    while (!list_empty(&r->pieces)) {
        struct nbd_piece *p = container_of(r->pieces.next, struct nbd_piece, link);
        if (p->state != NBD_PIECE_SENDING)
            return;
        nbd_request_piece_is_sent(r, p);
    }
}

static void conn_replies_have_left(struct nbd_conn *c)
{
    while (!list_empty(&c->replies)) {
        struct nbd_request *r = container_of(c->replies.next, struct nbd_request, reply_link);
        conn_reply_has_left(r);
        if (!nbd_request_is_sent(r))
            return;
        nbd_request_free(r);
    }
}

/* False: the connection is lost. */
static bool conn_take_sent(struct nbd_conn *c)
{
    if (!c->send_is_done)
        return true;
    c->send_is_done = false;
    c->is_sending = false;
    if (c->send_op.result < 0)
        return false;
    if (c->state == NBD_CONN_NEGOTIATING) {
        c->negotiation.out_len = 0;
        return true;
    }
    loop_timer_stop(c->server->loop, &c->deadline);
    conn_replies_have_left(c);
    return true;
}

/* ---- The machine ---- */

/* False: a result that only an end of the connection can tell. */
static bool conn_take_results(struct nbd_conn *c)
{
    bool is_well = true;
    struct list *link;

    while ((link = list_pop(&c->finished)) != NULL) {
        struct nbd_piece *p = container_of(link, struct nbd_piece, finished_link);
        is_well &= nbd_request_take_result(p->request, p);
    }
    return is_well;
}

/* What is still to be answered; a WRITE whose data has not all come will not be. */
static bool conn_is_answered(const struct nbd_conn *c)
{
    return c->requests_count == (c->writing != NULL ? 1 : 0);
}

static void conn_free(struct nbd_conn *c)
{
    struct nbd_server *s = c->server;

    while (!list_empty(&c->requests))
        nbd_request_free(container_of(c->requests.next, struct nbd_request, link));
    if (c->image != NULL)
        s->backend->close(s->backend, c->image);
    list_remove(&c->link);
    pool_put(&s->conns_pool, c);
    nbd_server_conn_gone(s);
}

/* Everything that is lent out must come back first. */
static bool conn_can_be_freed(struct nbd_conn *c)
{
    if (c->receive_is_done)
        c->is_receiving = false;
    if (c->send_is_done)
        c->is_sending = false;
    return !c->is_receiving && !c->is_sending && c->ops_count == 0;
}

/* Record what has happened. False: nothing more can be done with this socket. */
static bool conn_take_events(struct nbd_conn *c)
{
    bool is_well = conn_take_results(c);

    return conn_take_received(c) && conn_take_sent(c) && is_well && !c->is_late;
}

static void conn_step(struct task *task)
{
    struct nbd_conn *c = container_of(task, struct nbd_conn, task);

    if (c->state == NBD_CONN_CLOSING) {
        conn_take_results(c);
        if (conn_can_be_freed(c))
            conn_free(c);
        return;
    }
    if (!conn_take_events(c)) {
        conn_close_socket(c);
        return;
    }
    if (c->state == NBD_CONN_NEGOTIATING)
        conn_negotiate(c);
    if (c->state == NBD_CONN_TRANSMITTING)
        conn_take_requests(c);
    if (c->state == NBD_CONN_TRANSMITTING || c->state == NBD_CONN_ENDING)
        conn_send_replies(c);
    if (c->state == NBD_CONN_ENDING && conn_is_answered(c))
        conn_close_socket(c);
}

void nbd_conn_start(struct nbd_server *s, struct loop_conn *socket)
{
    struct nbd_conn *c = pool_get(&s->conns_pool);

    check(c != NULL); /* we accept only when there is room */
    memset(c, 0, offsetof(struct nbd_conn, iov));
    c->server = s;
    c->socket = socket;
    c->state = NBD_CONN_NEGOTIATING;
    task_init(&c->task, conn_step);
    list_init(&c->link);
    list_init(&c->requests);
    list_init(&c->replies);
    list_init(&c->finished);
    list_init(&c->memory_link);
    loop_op_init(&c->receive_op, conn_on_received);
    loop_op_init(&c->send_op, conn_on_sent);
    loop_timer_init(&c->deadline, conn_on_deadline);
    loop_timer_init(&c->lookup, conn_on_lookup);
    list_push(&s->conns, &c->link);
    nbd_negotiation_init(&c->negotiation);
    conn_set_deadline(c, NBD_HANDSHAKE_MS);
    conn_wake(c);
}

void nbd_conn_end(struct nbd_conn *c)
{
    if (c->state == NBD_CONN_NEGOTIATING)
        conn_close_socket(c);
    else if (c->state == NBD_CONN_TRANSMITTING)
        c->state = NBD_CONN_ENDING;
    conn_wake(c);
}
