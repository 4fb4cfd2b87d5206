/*
 * What a node tells the leader: twice a second that it lives and which OSDs it serves, and at once
 * when an OSD cannot be reached. None of it goes through Raft. The leader's answer says who is
 * alive and who leads, so that every node can show it.
 */

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"
#include "meta/meta_impl.h"
#include "meta/pack.h"

/* ---- Sending heartbeats ---- */

static void on_beat_reply(struct rpc_call *rpc)
{
    struct meta *m = container_of(rpc, struct meta, beat);

    m->beat_busy = false;
    m->beat_replied = true;
    loop_wake(m->config.loop, &m->tick);
}

static size_t beat_put(struct meta *m)
{
    struct pack p;

    pack_init(&p, m->beat_body, META_BEAT_MAX);
    pack_array(&p, 3);
    pack_u64(&p, m->config.node);
    pack_u64(&p, m->config.node_incarnation);
    pack_array(&p, m->osds_count);
    for (uint32_t i = 0; i < m->osds_count; i++) {
        pack_array(&p, 2);
        pack_u64(&p, m->osds[i].osd);
        pack_u64(&p, m->osds[i].incarnation);
    }
    check(!p.failed);
    return p.len;
}

static void beat_send(struct meta *m, uint32_t leader, uint64_t now)
{
    m->beat = (struct rpc_call){
        .to = net_endpoint_make(NET_CONTROL, leader),
        .kind = META_RPC_HEARTBEAT,
        .body = {m->beat_body, beat_put(m)},
        .body_buf = m->beat_answer,
        .body_buf_size = META_BEAT_MAX,
        .deadline_ns = now + m->config.heartbeat_ms * NS_PER_MS,
        .done = on_beat_reply,
    };
    m->beat_busy = true;
    rpc_call_start(m->config.net, &m->beat);
}

/* [leader, revision, [live nodes], [voters]] */
static void beat_take_answer(struct meta *m, uint64_t now)
{
    struct unpack u;

    if (!m->beat.answered)
        return;
    unpack_init(&u, m->beat.reply_body);
    unpack_array_exact(&u, 4);
    uint32_t leader = unpack_u32(&u);
    uint64_t revision = unpack_u64(&u, UINT64_MAX);
    uint32_t count = unpack_array(&u, META_NODES_MAX);
    if (u.failed)
        return;
    meta_set_hint(m, leader);
    if (m->beat.status != 0)
        return;
    m->alive_revision = revision;
    memset(m->alive, 0, META_NODES_MAX + 1);
    for (uint32_t i = 0; i < count; i++)
        m->alive[unpack_u64(&u, META_NODES_MAX)] = 1;
    m->voters_count = unpack_array(&u, RAFT_SERVERS_MAX);
    for (uint32_t i = 0; i < m->voters_count; i++)
        m->voters[i] = unpack_u32(&u);
    m->alive_ns = now;
}

void meta_beat_run(struct meta *m, uint64_t now)
{
    const struct map *map = meta_map(m);
    uint32_t leader = meta_leader(m);

    if (m->beat_replied) {
        m->beat_replied = false;
        beat_take_answer(m, now);
    }
    if (now < m->beat_ns || m->beat_busy || leader == 0)
        return;
    if (leader == m->config.node && map != NULL)
        duties_heartbeat(&m->duties, now, map, m->config.node, m->config.node_incarnation, m->osds,
                         m->osds_count);
    else if (leader != m->config.node)
        beat_send(m, leader, now);
    m->beat_ns = now + m->config.heartbeat_ms * NS_PER_MS;
}

void meta_serve_osd(struct meta *m, uint32_t osd, uint32_t incarnation, bool serving)
{
    uint32_t at = 0;

    while (at < m->osds_count && m->osds[at].osd != osd)
        at++;
    if (!serving) {
        if (at < m->osds_count && m->osds[at].incarnation == incarnation)
            m->osds[at] = m->osds[--m->osds_count];
        return;
    }
    check(at < META_OSDS_SERVED_MAX);
    m->osds[at] = (struct meta_osd_state){.osd = osd, .incarnation = incarnation};
    if (at == m->osds_count)
        m->osds_count++;
    m->beat_ns = loop_now(m->config.loop); /* the leader hears of it at once */
    loop_wake(m->config.loop, &m->tick);
}

bool meta_node_is_up(struct meta *m, uint32_t node)
{
    uint64_t now = loop_now(m->config.loop);

    if (node == m->config.node)
        return true;
    if (meta_leading(m))
        return duties_node_is_alive(&m->duties, node, now);
    if (node > META_NODES_MAX)
        return false;
    bool told = m->alive_ns != 0 && now - m->alive_ns <= m->config.down_after_ms * NS_PER_MS;
    return told ? m->alive[node] != 0 : m->linked[node] != 0;
}

/* ---- Receiving them, as the leader ---- */

static void put_voters(struct meta *m, struct pack *p)
{
    struct raft_core_status s;
    uint32_t count = 0;

    raft_core_status(m->raft, &s);
    size_t place = pack_array_begin(p);
    for (uint32_t i = 0; i < s.members_count; i++) {
        if (s.members[i].role != RAFT_CORE_VOTER)
            continue;
        pack_u64(p, s.members[i].id);
        count++;
    }
    pack_array_end(p, place, count);
}

static void beat_answer(struct meta *m, struct rpc_request *req, int status)
{
    const struct map *map = meta_map(m);
    uint32_t count = 0;
    struct pack p;

    pack_init_growing(&p);
    pack_array(&p, 4);
    pack_u64(&p, meta_leader(m));
    pack_u64(&p, map == NULL ? 0 : map->revision);
    size_t place = pack_array_begin(&p);
    for (uint32_t i = 0; status == 0 && map != NULL && i < map->nodes_count; i++) {
        uint32_t id = map->nodes[i].id;
        if (p.len + 64 > META_BEAT_MAX || !meta_node_is_up(m, id))
            continue;
        pack_u64(&p, id);
        count++;
    }
    pack_array_end(&p, place, count);
    put_voters(m, &p);
    replies_send(&m->replies, req, status, (struct slice){p.base, p.len});
    pack_deinit(&p);
}

void meta_beat_handle(struct meta *m, struct rpc_request *req)
{
    struct meta_osd_state osds[META_OSDS_SERVED_MAX];
    const struct map *map = meta_map(m);
    struct unpack u;

    unpack_init(&u, req->body);
    unpack_array_exact(&u, 3);
    uint32_t node = unpack_u32(&u);
    uint32_t incarnation = unpack_u32(&u);
    uint32_t count = unpack_array(&u, META_OSDS_SERVED_MAX);
    for (uint32_t i = 0; i < count; i++) {
        unpack_array_exact(&u, 2);
        osds[i] = (struct meta_osd_state){.osd = unpack_u32(&u)};
        osds[i].incarnation = unpack_u32(&u);
    }
    if (u.failed || unpack_left(&u) > 0 || node != net_endpoint_id(req->from)) {
        rpc_reply_status(req, -EPROTO);
        return;
    }
    bool leading = meta_leading(m);
    if (leading && map != NULL)
        duties_heartbeat(&m->duties, loop_now(m->config.loop), map, node, incarnation, osds, count);
    beat_answer(m, req, leading ? 0 : -EAGAIN);
}

/* ---- Reports ---- */

static void report_free(struct meta_report *r)
{
    atomic_store_explicit(&r->busy, false, memory_order_release);
}

static void on_report_sent(struct rpc_call *rpc)
{
    report_free(container_of(rpc, struct meta_report, rpc));
}

static void on_report(struct loop_msg *msg)
{
    struct meta_report *r = container_of(msg, struct meta_report, msg);
    struct meta *m = r->meta;
    uint32_t leader = meta_leader(m);
    struct pack p;

    if (leader == 0 || leader == m->config.node) {
        duties_report(&m->duties, r->osd, r->incarnation, r->refused);
        loop_wake(m->config.loop, &m->tick);
        report_free(r);
        return;
    }
    pack_init(&p, r->body, sizeof(r->body));
    pack_array(&p, 3);
    pack_u64(&p, r->osd);
    pack_u64(&p, r->incarnation);
    pack_bool(&p, r->refused);
    check(!p.failed);
    r->rpc = (struct rpc_call){
        .to = net_endpoint_make(NET_CONTROL, leader),
        .kind = META_RPC_REPORT,
        .body = {p.base, p.len},
        .deadline_ns = loop_now(m->config.loop) + NS_PER_S,
        .done = on_report_sent,
    };
    rpc_send_start(m->config.net, &r->rpc);
}

/* It is a hint: when all slots are taken, many have been given already. The slots are the one thing
 * here that several threads touch; whoever swaps `busy` from false owns the slot. */
void meta_report_send(struct meta *m, uint32_t osd, uint32_t incarnation, bool refused)
{
    for (uint32_t i = 0; i < META_REPORTS_MAX; i++) {
        struct meta_report *r = &m->reports[i];
        bool taken = false;
        if (!atomic_compare_exchange_strong_explicit(&r->busy, &taken, true, memory_order_acquire,
                                                     memory_order_relaxed))
            continue;
        r->osd = osd;
        r->incarnation = incarnation;
        r->refused = refused;
        r->msg.run = on_report;
        loop_post(m->config.loop, &r->msg);
        return;
    }
}

void meta_report_handle(struct meta *m, struct rpc_request *req)
{
    struct unpack u;

    unpack_init(&u, req->body);
    unpack_array_exact(&u, 3);
    uint32_t osd = unpack_u32(&u);
    uint32_t incarnation = unpack_u32(&u);
    bool refused = unpack_bool(&u);
    if (u.failed || unpack_left(&u) > 0) {
        rpc_reply_status(req, -EPROTO);
        return;
    }
    duties_report(&m->duties, osd, incarnation, refused);
    loop_wake(m->config.loop, &m->tick);
    rpc_reply_status(req, 0);
}

void meta_beat_open(struct meta *m)
{
    m->beat_body = mem_zalloc(META_BEAT_MAX);
    m->beat_answer = mem_zalloc(META_BEAT_MAX);
    m->alive = mem_zalloc(META_NODES_MAX + 1);
    m->linked = mem_zalloc(META_NODES_MAX + 1);
    for (uint32_t i = 0; i < META_REPORTS_MAX; i++)
        m->reports[i].meta = m;
}

void meta_beat_close(struct meta *m)
{
    free(m->beat_body);
    free(m->beat_answer);
    free(m->alive);
    free(m->linked);
}
