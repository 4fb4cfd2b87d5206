/* Requests that came in on the control endpoint, for kinds 120 to 149. Nothing in them is believed
 * before it was read whole; a joiner may only join. */

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"
#include "base/text.h"
#include "meta/meta_impl.h"
#include "meta/meta_join.h"
#include "meta/pack.h"

enum { SERVE_DEADLINE_MS = 10000, SERVE_HERE_MS = 2500 };

/* A command that somebody else waits for. */
struct served {
    struct list link;
    struct meta *meta;
    struct rpc_request *req;
    struct meta_call call;
    struct meta_join_request join; /* what the command of a join points to */
};

static struct served *served_new(struct meta *m, struct rpc_request *req,
                                 void (*done)(struct meta_call *), uint64_t deadline_ms)
{
    struct served *s = mem_zalloc(sizeof(*s));

    s->meta = m;
    s->req = req;
    s->call.loop = m->config.loop;
    s->call.done = done;
    s->call.deadline_ns = loop_now(m->config.loop) + deadline_ms * NS_PER_MS;
    list_init(&s->link);
    list_push(&m->served, &s->link);
    return s;
}

static void served_free(struct served *s)
{
    list_remove(&s->link);
    free(s);
}

void meta_serve_close(struct meta *m)
{
    struct list *link;

    while ((link = list_pop(&m->served)) != NULL)
        free(container_of(link, struct served, link));
}

/* ---- Commands ---- */

static void on_submitted(struct meta_call *call)
{
    struct served *s = container_of(call, struct served, call);
    uint8_t body[META_RESULT_MAX];
    uint32_t leader = meta_leader(s->meta);
    int status = call->nowhere ? -EAGAIN : call->result.code == -ETIMEDOUT ? -EINPROGRESS : 0;
    size_t len = calls_answer_put(body, sizeof(body), leader, status == 0 ? &call->result : NULL);

    replies_send(&s->meta->replies, s->req, status, (struct slice){body, len});
    served_free(s);
}

/* What nobody may ask for: a hash that is not the leader's own would stop every node, and a command
 * without a name could be carried out twice. */
static int judge_command(const struct meta_command *c)
{
    static const uint8_t none[16];

    if (c->kind == META_STATE_HASH)
        return -EPERM;
    return memcmp(c->request_id, none, sizeof(none)) == 0 ? -EPROTO : 0;
}

/* From a client it goes on to the leader; from a node it came to the leader, or is sent back with
 * the leader's number. */
static void handle_submit(struct meta *m, struct rpc_request *req)
{
    struct meta_arena arena = {m->calls.arena, META_COMMAND_ARENA, 0};
    struct meta_command command;
    struct unpack u;
    bool from_node = net_endpoint_kind(req->from) == NET_CONTROL;

    unpack_init(&u, req->body);
    int error =
        req->body.len > META_COMMAND_MAX ? -EPROTO : meta_command_decode(&u, &arena, &command);
    if (error == 0 && unpack_left(&u) > 0)
        error = -EPROTO;
    if (error == 0)
        error = judge_command(&command);
    if (error == 0 && m->calls.count >= META_CALLS_MAX)
        error = -EBUSY;
    if (error < 0) {
        rpc_reply_status(req, error);
        return;
    }
    struct served *s =
        served_new(m, req, on_submitted, from_node ? SERVE_HERE_MS : SERVE_DEADLINE_MS);
    memcpy(s->call.command.request_id, command.request_id, sizeof(command.request_id));
    calls_start_encoded(&m->calls, &s->call, req->body, from_node);
}

/* ---- Joining ---- */

static void list_contacts(struct meta *m, struct meta_join_answer *a)
{
    const struct map *map = meta_map(m);

    for (uint32_t i = 0; map != NULL && i < map->nodes_count; i++) {
        if (a->contacts_count == META_JOIN_CONTACTS_MAX)
            return;
        if (map->nodes[i].id == a->node || map->nodes[i].addr.port == 0)
            continue;
        a->contacts[a->contacts_count++] =
            (struct meta_join_contact){map->nodes[i].id, map->nodes[i].addr};
    }
}

static void on_joined(struct meta_call *call)
{
    struct served *s = container_of(call, struct served, call);
    struct meta *m = s->meta;
    const struct map *map = meta_map(m);
    struct meta_join_answer a = {.code = call->result.code};
    uint8_t body[META_JOIN_ANSWER_MAX];
    bool later = a.code == -EAGAIN || a.code == -ETIMEDOUT || map == NULL;

    str_copy(a.message, sizeof(a.message), call->result.message);
    if (a.code == 0) {
        a.node = (uint32_t)call->result.id;
        list_contacts(m, &a);
        if (map != NULL)
            memcpy(a.cluster, map->cluster, sizeof(a.cluster));
        meta_heard(m, a.node, &s->join.addr);
    }
    size_t len = meta_join_answer_put(body, sizeof(body), &a);
    check(len > 0);
    replies_send(&m->replies, s->req, later ? -EAGAIN : 0, (struct slice){body, len});
    served_free(s);
}

static void handle_join(struct meta *m, struct rpc_request *req)
{
    struct meta_join_request join;

    if (meta_join_request_get(req->body, &join) < 0) {
        rpc_reply_status(req, -EPROTO);
        return;
    }
    if (m->calls.count >= META_CALLS_MAX || !meta_hears_leader(m)) {
        rpc_reply_status(req, meta_hears_leader(m) ? -EBUSY : -EAGAIN);
        return;
    }
    struct served *s = served_new(m, req, on_joined, SERVE_DEADLINE_MS);
    s->join = join;
    s->call.command = (struct meta_command){.kind = META_NODE_ADD,
                                            .name = s->join.name,
                                            .location = s->join.location,
                                            .addr = join.addr};
    memcpy(s->call.command.join_id, join.join_id, sizeof(join.join_id));
    calls_start(&m->calls, &s->call, true);
}

/* ---- All of them ---- */

void meta_handle(struct meta *m, struct rpc_request *req)
{
    enum net_kind from = net_endpoint_kind(req->from);

    bool of_raft = req->kind >= RAFT_RPC_KIND_FIRST && req->kind <= RAFT_RPC_KIND_LAST;
    bool of_nodes = of_raft || req->kind == META_RPC_HEARTBEAT || req->kind == META_RPC_LEADER;

    if ((from == NET_JOINER && req->kind != META_RPC_JOIN) || (of_nodes && from != NET_CONTROL)) {
        rpc_reply_status(req, -EPERM);
        return;
    }
    if (from == NET_CONTROL)
        meta_heard(m, (uint32_t)net_endpoint_id(req->from), &req->from_advertise);
    if (of_raft) {
        raft_core_handle(m->raft, req);
        return;
    }
    switch (req->kind) {
    case META_RPC_SUBMIT:
        handle_submit(m, req);
        break;
    case META_RPC_HEARTBEAT:
        meta_beat_handle(m, req);
        break;
    case META_RPC_REPORT:
        meta_report_handle(m, req);
        break;
    case META_RPC_LEADER:
        meta_set_hint(m, (uint32_t)net_endpoint_id(req->from));
        rpc_reply_status(req, 0);
        break;
    case META_RPC_WATCH:
        watch_handle(&m->watch, req);
        break;
    case META_RPC_JOIN:
        handle_join(m, req);
        break;
    default:
        rpc_reply_status(req, -ENOSYS);
        break;
    }
}
