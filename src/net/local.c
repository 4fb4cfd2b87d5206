/*
 * Calls between nets of one process: lent to the other loop, never copied.
 *
 * What is whose: from local_lend() until local_on_returned() the receiving loop owns the call's
 * link and msg, what it points to, the room for the answer and the fields that done() shows. The
 * sending loop keeps state, flags, timer and task. So a deadline or a cancel only notes how the
 * call ended (CALL_HELD) and waits for it to come back; it comes back because every request is
 * answered. One whose deadline has passed before it was admitted is given back untouched.
 */

#include <errno.h>

#include "net/impl.h"

/* On the sender's loop. */
static void local_on_returned(struct loop_msg *msg)
{
    struct rpc_call *c = container_of(msg, struct rpc_call, msg);

    c->flags |= CALL_RETURNED;
    loop_wake(net_loop(c->net), &c->task);
}

/* On the receiver's loop: the last touch. */
static void local_return(struct rpc_call *c, int status, bool answered)
{
    c->status = status;
    c->lent_answered = answered;
    c->msg.run = local_on_returned;
    loop_post(net_loop(c->net), &c->msg);
}

/* On the receiver's loop. */
static void local_on_lent(struct loop_msg *msg)
{
    struct rpc_call *c = container_of(msg, struct rpc_call, msg);
    struct net *n = c->lent_to;

    list_push(&intake_of(n, c->net->config.self)->lines[LINE_LOCALS], &c->link);
    loop_wake(net_loop(n), &n->task);
}

void local_lend(struct rpc_call *c, struct net *to)
{
    c->lent_to = to;
    c->flags |= CALL_IS_LENT;
    call_move(c, CALL_LENT);
    c->msg.run = local_on_lent;
    loop_post(net_loop(to), &c->msg);
}

/* The data as the sender has it, if the handler can use it so. */
static bool local_data_is_one(const struct rpc_call *c)
{
    return c->data_count == 0 ||
           (c->data_count == 1 && (uintptr_t)c->data[0].iov_base % ARENA_PAGE == 0);
}

static uint32_t local_data_len(const struct rpc_call *c)
{
    size_t len = 0;

    for (int i = 0; i < c->data_count; i++)
        len += c->data[i].iov_len;
    return (uint32_t)len;
}

static void local_gather(const struct rpc_call *c, uint8_t *dst)
{
    for (int i = 0; i < c->data_count; i++) {
        if (c->data[i].iov_len > 0)
            memcpy(dst, c->data[i].iov_base, c->data[i].iov_len);
        dst += c->data[i].iov_len;
    }
}

static void local_fill(struct request *r, struct rpc_call *c)
{
    const struct net_config *from = &c->net->config;
    uint32_t data_len = local_data_len(c);

    r->call = c;
    r->id = c->id;
    r->to_incarnation = c->to_incarnation;
    r->pub = (struct rpc_request){
        .from = from->self,
        .from_node = from->identity.node,
        .from_incarnation = c->from_incarnation,
        .from_advertise = from->identity.advertise,
        .kind = c->kind,
        .oneway = c->oneway,
        .pg = c->pg,
        .epoch = c->epoch,
        .revision = c->revision,
        .body = c->body,
        .data_len = data_len,
    };
    if (data_len == 0)
        return;
    if (local_data_is_one(c)) {
        r->pub.data = c->data[0].iov_base;
    } else {
        local_gather(c, r->run);
        r->pub.data = r->run;
    }
}

static void local_serve_class(struct net *n, struct intake *in)
{
    struct list *line = &in->lines[LINE_LOCALS];

    while (!list_empty(line)) {
        struct rpc_call *c = container_of(line->next, struct rpc_call, link);
        if (c->deadline_ns <= loop_now(net_loop(n))) {
            list_remove(&c->link);
            local_return(c, -ETIMEDOUT, false);
            intake_wake(in);
            continue;
        }
        uint32_t pages = local_data_is_one(c) ? 0 : arena_pages(local_data_len(c));
        struct request *r = intake_admit(in, NULL, pages);
        if (r == NULL)
            return; /* until something is given back */
        list_remove(&c->link);
        local_fill(r, c);
        request_handle(r);
    }
}

void local_serve(struct net *n)
{
    for (int i = 0; i < INTAKE_COUNT; i++)
        local_serve_class(n, &n->intakes[i]);
}

/* The answer's body and data into the caller's room; false: they do not fit. */
static bool local_copy_answer(struct rpc_call *c, const struct rpc_request *req)
{
    void *body = c->body_buf != NULL ? c->body_buf : c->inline_body;
    size_t body_room = c->body_buf != NULL ? c->body_buf_size : NET_BODY_INLINE;
    size_t data_room = c->data_buf != NULL ? c->data_buf_size : 0;

    if (req->reply_body.len > body_room || req->reply_data_len > data_room)
        return false;
    if (req->reply_body.len > 0)
        memcpy(body, req->reply_body.base, req->reply_body.len);
    if (req->reply_data_len > 0 && req->reply_data != c->data_buf)
        memcpy(c->data_buf, req->reply_data, req->reply_data_len);
    c->reply_body = (struct slice){body, req->reply_body.len};
    c->reply_data_len = req->reply_data_len;
    return true;
}

void local_reply(struct request *r)
{
    struct rpc_call *c = r->call;

    c->reply_revision = r->pub.reply_revision;
    c->reply_incarnation = r->net->config.incarnation;
    r->call = NULL;
    if (r->pub.oneway)
        local_return(c, 0, false);
    else if (local_copy_answer(c, &r->pub))
        local_return(c, r->pub.status, true);
    else
        local_return(c, -EPROTO, false);
}
