/* The leader's duties, carried out: what meta/duties.c decides becomes commands. One of each kind
 * is under way at a time, and the next is decided on a map that shows the last one's effect. */

#include <errno.h>

#include "base/check.h"
#include "base/log.h"
#include "meta/meta_impl.h"

enum { DUTY_DEADLINE_MS = 2000, DUTY_PAUSE_MS = 500 };

static bool duty_is_busy(const struct meta *m, const struct meta_duty *d, uint64_t now)
{
    const struct map *map = feeds_map(&m->feeds);
    return d->busy || now < d->not_before_ns || (map != NULL && map->revision < d->revision);
}

static void duty_done(struct meta_call *call)
{
    struct meta_duty *d = container_of(call, struct meta_duty, call);
    struct meta *m = d->meta;

    d->busy = false;
    d->revision = call->result.code == 0 ? call->result.revision : 0;
    if (call->result.code != 0) {
        d->not_before_ns = loop_now(m->config.loop) + DUTY_PAUSE_MS * NS_PER_MS;
        log_info("meta", "%s: %s error=%d", meta_kind_name(call->command.kind),
                 call->result.message, call->result.code);
    }
    loop_wake(m->config.loop, &m->tick);
}

/* A decision of this leader is not passed on to the next one. */
static void duty_start(struct meta_duty *d, uint64_t now)
{
    struct meta *m = d->meta;

    d->busy = true;
    d->call.deadline_ns = now + DUTY_DEADLINE_MS * NS_PER_MS;
    calls_start(&m->calls, &d->call, true);
    d->call.here = true;
}

/* The lists lie in m->duties_out, which the next duties_run() overwrites; by then the command is
 * encoded. */
static void start_down(struct meta *m, uint64_t now)
{
    const struct duties_out *out = &m->duties_out;

    for (uint32_t i = 0; i < out->down_count; i++)
        log_info("meta", "osd.%u is down incarnation=%u dead=%d", out->down[i].osd,
                 out->down[i].incarnation, out->down[i].dead);
    m->down.call.command = (struct meta_command){
        .kind = META_OSD_DOWN, .list_count = out->down_count, .osds = out->down};
    duty_start(&m->down, now);
}

static void start_target(struct meta *m, uint64_t now)
{
    m->target.call.command = (struct meta_command){.kind = META_PG_TARGET,
                                                   .list_count = m->duties_out.targets_count,
                                                   .targets = m->duties_out.targets};
    duty_start(&m->target, now);
}

static void start_change(struct meta *m, uint64_t now)
{
    m->change.call.command = (struct meta_command){.kind = META_PG_CHANGE,
                                                   .list_count = m->duties_out.changes_count,
                                                   .changes = m->duties_out.changes};
    duty_start(&m->change, now);
}

static void run_hash(struct meta *m, uint64_t now)
{
    uint64_t index, hash;

    if (duty_is_busy(m, &m->hash, now) || !meta_state_hash_last(m->state, &index, &hash) ||
        index == m->hash_index)
        return;
    m->hash_index = index;
    m->hash.call.command =
        (struct meta_command){.kind = META_STATE_HASH, .revision = index, .hash = hash};
    duty_start(&m->hash, now);
}

/* ---- Members ---- */

static void on_member(struct raft_proposal *p)
{
    struct meta *m = container_of(p, struct meta, member);

    m->member_busy = false;
    if (p->result != 0)
        log_info("meta", "the change of members failed error=%d", p->result);
    loop_wake(m->config.loop, &m->tick);
}

static void run_member(struct meta *m)
{
    const struct members_step *step = &m->duties_out.member;
    static const char *const roles[] = {"spare", "standby", "voter"};

    if (m->member_busy || step->change == MEMBERS_NONE)
        return;
    m->member_busy = true;
    m->member = (struct raft_proposal){.done = on_member};
    if (step->change == MEMBERS_ASSIGN) {
        log_info("meta", "node.%u becomes a %s", step->id, roles[step->role]);
        raft_core_assign(m->raft, &m->member, step->id, step->role);
    } else {
        log_info("meta", "node.%u is taken out of the members of raft", step->id);
        raft_core_remove(m->raft, &m->member, step->id);
    }
}

/* The leader keeps a connection to every node, so that a killed process is noticed at once. They
 * are kept when the lead is lost: raft may want the same ones. */
void meta_lead_want_peers(struct meta *m)
{
    const struct map *map = feeds_map(&m->feeds);

    if (map == NULL || !m->duties.leading)
        return;
    for (uint32_t i = 0; i < map->nodes_count; i++) {
        if (map->nodes[i].id != m->config.node)
            net_want(m->config.net, net_endpoint_make(NET_CONTROL, map->nodes[i].id), true);
    }
}

/*
 * A node that was away may know nobody's address: it began the cluster, or all have moved. Raft
 * calls its members, and nobody else would call it when it was taken out of them meanwhile. So the
 * leader, which is connected to it, says who leads and where.
 */
static void home_on_sent(struct rpc_call *call)
{
    container_of(call, struct meta, home)->home_busy = false;
}

/* The next node, by turns, that we reach and that does not report. 0: none. */
static uint32_t next_stray(const struct meta *m, const struct map *map, uint64_t now)
{
    uint32_t first = 0;

    for (uint32_t i = 0; i < map->nodes_count; i++) {
        uint32_t id = map->nodes[i].id;
        if (id == m->config.node || id > META_NODES_MAX || !m->linked[id] ||
            duties_node_is_alive(&m->duties, id, now))
            continue;
        if (id > m->home_last)
            return id;
        if (first == 0)
            first = id;
    }
    return first;
}

static void call_home(struct meta *m, const struct map *map, uint64_t now)
{
    if (m->home_busy || now < m->home_ns)
        return;
    m->home_ns = now + META_CALL_HOME_MS * NS_PER_MS;
    m->home_last = next_stray(m, map, now);
    if (m->home_last == 0)
        return;
    m->home = (struct rpc_call){.to = net_endpoint_make(NET_CONTROL, m->home_last),
                                .kind = META_RPC_LEADER,
                                .deadline_ns = now + NS_PER_S,
                                .done = home_on_sent};
    m->home_busy = true;
    rpc_send_start(m->config.net, &m->home);
}

void meta_lead_run(struct meta *m, uint64_t now, uint64_t *next_ns)
{
    const struct map *map = feeds_map(&m->feeds);
    struct raft_core_status status;
    struct duties_out *out = &m->duties_out;

    raft_core_status(m->raft, &status);
    if (!m->duties.leading || !status.leading || map == NULL || m->stopped)
        return;
    m->duties.changes_busy = duty_is_busy(m, &m->change, now);
    duties_run(&m->duties, now, map, &status, out);
    if (out->next_ns < *next_ns)
        *next_ns = out->next_ns;
    if (out->kick)
        net_kick(m->config.net);
    if (out->down_count > 0 && !duty_is_busy(m, &m->down, now))
        start_down(m, now);
    if (out->targets_count > 0 && !duty_is_busy(m, &m->target, now))
        start_target(m, now);
    if (out->changes_count > 0 && !m->duties.changes_busy)
        start_change(m, now);
    run_member(m);
    run_hash(m, now);
    call_home(m, map, now);
}

void meta_lead_open(struct meta *m)
{
    struct meta_duty *all[] = {&m->down, &m->target, &m->change, &m->hash};

    for (size_t i = 0; i < COUNT_OF(all); i++) {
        all[i]->meta = m;
        all[i]->call.loop = m->config.loop;
        all[i]->call.done = duty_done;
    }
}
