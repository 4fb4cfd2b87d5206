/*
 * A request, from admission to replied().
 *
 *     RECEIVING --whole--> HANDLING --rpc_reply--> QUEUED --its turn--> SENDING --+
 *         |                   |                       |                           |
 *         |                   +--in-process, oneway,  +--connection lost----------+
 *         |                   |  connection lost                                  v
 *         |                   +----------------------------------------------> FINISHED
 *         +--connection lost: freed                                    --task--> replied(), freed
 *
 * Admission gives a request all the memory it will need at once, so that nobody waits for memory
 * while holding some: what is admitted ends by the handler's work alone.
 */

#include <errno.h>

#include "net/impl.h"

#define CAN_MOVE_TO(state) (1u << (state))

static const uint32_t request_moves[REQUEST_STATES] = {
    [REQUEST_RECEIVING] = CAN_MOVE_TO(REQUEST_HANDLING),
    [REQUEST_HANDLING] = CAN_MOVE_TO(REQUEST_QUEUED) | CAN_MOVE_TO(REQUEST_FINISHED),
    [REQUEST_QUEUED] = CAN_MOVE_TO(REQUEST_SENDING) | CAN_MOVE_TO(REQUEST_FINISHED),
    [REQUEST_SENDING] = CAN_MOVE_TO(REQUEST_FINISHED),
};

static void request_move(struct request *r, enum request_state next)
{
    check(request_moves[r->state] & CAN_MOVE_TO(next));
    r->state = next;
}

/* ---- Admission ---- */

struct intake *intake_of(struct net *n, net_endpoint from)
{
    switch (net_endpoint_kind(from)) {
    case NET_CONTROL:
    case NET_OSD:
        return &n->intakes[INTAKE_NODES];
    case NET_CLIENT:
    case NET_JOINER:
        break;
    }
    return &n->intakes[INTAKE_CLIENTS];
}

/* The first of each line looks whether it can go now. */
void intake_wake(struct intake *in)
{
    struct loop *l = net_loop(in->net);

    for (int i = LINE_SMALL; i < LINE_COUNT; i++) {
        if (!list_empty(&in->lines[i]))
            loop_wake(l, &container_of(in->lines[i].next, struct conn, intake_link)->task);
    }
    if (!list_empty(&in->lines[LINE_LOCALS]))
        loop_wake(l, &in->net->task);
}

void intake_leave(struct conn *conn)
{
    if (list_empty(&conn->intake_link))
        return;
    list_remove(&conn->intake_link);
    intake_wake(conn->intake);
}

static enum intake_line intake_line_of(const struct conn *conn, uint32_t pages)
{
    if (conn == NULL)
        return LINE_LOCALS;
    return pages > 0 ? LINE_LARGE : LINE_SMALL;
}

static bool intake_is_first(const struct intake *in, enum intake_line line, const struct conn *conn)
{
    const struct list *head = &in->lines[line];

    return conn == NULL || list_empty(head) || head->next == &conn->intake_link;
}

/* Does nobody wait in the lines between the one served last and this one? */
static bool intake_is_turn(const struct intake *in, enum intake_line line)
{
    for (int i = 1; i <= LINE_COUNT; i++) {
        unsigned next = ((unsigned)in->served + (unsigned)i) % LINE_COUNT;
        if (next == (unsigned)line)
            return true;
        if (!list_empty(&in->lines[next]))
            return false;
    }
    never("no line");
}

/* Whose turn it is waits for pages perhaps. It takes nothing from him to pass, but for the last
 * struct. */
static bool intake_may_pass(const struct intake *in, uint32_t pages)
{
    return pages == 0 && in->requests.count - in->requests.used >= 2;
}

static struct request *intake_take(struct intake *in, uint32_t pages)
{
    void *run = NULL;

    if (in->requests.used == in->requests.count)
        return NULL;
    if (pages > 0) {
        run = arena_get(&in->arena, pages);
        if (run == NULL)
            return NULL;
    }
    struct request *r = pool_get(&in->requests);
    check(r != NULL);
    r->run = run;
    r->run_pages = pages;
    return r;
}

static void request_step(struct task *task);

struct request *intake_admit(struct intake *in, struct conn *conn, uint32_t pages)
{
    if (conn != NULL && conn->requests >= in->conn_requests_max) {
        intake_leave(conn); /* it waits for its own, and nobody waits behind it */
        return NULL;
    }
    enum intake_line line = intake_line_of(conn, pages);
    bool is_turn = intake_is_turn(in, line);
    struct request *r = NULL;
    if (intake_is_first(in, line, conn) && (is_turn || intake_may_pass(in, pages)))
        r = intake_take(in, pages);
    if (r == NULL) {
        if (conn != NULL && list_empty(&conn->intake_link))
            list_push(&in->lines[line], &conn->intake_link);
        return NULL;
    }

    r->state = REQUEST_RECEIVING;
    r->net = in->net;
    r->intake = in;
    r->conn = conn;
    r->call = NULL;
    r->reply_run = NULL;
    r->reply_pages = 0;
    list_init(&r->link);
    task_init(&r->task, request_step);
    if (is_turn)
        in->served = line;
    if (conn != NULL) {
        conn->requests++;
        list_remove(&conn->intake_link);
    }
    intake_wake(in);
    return r;
}

/* ---- Handling ---- */

void request_handle(struct request *r)
{
    struct net *n = r->net;

    request_move(r, REQUEST_HANDLING);
    if (r->conn != NULL)
        list_push(&r->conn->waiting, &r->link);
    if (r->to_incarnation != 0 && r->to_incarnation != n->config.incarnation) {
        rpc_reply_status(&r->pub, -ESTALE);
        return;
    }
    n->config.handle(n->config.arg, &r->pub);
}

void *rpc_reply_buffer(struct rpc_request *req, uint32_t len)
{
    struct request *r = container_of(req, struct request, pub);

    check(r->state == REQUEST_HANDLING && r->reply_run == NULL);
    check(len > 0 && len <= NET_DATA_MAX);

    if (r->call != NULL && r->call->data_buf != NULL && r->call->data_buf_size >= len &&
        (uintptr_t)r->call->data_buf % ARENA_PAGE == 0)
        return r->call->data_buf;
    r->reply_pages = arena_pages(len);
    r->reply_run = arena_get(&r->net->replies, r->reply_pages);
    return r->reply_run;
}

/* A short body is copied: the handler need not keep it. */
static void request_keep_body(struct request *r)
{
    struct slice *body = &r->pub.reply_body;

    if (body->len == 0 || body->len > NET_BODY_INLINE)
        return;
    memcpy(r->reply_inline, body->base, body->len);
    body->base = r->reply_inline;
}

void rpc_reply(struct rpc_request *req)
{
    struct request *r = container_of(req, struct request, pub);

    check(r->state == REQUEST_HANDLING);
    check(req->status <= 0 && req->status > -4096);
    check(req->reply_body.len <= NET_BODY_MAX && req->reply_data_len <= NET_DATA_MAX);

    list_remove(&r->link);
    if (r->call != NULL) {
        local_reply(r);
        request_finish(r);
    } else if (r->conn == NULL || req->oneway) {
        request_finish(r);
    } else {
        request_keep_body(r);
        request_move(r, REQUEST_QUEUED);
        conn_send_reply(r->conn, r);
    }
}

/* ---- The end ---- */

void request_sending(struct request *r)
{
    request_move(r, REQUEST_SENDING);
}

/* The connection may go now, or take another request. */
void request_leave_conn(struct request *r)
{
    list_remove(&r->link);
    if (r->conn == NULL)
        return;
    r->conn->requests--;
    loop_wake(net_loop(r->net), &r->conn->task);
    r->conn = NULL;
}

void request_finish(struct request *r)
{
    request_leave_conn(r);
    request_move(r, REQUEST_FINISHED);
    loop_wake(net_loop(r->net), &r->task);
}

void request_free(struct request *r)
{
    struct intake *in = r->intake;

    request_leave_conn(r);
    if (r->run != NULL)
        arena_put(&in->arena, r->run, r->run_pages);
    if (r->reply_run != NULL)
        arena_put(&r->net->replies, r->reply_run, r->reply_pages);
    pool_put(&in->requests, r);
    intake_wake(in);
}

static void request_step(struct task *task)
{
    struct request *r = container_of(task, struct request, task);

    check(r->state == REQUEST_FINISHED);
    if (r->pub.replied != NULL)
        r->pub.replied(&r->pub, r->pub.replied_arg);
    request_free(r);
}
