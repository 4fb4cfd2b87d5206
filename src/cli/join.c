/*
 * One contact after the other, round and round, until one gives a number or all time is used up; or
 * until those that answer have known no leader for longer than an election takes.
 * Each attempt is one call of kind META_RPC_JOIN; the same join_id makes repeating it harmless.
 */

#include "cli/join.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "cli/setup.h"
#include "meta/meta_join.h"

enum {
    JOIN_TOTAL_MS = 15000,
    JOIN_ATTEMPT_MS = 4000,
    JOIN_ELECTION_MS = 3000,
    JOIN_PAUSE_MS = 100
};

struct join {
    struct identity *id;
    struct loop *loop;
    struct net *net;
    struct task task;
    struct loop_timer pause;
    struct rpc_call call;
    uint64_t end_ns;
    uint64_t no_leader_ns; /* when a contact first said that it knows no leader; 0: none has */
    uint32_t contact;      /* whose turn it is */
    uint32_t attempts;
    bool under_way;
    bool lost;    /* the contact cannot be reached: the next one's turn */
    bool refused; /* the secret is wrong */
    int last_error;
    uint8_t request[META_JOIN_REQUEST_MAX];
    uint8_t answer_buf[META_JOIN_ANSWER_MAX];
    struct meta_join_answer answer;
};

static int join_resolve(void *arg, net_endpoint peer, struct loop_addr *out)
{
    struct join *j = arg;
    for (uint32_t i = 0; i < j->id->contacts_count; i++) {
        if (peer != meta_contact_endpoint(i))
            continue;
        *out = j->id->contacts[i].addr;
        return 0;
    }
    return -ENOENT;
}

static void join_handle(void *arg, struct rpc_request *req)
{
    (void)arg;
    rpc_reply_status(req, -EINVAL);
}

/* -EACCES: the two sides do not share the secret. No other contact will say otherwise. */
static void join_on_peer_lost(void *arg, net_endpoint peer, uint32_t incarnation, int why)
{
    struct join *j = arg;
    (void)peer;
    (void)incarnation;
    j->last_error = why;
    j->refused |= why == -EACCES;
    j->lost |= why != -ETIMEDOUT;
    loop_wake(j->loop, &j->task);
}

static void join_on_done(struct rpc_call *c)
{
    struct join *j = container_of(c, struct join, call);
    j->under_way = false;
    loop_wake(j->loop, &j->task);
}

static void join_on_pause(struct loop_timer *t)
{
    struct join *j = container_of(t, struct join, pause);
    loop_wake(j->loop, &j->task);
}

static void join_ask(struct join *j)
{
    struct rpc_call *c = &j->call;
    uint64_t end = loop_now(j->loop) + JOIN_ATTEMPT_MS * NS_PER_MS;
    struct slice body = c->body;
    memset(c, 0, sizeof(*c));
    c->to = meta_contact_endpoint(j->contact);
    c->kind = META_RPC_JOIN;
    c->body = body;
    c->deadline_ns = end < j->end_ns ? end : j->end_ns;
    c->body_buf = j->answer_buf;
    c->body_buf_size = sizeof(j->answer_buf);
    c->done = join_on_done;
    j->under_way = true;
    j->lost = false;
    rpc_call_start(j->net, c);
}

/* Each contact was asked since, and none knew better. */
static bool join_has_no_leader(const struct join *j)
{
    return j->no_leader_ns != 0 && j->attempts >= j->id->contacts_count &&
           loop_now(j->loop) - j->no_leader_ns >= JOIN_ELECTION_MS * NS_PER_MS;
}

static void join_step(struct task *task)
{
    struct join *j = container_of(task, struct join, task);
    struct rpc_call *c = &j->call;
    if (j->under_way) {
        if (j->lost)
            rpc_call_cancel(j->net, c);
        return;
    }
    if (c->done != NULL) { /* an attempt has ended */
        bool understood =
            c->answered && c->status == 0 && meta_join_answer_get(c->reply_body, &j->answer) == 0;
        if (c->status != -ECANCELED)
            j->last_error = c->status;
        j->attempts++;
        if (c->answered && c->status == -EAGAIN && j->no_leader_ns == 0)
            j->no_leader_ns = loop_now(j->loop);
        if (understood || j->refused || join_has_no_leader(j) || loop_now(j->loop) >= j->end_ns) {
            if (!understood)
                j->answer.code = -EAGAIN;
            loop_stop(j->loop);
            return;
        }
        c->done = NULL;
        j->contact = (j->contact + 1) % j->id->contacts_count;
        loop_timer_start(j->loop, &j->pause, loop_now(j->loop) + JOIN_PAUSE_MS * NS_PER_MS);
        return;
    }
    join_ask(j);
}

static int join_failed(const struct join *j, struct problem *p)
{
    char addr[LOOP_ADDR_STR];
    loop_addr_format(&j->id->contacts[0].addr, addr, sizeof(addr));
    if (j->refused) {
        problem_set(p, PROBLEM_NOT_PERMITTED, "wrong_token", "the cluster at %s refuses this token",
                    addr);
        problem_why(p, "the secret in it is not the cluster's");
        problem_action(p, "use the token that skerry token show prints on a node of that cluster");
    } else if (j->answer.code == -EEXIST) {
        problem_set(p, PROBLEM_EXISTS, "name_taken", "%.150s", j->answer.message);
        problem_action(p, "choose another with --name NAME");
    } else if (j->answer.code != -EAGAIN) {
        problem_set(p, problem_of_errno(j->answer.code), "refused", "the cluster refuses: %.150s",
                    j->answer.message);
    } else if (j->no_leader_ns != 0) {
        problem_set(p, PROBLEM_UNREACHABLE, "no_quorum",
                    "the cluster has no leader now, so no node can join it");
        problem_why(p, "its nodes answer, but a majority of its voters does not run");
        problem_action(p, "see skerry status there, start what is down, and say the same again");
    } else {
        problem_set(p, PROBLEM_UNREACHABLE, "unreachable",
                    "no node of the cluster gave an answer in time (the first is %s)", addr);
        problem_why(p, "%s", j->last_error != 0 ? strerror(-j->last_error) : "nobody answered");
        problem_action(p, "start the node there (skerry node), and see that this machine can "
                          "reach it");
    }
    return -1;
}

static int join_take(const struct join *j, struct problem *p)
{
    struct identity *id = j->id;
    const struct meta_join_answer *a = &j->answer;
    if (a->code != 0)
        return join_failed(j, p);
    if (memcmp(a->cluster, id->cluster, sizeof(id->cluster)) != 0)
        return problem_set(p, PROBLEM_NOT_PERMITTED, "wrong_token",
                           "another cluster answers at the address in this token");
    id->node = a->node;
    id->contacts_count = 0;
    for (uint32_t i = 0; i < a->contacts_count && i < IDENTITY_CONTACTS_MAX; i++)
        id->contacts[id->contacts_count++] =
            (struct identity_contact){.node = a->contacts[i].node, .addr = a->contacts[i].addr};
    return 0;
}

static int join_run(struct join *j, struct problem *p)
{
    struct net_config net = {.loop = j->loop,
                             .self = net_endpoint_make(NET_JOINER, 0),
                             .resolve = join_resolve,
                             .handle = join_handle,
                             .peer_lost = join_on_peer_lost,
                             .requests_max = 16,
                             .data_buffers = 8,
                             .arg = j};
    memcpy(net.identity.cluster, j->id->cluster, sizeof(net.identity.cluster));
    memcpy(net.identity.secret, j->id->secret, sizeof(net.identity.secret));
    int result = net_create(&net, &j->net);
    if (result < 0)
        return problem_set(p, PROBLEM_FAILED, "no_net", "cannot open the network: %s",
                           strerror(-result));

    j->end_ns = loop_now(j->loop) + JOIN_TOTAL_MS * NS_PER_MS;
    task_init(&j->task, join_step);
    loop_timer_init(&j->pause, join_on_pause);
    loop_wake(j->loop, &j->task);
    loop_run(j->loop);
    loop_halt(j->loop);
    net_destroy(j->net);
    return join_take(j, p);
}

int join_cluster(struct identity *id, struct problem *p)
{
    struct join j = {.id = id};
    struct meta_join_request request = {.addr = id->listen};
    str_copy(request.name, sizeof(request.name), id->name);
    memcpy(request.join_id, id->join_id, sizeof(request.join_id));
    size_t len = meta_join_request_put(j.request, sizeof(j.request), &request);
    check(len > 0 && id->contacts_count > 0);
    j.call.body = (struct slice){.base = j.request, .len = len};

    int result = loop_create(&j.loop, LOOP_AUTO, 64);
    if (result < 0)
        return setup_no_loop(LOOP_AUTO, result, p);
    result = join_run(&j, p);
    loop_destroy(j.loop);
    return result;
}
