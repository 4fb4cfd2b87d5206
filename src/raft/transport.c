#include "raft/transport.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/pool.h"
#include "raft/conf.h"
#include "raft/message.h"

struct transport_send {
    struct list link;
    struct raft_io_send *req;
    raft_io_send_cb cb;
    int status;
    uint64_t number;
    size_t len, sent;
    uint8_t bytes[];
};

struct transport_message {
    struct list link;
    uint64_t from;
    struct raft_message message;
};

struct raft_peer {
    struct raft_transport *transport;
    uint64_t id;
    struct list queue; /* struct transport_send; the first is under way */
    uint32_t queue_count;
    size_t queue_bytes;
    bool sending;
    bool sent; /* the call came back */
    struct rpc_call call;
    uint8_t *body;

    /* What is being put together. */
    uint64_t number;
    uint8_t *bytes;
    size_t total, received, capacity;
};

static void transport_step(struct task *task);

void raft_transport_init(struct raft_transport *t, struct loop *loop, struct net *net)
{
    *t = (struct raft_transport){.loop = loop, .net = net, .send_ns = 2 * NS_PER_S};
    list_init(&t->ended);
    list_init(&t->inbox);
    task_init(&t->task, transport_step);
}

/* Numbers of nodes are never used again: the place of one that is gone is. */
static struct raft_peer *transport_idle_peer(struct raft_transport *t)
{
    for (uint32_t i = 0; i < t->peers_count; i++) {
        struct raft_peer *p = t->peers[i];
        if (p->queue_count == 0 && !p->sending && p->bytes == NULL)
            return p;
    }
    return NULL;
}

static struct raft_peer *transport_peer(struct raft_transport *t, uint64_t id)
{
    for (uint32_t i = 0; i < t->peers_count; i++) {
        if (t->peers[i]->id == id)
            return t->peers[i];
    }
    struct raft_peer *p = t->peers_count == RAFT_PEERS_MAX ? transport_idle_peer(t) : NULL;
    if (p != NULL || t->peers_count == RAFT_PEERS_MAX) {
        if (p != NULL)
            p->id = id;
        return p;
    }
    p = mem_zalloc(sizeof(*p));
    p->transport = t;
    p->id = id;
    list_init(&p->queue);
    t->peers[t->peers_count++] = p;
    return p;
}

/* ---- Sending ---- */

static void transport_end(struct raft_transport *t, struct transport_send *s, int status)
{
    s->status = status;
    list_push(&t->ended, &s->link);
    loop_wake(t->loop, &t->task);
}

static void transport_unqueue(struct raft_peer *p, int status)
{
    struct transport_send *s = container_of(list_pop(&p->queue), struct transport_send, link);

    p->queue_count--;
    p->queue_bytes -= s->len;
    transport_end(p->transport, s, status);
}

static void transport_on_sent(struct rpc_call *call)
{
    struct raft_peer *p = container_of(call, struct raft_peer, call);

    p->sent = true;
    loop_wake(p->transport->loop, &p->transport->task);
}

static void transport_send_fragment(struct raft_peer *p)
{
    struct raft_transport *t = p->transport;
    struct transport_send *s = container_of(p->queue.next, struct transport_send, link);
    size_t len = s->len - s->sent;

    if (len > RAFT_FRAGMENT_MAX)
        len = RAFT_FRAGMENT_MAX;
    if (p->body == NULL)
        p->body = mem_zalloc(RAFT_FRAGMENT_HEADER + RAFT_FRAGMENT_MAX);
    put_u64(p->body, s->number);
    put_u32(p->body + 8, (uint32_t)s->len);
    put_u32(p->body + 12, (uint32_t)s->sent);
    memcpy(p->body + RAFT_FRAGMENT_HEADER, s->bytes + s->sent, len);
    s->sent += len;

    memset(&p->call, 0, sizeof(p->call));
    p->call.to = net_endpoint_make(NET_CONTROL, p->id);
    p->call.kind = RAFT_RPC_FRAGMENT;
    p->call.body = (struct slice){p->body, RAFT_FRAGMENT_HEADER + len};
    p->call.deadline_ns = loop_now(t->loop) + t->send_ns;
    p->call.done = transport_on_sent;
    p->sending = true;
    p->sent = false;
    rpc_send_start(t->net, &p->call);
}

static struct transport_send *transport_send_new(struct raft_io_send *req,
                                                 const struct raft_message *m, raft_io_send_cb cb,
                                                 size_t len)
{
    struct transport_send *s = raft_malloc(sizeof(*s) + len);

    check(s != NULL);
    *s = (struct transport_send){.req = req, .cb = cb, .len = len};
    list_init(&s->link);
    if (len > 0)
        raft_message_encode(m, s->bytes);
    return s;
}

static bool transport_has_room(const struct raft_peer *p, size_t len)
{
    return p->queue_count < RAFT_PEER_QUEUE_MAX &&
           (p->queue_count == 0 || p->queue_bytes + len <= RAFT_MESSAGE_MAX);
}

void raft_transport_send(struct raft_transport *t, struct raft_io_send *req,
                         const struct raft_message *m, raft_io_send_cb cb)
{
    struct raft_peer *p = transport_peer(t, m->server_id);
    size_t len = raft_message_size(m);
    bool admitted = p != NULL && len > 0 && transport_has_room(p, len);
    struct transport_send *s = transport_send_new(req, m, cb, admitted ? len : 0);

    if (!admitted) {
        if (len == 0)
            log_error("raft", "a message to a peer is too large type=%u", m->type);
        transport_end(t, s, RAFT_NOCONNECTION);
        return;
    }
    s->number = loop_random_u64(t->loop);
    list_push(&p->queue, &s->link);
    p->queue_count++;
    p->queue_bytes += len;
    if (!p->sending)
        transport_send_fragment(p);
}

/* The fragment left, or could not. */
static void transport_peer_step(struct raft_peer *p)
{
    struct transport_send *s = container_of(p->queue.next, struct transport_send, link);

    p->sending = false;
    p->sent = false;
    if (p->call.status != 0) {
        while (p->queue_count > 0)
            transport_unqueue(p, RAFT_NOCONNECTION);
        return;
    }
    if (s->sent == s->len)
        transport_unqueue(p, 0);
    if (p->queue_count > 0)
        transport_send_fragment(p);
}

/* ---- Receiving ---- */

static void transport_deliver(struct raft_transport *t, uint64_t from, struct slice bytes)
{
    struct transport_message *in;

    if (t->inbox_count == RAFT_INBOX_MAX)
        return; /* as good as lost on the way: Raft sends again */
    in = mem_zalloc(sizeof(*in));
    in->from = from;
    list_init(&in->link);
    if (raft_message_decode(bytes, &in->message) != 0) {
        log_warn("raft", "a message that means nothing was dropped from=node.%llu",
                 (unsigned long long)from);
        free(in);
        return;
    }
    list_push(&t->inbox, &in->link);
    t->inbox_count++;
    loop_wake(t->loop, &t->task);
}

static void transport_forget_partial(struct raft_peer *p)
{
    free(p->bytes);
    p->bytes = NULL;
    p->capacity = 0;
    p->received = 0;
    p->total = 0;
}

/* Memory grows with what came, not with what was announced. */
static void transport_append(struct raft_peer *p, const uint8_t *src, size_t len)
{
    if (p->received + len > p->capacity) {
        size_t capacity = p->capacity == 0 ? 2 * (size_t)RAFT_FRAGMENT_MAX : 2 * p->capacity;
        p->capacity = capacity < p->total ? capacity : p->total;
        p->bytes = mem_realloc(p->bytes, p->capacity);
    }
    memcpy(p->bytes + p->received, src, len);
    p->received += len;
}

int raft_transport_receive(struct raft_transport *t, uint64_t from, struct slice body)
{
    if (body.len <= RAFT_FRAGMENT_HEADER || body.len > RAFT_FRAGMENT_HEADER + RAFT_FRAGMENT_MAX)
        return -EBADMSG;
    const uint8_t *head = body.base, *src = head + RAFT_FRAGMENT_HEADER;
    uint64_t number = get_u64(head);
    size_t total = get_u32(head + 8), offset = get_u32(head + 12);
    size_t len = body.len - RAFT_FRAGMENT_HEADER;
    if (total < 16 || offset > total || len > total - offset ||
        (len < total - offset && len != RAFT_FRAGMENT_MAX))
        return -EBADMSG;
    if (offset == 0 && (len < 16 || total > raft_message_limit(src)))
        return -EBADMSG;
    if (len == total) {
        transport_deliver(t, from, (struct slice){src, len});
        return 0;
    }

    struct raft_peer *p = transport_peer(t, from);
    if (p == NULL)
        return -EBUSY;
    if (offset == 0) {
        transport_forget_partial(p);
        p->number = number;
        p->total = total;
    }
    if (p->total != total || p->number != number || p->received != offset)
        return 0; /* of a message that was given up */
    transport_append(p, src, len);
    if (p->received == p->total) {
        transport_deliver(t, from, (struct slice){p->bytes, p->total});
        transport_forget_partial(p);
    }
    return 0;
}

void raft_transport_handle(struct raft_transport *t, struct rpc_request *req)
{
    int rv = -EACCES;

    if (!t->stopped && net_endpoint_kind(req->from) == NET_CONTROL)
        rv = raft_transport_receive(t, net_endpoint_id(req->from), req->body);
    if (rv == -EBADMSG)
        log_warn("raft", "a bad fragment was dropped from=node.%llu",
                 (unsigned long long)net_endpoint_id(req->from));
    rpc_reply_status(req, rv);
}

/* ---- The step ---- */

static void transport_run_ended(struct raft_transport *t)
{
    struct list *link;

    while ((link = list_pop(&t->ended)) != NULL) {
        struct transport_send *s = container_of(link, struct transport_send, link);
        if (s->cb != NULL) /* nobody waits for a TimeoutNow */
            s->cb(s->req, s->status);
        raft_free(s);
    }
}

static void transport_run_inbox(struct raft_transport *t)
{
    struct list *link;

    while (!t->stopped && (link = list_pop(&t->inbox)) != NULL) {
        struct transport_message *in = container_of(link, struct transport_message, link);
        char address[RAFT_ADDRESS_SIZE];

        t->inbox_count--;
        raft_conf_address(in->from, address);
        in->message.server_id = in->from;
        in->message.server_address = address;
        t->received(t->arg, &in->message);
        free(in);
    }
}

static void transport_step(struct task *task)
{
    struct raft_transport *t = container_of(task, struct raft_transport, task);

    for (uint32_t i = 0; i < t->peers_count; i++) {
        if (t->peers[i]->sending && t->peers[i]->sent)
            transport_peer_step(t->peers[i]);
    }
    transport_run_ended(t);
    transport_run_inbox(t);
}

void raft_transport_deinit(struct raft_transport *t)
{
    struct list *link;

    t->stopped = true;
    task_cancel(&t->task);
    for (uint32_t i = 0; i < t->peers_count; i++) {
        struct raft_peer *p = t->peers[i];
        while (p->queue_count > 0)
            transport_unqueue(p, RAFT_CANCELED);
        transport_forget_partial(p);
        free(p->body);
        free(p);
    }
    t->peers_count = 0;
    transport_run_ended(t);
    while ((link = list_pop(&t->inbox)) != NULL) {
        struct transport_message *in = container_of(link, struct transport_message, link);
        raft_message_free(&in->message);
        free(in);
    }
    task_cancel(&t->task);
}
