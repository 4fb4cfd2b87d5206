/*
 * The state as seen by a process that is no node: it follows any node's map and sends commands to
 * any node, which pass them on. The parts are the node's own (calls, feeds, follow); what differs
 * is who can be asked.
 */

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"
#include "meta/calls.h"
#include "meta/feeds.h"
#include "meta/follow.h"
#include "meta/pack.h"
#include "meta/meta.h"

enum { REPORT_SLOTS = 8, RPC_REPORT = 122 };

/* Reports of other loops come through a slot that the reporter swaps to busy. */
struct remote_report {
    struct meta_remote *remote;
    atomic_bool busy;
    struct loop_msg msg;
    struct rpc_call rpc;
    uint32_t osd, incarnation;
    bool refused;
    uint8_t body[32];
};

struct meta_remote {
    struct meta_access access; /* First: an access pointer is a meta_remote pointer. */
    struct loop *loop;
    struct net *net;
    struct loop_addr *contacts;
    uint32_t contacts_count;
    uint32_t leader; /* as the node we follow says */
    struct feeds feeds;
    struct calls calls;
    struct follow follow;
    struct remote_report reports[REPORT_SLOTS];
};

static struct meta_remote *remote_of(struct meta_access *a)
{
    return (struct meta_remote *)a;
}

/* Contacts first, then the nodes of the map. */
static bool any_node(struct meta_remote *m, uint32_t place, net_endpoint *out)
{
    const struct map *map = feeds_map(&m->feeds);
    uint32_t nodes = map == NULL ? 0 : map->nodes_count;

    if (m->contacts_count + nodes == 0)
        return false;
    place %= m->contacts_count + nodes;
    *out = place < m->contacts_count
               ? meta_contact_endpoint(place)
               : net_endpoint_make(NET_CONTROL, map->nodes[place - m->contacts_count].id);
    return true;
}

static bool follow_upstream(void *arg, uint32_t attempt, net_endpoint *out)
{
    return any_node(arg, attempt, out);
}

/* To the leader if it is known and answers; else to anybody, who will pass it on. */
static enum calls_route route(void *arg, uint32_t attempts, net_endpoint *to)
{
    struct meta_remote *m = arg;
    const struct map *map = feeds_map(&m->feeds);

    if (attempts == 0 && m->leader != 0 && map != NULL && map_node(map, m->leader) != NULL) {
        *to = net_endpoint_make(NET_CONTROL, m->leader);
        return CALLS_THERE;
    }
    return any_node(m, attempts, to) ? CALLS_THERE : CALLS_NOWHERE;
}

static void on_queued(void *arg)
{
    (void)arg;
    never("a client process leads nothing");
}

static void on_leader(void *arg, uint32_t leader)
{
    struct meta_remote *m = arg;
    m->leader = leader;
}

static bool may_send(void *arg)
{
    (void)arg;
    return true;
}

static const struct map *current_map(void *arg)
{
    struct meta_remote *m = arg;
    return feeds_map(&m->feeds);
}

static void on_map(void *arg, const struct map *map, struct slice rows, bool whole)
{
    struct meta_remote *m = arg;

    (void)rows, (void)whole;
    feeds_publish(&m->feeds, map);
    net_kick(m->net);
}

int meta_remote_resolve(struct meta_remote *m, net_endpoint e, struct loop_addr *out)
{
    const struct map *map = feeds_map(&m->feeds);
    uint64_t id = net_endpoint_id(e);
    uint64_t place = id - net_endpoint_id(meta_contact_endpoint(0));

    if (net_endpoint_kind(e) == NET_CONTROL && id >> 48 != 0) {
        if (place >= m->contacts_count)
            return -ENOENT;
        *out = m->contacts[place];
        return 0;
    }
    if (map == NULL)
        return -ENOENT;
    if (net_endpoint_kind(e) == NET_OSD) {
        const struct map_osd *o = map_osd(map, (uint32_t)id);
        id = o == NULL ? 0 : o->node;
    } else if (net_endpoint_kind(e) != NET_CONTROL) {
        return -ENOENT;
    }
    const struct map_node *n = map_node(map, (uint32_t)id);
    if (n == NULL || n->addr.port == 0)
        return -ENOENT;
    *out = n->addr;
    return 0;
}

/* ---- Reports ---- */

static void on_report_sent(struct rpc_call *rpc)
{
    struct remote_report *r = container_of(rpc, struct remote_report, rpc);
    atomic_store_explicit(&r->busy, false, memory_order_release);
}

static void on_report(struct loop_msg *msg)
{
    struct remote_report *r = container_of(msg, struct remote_report, msg);
    struct meta_remote *m = r->remote;
    struct pack p;

    if (m->leader == 0) {
        atomic_store_explicit(&r->busy, false, memory_order_release);
        return;
    }
    pack_init(&p, r->body, sizeof(r->body));
    pack_array(&p, 3);
    pack_u64(&p, r->osd);
    pack_u64(&p, r->incarnation);
    pack_bool(&p, r->refused);
    check(!p.failed);
    r->rpc = (struct rpc_call){
        .to = net_endpoint_make(NET_CONTROL, m->leader),
        .kind = RPC_REPORT,
        .body = {p.base, p.len},
        .deadline_ns = loop_now(m->loop) + NS_PER_S,
        .done = on_report_sent,
    };
    rpc_send_start(m->net, &r->rpc);
}

static void access_report(struct meta_access *a, uint32_t osd, uint32_t incarnation, bool refused)
{
    struct meta_remote *m = remote_of(a);

    for (uint32_t i = 0; i < REPORT_SLOTS; i++) {
        struct remote_report *r = &m->reports[i];
        bool taken = false;
        if (!atomic_compare_exchange_strong_explicit(&r->busy, &taken, true, memory_order_acquire,
                                                     memory_order_relaxed))
            continue;
        r->osd = osd;
        r->incarnation = incarnation;
        r->refused = refused;
        r->msg.run = on_report;
        loop_post(m->loop, &r->msg);
        return;
    }
}

/* ---- Access and life ---- */

static void access_submit(struct meta_access *a, struct meta_call *c)
{
    calls_submit(&remote_of(a)->calls, c);
}

static void access_feed_add(struct meta_access *a, struct map_feed *f)
{
    feeds_add(&remote_of(a)->feeds, f);
}

static void access_feed_remove(struct meta_access *a, struct map_feed *f)
{
    feeds_remove(&remote_of(a)->feeds, f);
}

struct meta_access *meta_remote_access(struct meta_remote *m)
{
    return &m->access;
}

int meta_remote_open(const struct meta_remote_config *config, struct meta_remote **out)
{
    struct meta_remote *m = mem_zalloc(sizeof(*m));

    check(config->loop != NULL && config->net != NULL);
    m->access =
        (struct meta_access){access_submit, access_feed_add, access_feed_remove, access_report};
    m->loop = config->loop;
    m->net = config->net;
    m->contacts_count = config->contacts_count;
    m->contacts = mem_zalloc((config->contacts_count + 1) * sizeof(*m->contacts));
    if (config->contacts_count > 0)
        memcpy(m->contacts, config->contacts, config->contacts_count * sizeof(*m->contacts));
    feeds_init(&m->feeds, m->loop);
    m->calls = (struct calls){.loop = m->loop,
                              .net = m->net,
                              .route = route,
                              .queued = on_queued,
                              .leader = on_leader,
                              .may_send = may_send,
                              .arg = m};
    calls_init(&m->calls);
    m->follow = (struct follow){.loop = m->loop,
                                .net = m->net,
                                .upstream = follow_upstream,
                                .base = current_map,
                                .on_map = on_map,
                                .leader = on_leader,
                                .arg = m};
    follow_init(&m->follow);
    for (uint32_t i = 0; i < REPORT_SLOTS; i++)
        m->reports[i].remote = m;
    follow_run(&m->follow, true);
    *out = m;
    return 0;
}

void meta_remote_close(struct meta_remote *m)
{
    follow_deinit(&m->follow);
    calls_deinit(&m->calls);
    feeds_deinit(&m->feeds);
    free(m->contacts);
    free(m);
}
