#include "meta/meta.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/text.h"
#include "meta/meta_impl.h"

enum { OWN_RETRY_MS = 200, HEARTBEAT_MS = 500, DOWN_AFTER_MS = 2500, VOTER_DEAD_MS = 30000 };

static struct meta *meta_of(struct meta_access *a)
{
    return (struct meta *)a;
}

/* ---- The end of a node ---- */

/* What an operator needs to find out why replicas differ: our state as it is. */
static void write_evidence(struct meta *m)
{
    char path[META_PATH_MAX + 32];
    struct loop_file *f;
    void *buf;
    size_t len;

    if (meta_state_serialize(m->state, &buf, &len) < 0)
        return;
    snprintf(path, sizeof(path), "%s/state-that-differs.db", m->config.dir);
    if (loop_file_open(m->config.loop, path, LOOP_FILE_WRITE | LOOP_FILE_CREATE, &f) == 0) {
        loop_write_now(f, buf, len, 0);
        loop_flush_now(f);
        loop_file_close(f);
        log_error("meta", "the state was written down path=%s", path);
    }
    free(buf);
}

void meta_fatal(struct meta *m, const char *what, int error)
{
    if (m->stopped)
        return;
    m->stopped = true;
    log_error("meta", "%s error=%d", what, error);
    if (error == -EUCLEAN)
        write_evidence(m);
    m->config.fatal(m->config.arg, what, error);
}

static void on_fatal(void *arg, const char *what, int error)
{
    meta_fatal(arg, what, error);
}

/* ---- The state machine under Raft ---- */

static void on_applied(void *arg, const uint8_t request_id[16], const struct meta_result *result)
{
    struct meta *m = arg;

    m->commands_applied++;
    calls_applied(&m->calls, request_id, result);
}

static void fsm_apply(void *arg, uint64_t index, struct slice entry, void **result)
{
    struct meta *m = arg;

    *result = NULL; /* results find their calls by request id, on every node */
    meta_state_apply(m->state, index, entry);
    loop_wake(m->config.loop, &m->publish);
}

static int fsm_snapshot(void *arg, void **buf, size_t *len)
{
    struct meta *m = arg;
    return meta_state_serialize(m->state, buf, len);
}

static int fsm_restore(void *arg, struct slice snapshot)
{
    struct meta *m = arg;
    int error = meta_state_restore(m->state, snapshot);

    loop_wake(m->config.loop, &m->publish);
    return error;
}

static void fsm_leading(void *arg, bool leading)
{
    struct meta *m = arg;

    m->step_down_until_ns = 0;
    duties_lead(&m->duties, leading);
    meta_lead_want_peers(m);
    if (!leading)
        calls_unqueue(&m->calls);
    calls_kick(&m->calls);
    loop_wake(m->config.loop, &m->tick);
}

bool meta_leading(struct meta *m)
{
    struct raft_core_status s;

    raft_core_status(m->raft, &s);
    return s.leading;
}

/* ---- Maps ---- */

static const struct map *current_map(void *arg)
{
    struct meta *m = arg;
    return feeds_map(&m->feeds);
}

static void take_map(struct meta *m, const struct map *map, struct slice rows, bool whole)
{
    const struct map *old = feeds_map(&m->feeds);
    bool moved = old == NULL || old->nodes != map->nodes;

    watch_publish(&m->watch, map, rows, whole);
    feeds_publish(&m->feeds, map);
    if (moved) {
        net_kick(m->config.net);
        follow_kick(&m->follow);
        meta_lead_want_peers(m);
    }
    loop_wake(m->config.loop, &m->tick);
}

/* Whole entries, as many as were applied since, make one map. */
static void publish_step(struct task *task)
{
    struct meta *m = container_of(task, struct meta, publish);
    const struct map *old = feeds_map(&m->feeds);
    uint64_t revision = meta_state_revision(m->state);
    struct map *map;
    struct pack rows;

    if (m->stopped || revision == 0 || (old != NULL && revision <= old->revision))
        return;
    pack_init_growing(&rows);
    bool whole = old == NULL || !meta_state_rows_since(m->state, old->revision, &rows);
    if (whole) {
        rows.len = 0;
        meta_state_rows_all(m->state, &rows);
    }
    struct slice bytes = {rows.base, rows.len};
    int error = map_build(whole ? NULL : old, bytes, revision, &map);
    check(error == 0); /* they are our own rows */
    take_map(m, map, bytes, whole);
    pack_deinit(&rows);
}

static void follow_on_map(void *arg, const struct map *map, struct slice rows, bool whole)
{
    take_map(arg, map, rows, whole);
}

const struct map *meta_map(struct meta *m)
{
    return feeds_map(&m->feeds);
}

/* ---- Who leads, and where nodes are ---- */

uint32_t meta_leader(struct meta *m)
{
    struct raft_core_status s;

    raft_core_status(m->raft, &s);
    if (s.leader == m->config.node && !s.leading)
        return 0;
    return s.leader != 0 ? s.leader : m->hint;
}

void meta_set_hint(struct meta *m, uint32_t leader)
{
    if (leader == 0 || leader == m->config.node || leader == m->hint)
        return;
    m->hint = leader;
    loop_wake(m->config.loop, &m->tick);
}

static void on_leader(void *arg, uint32_t leader)
{
    meta_set_hint(arg, leader);
}

/* The place-th of all nodes we could ask: contacts first, they are the only ones at the start, with
 * those who have spoken to us. */
static bool any_node(struct meta *m, uint32_t place, net_endpoint *out)
{
    const struct map *map = feeds_map(&m->feeds);
    uint32_t nodes = map == NULL ? 0 : map->nodes_count;
    uint32_t heard = map != NULL                      ? 0
                     : m->heard_next < META_HEARD_MAX ? m->heard_next
                                                      : META_HEARD_MAX;
    uint32_t count = m->contacts_count + nodes + heard;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = (place + i) % count, id;
        if (at < m->contacts_count)
            id = m->contacts[at].node;
        else if (at < m->contacts_count + nodes)
            id = map->nodes[at - m->contacts_count].id;
        else
            id = m->heard[at - m->contacts_count - nodes].node;
        *out = id != 0 ? net_endpoint_make(NET_CONTROL, id) : meta_contact_endpoint(at);
        if (id != m->config.node)
            return true;
    }
    return false;
}

/* Whom Raft knows, if a leader has answered lately. Else by turns that one, whom others named, and
 * anybody (0): a standby's Raft remembers the last leader it heard of for ever. */
static uint32_t leader_to_try(const struct meta *m, uint32_t known, uint32_t attempts)
{
    uint64_t silent_ns = loop_now(m->config.loop) - m->alive_ns;

    if (known != 0 && (silent_ns <= META_LEADER_LOST_MS * NS_PER_MS || attempts % 3 == 0))
        return known;
    return attempts % 2 == 0 ? m->hint : 0;
}

static enum calls_route route(void *arg, uint32_t attempts, net_endpoint *to)
{
    struct meta *m = arg;
    struct raft_core_status s;

    raft_core_status(m->raft, &s);
    if (m->stopped)
        return CALLS_NOWHERE;
    if (s.leading)
        return CALLS_HERE;
    if (s.leader == m->config.node)
        return CALLS_NOWHERE; /* about to lead */
    uint32_t leader = leader_to_try(m, s.leader, attempts);
    if (leader != 0) {
        *to = net_endpoint_make(NET_CONTROL, leader);
        return CALLS_THERE;
    }
    return any_node(m, m->config.node + attempts, to) ? CALLS_THERE : CALLS_NOWHERE;
}

static bool follow_upstream(void *arg, uint32_t attempt, net_endpoint *out)
{
    struct meta *m = arg;
    return any_node(m, m->config.node + attempt, out);
}

void meta_heard(struct meta *m, uint32_t node, const struct loop_addr *addr)
{
    if (node == 0 || node == m->config.node || addr->port == 0)
        return;
    for (uint32_t i = 0; i < META_HEARD_MAX; i++) {
        if (m->heard[i].node == node) {
            m->heard[i].addr = *addr;
            return;
        }
    }
    m->heard[m->heard_next++ % META_HEARD_MAX] = (struct meta_contact){*addr, node};
}

void meta_add_contact(struct meta *m, const struct loop_addr *addr, uint32_t node)
{
    if (m->contacts_count == META_CONTACTS_MAX || node == m->config.node)
        return;
    m->contacts[m->contacts_count++] = (struct meta_contact){*addr, node};
    net_kick(m->config.net);
    follow_kick(&m->follow);
}

static int resolve_control(struct meta *m, uint64_t id, struct loop_addr *out)
{
    const struct map *map = feeds_map(&m->feeds);
    const struct map_node *n = map == NULL ? NULL : map_node(map, (uint32_t)id);
    uint64_t place = id - (net_endpoint_id(meta_contact_endpoint(0)));

    if (id >> 48 != 0 && place < m->contacts_count) {
        *out = m->contacts[place].addr;
        return 0;
    }
    if (id <= UINT32_MAX && n != NULL && n->addr.port != 0) {
        *out = n->addr;
        return 0;
    }
    for (uint32_t i = 0; i < META_HEARD_MAX; i++) {
        if (m->heard[i].node != 0 && m->heard[i].node == id) {
            *out = m->heard[i].addr;
            return 0;
        }
    }
    for (uint32_t i = 0; i < m->contacts_count; i++) {
        if (m->contacts[i].node != 0 && m->contacts[i].node == id) {
            *out = m->contacts[i].addr;
            return 0;
        }
    }
    return -ENOENT;
}

int meta_resolve(struct meta *m, net_endpoint e, struct loop_addr *out)
{
    const struct map *map = feeds_map(&m->feeds);

    if (net_endpoint_kind(e) == NET_CONTROL)
        return resolve_control(m, net_endpoint_id(e), out);
    if (net_endpoint_kind(e) != NET_OSD || map == NULL)
        return -ENOENT;
    const struct map_osd *o = map_osd(map, (uint32_t)net_endpoint_id(e));
    return o == NULL ? -ENOENT : resolve_control(m, o->node, out);
}

void meta_peer_up(struct meta *m, net_endpoint e, uint32_t incarnation)
{
    (void)incarnation;
    if (net_endpoint_kind(e) != NET_CONTROL || net_endpoint_id(e) > META_NODES_MAX)
        return;
    m->linked[net_endpoint_id(e)] = 1;
    duties_peer_up(&m->duties, (uint32_t)net_endpoint_id(e));
}

void meta_peer_lost(struct meta *m, net_endpoint e, uint32_t incarnation, int why)
{
    (void)incarnation;
    if (net_endpoint_kind(e) != NET_CONTROL || net_endpoint_id(e) > META_NODES_MAX)
        return;
    m->linked[net_endpoint_id(e)] = 0;
    duties_peer_lost(&m->duties, loop_now(m->config.loop), (uint32_t)net_endpoint_id(e), why);
    loop_wake(m->config.loop, &m->tick);
}

/* ---- Entries ---- */

static void on_proposed(struct raft_proposal *p)
{
    struct meta_batch *b = container_of(p, struct meta_batch, proposal);
    struct meta *m = b->meta;

    b->busy = false;
    calls_batch_done(&m->calls, b->number, p->result);
    loop_wake(m->config.loop, &m->propose);
}

static struct meta_batch *free_batch(struct meta *m)
{
    for (uint32_t i = 0; i < RAFT_IN_FLIGHT_MAX; i++) {
        if (!m->batches[i].busy)
            return &m->batches[i];
    }
    return NULL;
}

/*
 * The successor refuses the lead while it writes (raft/README.md, G4). So nothing new is proposed,
 * and when nothing is under way any more the lead is offered, again with each tick. Commands that
 * wait go to the next leader, or here when that fails.
 */
static void step_down_run(struct meta *m, uint64_t now)
{
    if (m->step_down_until_ns == 0)
        return;
    for (uint32_t i = 0; i < RAFT_IN_FLIGHT_MAX; i++) {
        if (m->batches[i].busy && now < m->step_down_until_ns)
            return;
    }
    int error = now < m->step_down_until_ns ? raft_core_transfer(m->raft, 0) : -ETIMEDOUT;
    if (error == 0 || error == -EBUSY)
        return;
    m->step_down_until_ns = 0;
    loop_wake(m->config.loop, &m->propose);
    log_info("meta", "leadership was not handed over error=%d", error);
}

/* What came while all entries were under way travels together in the next. */
static void propose_step(struct task *task)
{
    struct meta *m = container_of(task, struct meta, propose);
    struct meta_batch *b;
    struct pack entry;

    step_down_run(m, loop_now(m->config.loop));
    while (m->step_down_until_ns == 0 && !list_empty(&m->calls.queue) &&
           (b = free_batch(m)) != NULL) {
        pack_init(&entry, m->entry, RAFT_ENTRY_MAX);
        uint32_t count = calls_take_batch(&m->calls, &entry, ++m->batch_last);
        check(count > 0);
        b->busy = true;
        b->number = m->batch_last;
        b->proposal =
            (struct raft_proposal){.entry = entry.base, .len = entry.len, .done = on_proposed};
        m->entries_proposed++;
        raft_core_propose(m->raft, &b->proposal);
    }
}

static void on_queued(void *arg)
{
    struct meta *m = arg;
    loop_wake(m->config.loop, &m->propose);
}

/* ---- Registration of this start: [CLUSTER_INIT, NODE_ADD,] NODE_SET ---- */

static bool may_send(void *arg)
{
    struct meta *m = arg;
    return m->own_step == META_OWN_DONE;
}

static void own_begin(struct meta *m)
{
    struct meta_command *c = &m->own.command;

    *c = (struct meta_command){.name = m->config.node_name, .location = m->config.location};
    switch (m->own_step) {
    case META_OWN_INIT:
        c->kind = META_CLUSTER_INIT;
        c->replicas = m->replicas;
        memcpy(c->cluster, m->cluster, sizeof(c->cluster));
        break;
    case META_OWN_ADD:
        c->kind = META_NODE_ADD;
        c->addr = m->config.advertise;
        memcpy(c->join_id, m->cluster, sizeof(c->join_id));
        break;
    case META_OWN_SET:
        c->kind = META_NODE_SET;
        c->node = m->config.node;
        c->addr = m->config.advertise;
        c->incarnation = m->config.node_incarnation;
        memcpy(c->join_id, m->config.join_id, sizeof(c->join_id));
        break;
    case META_OWN_DONE:
        never("nothing is left to register");
    }
    m->own_busy = true;
    calls_start(&m->calls, &m->own, true);
}

static void own_done(struct meta_call *call)
{
    struct meta *m = container_of(call, struct meta, own);
    int code = call->result.code;

    m->own_busy = false;
    m->own_not_before_ns = loop_now(m->config.loop) + (code == 0 ? 0 : OWN_RETRY_MS * NS_PER_MS);
    loop_wake(m->config.loop, &m->tick);
    if (code == 0 && m->own_step == META_OWN_ADD && call->result.id != m->config.node)
        meta_fatal(m, "this node's number is another's in the cluster", -EEXIST);
    else if (code == 0 && m->own_step == META_OWN_SET)
        log_info("meta", "registered node=%u incarnation=%u", m->config.node,
                 m->config.node_incarnation);
    else if (code == -ESTALE)
        meta_fatal(m, "another process was started as this node since", code);
    else if (code == -EEXIST || code == -EINVAL)
        meta_fatal(m, call->result.message, code);
    if (code == 0)
        m->own_step++;
    if (m->own_step == META_OWN_DONE)
        calls_kick(&m->calls);
}

static void own_run(struct meta *m, uint64_t now)
{
    if (m->own_busy || m->own_step == META_OWN_DONE || m->stopped || now < m->own_not_before_ns)
        return;
    if (m->own_step == META_OWN_SET && m->founder) {
        m->founder = false;
        m->own_step = META_OWN_INIT;
    }
    own_begin(m);
}

void meta_init_cluster(struct meta *m, const uint8_t cluster[16], uint32_t replicas)
{
    memcpy(m->cluster, cluster, sizeof(m->cluster));
    m->replicas = replicas;
    m->founder = true; /* before the next NODE_SET goes out */
    loop_wake(m->config.loop, &m->tick);
}

bool meta_is_registered(const struct meta *m)
{
    return m->own_step == META_OWN_DONE;
}

/* ---- The tick ---- */

static bool is_behind(const struct meta *m)
{
    return loop_now(m->config.loop) - m->level_ns > META_LEADER_LOST_MS * NS_PER_MS;
}

/* Our own copy of the log is the state, unless we have none, or it falls behind what the leader
 * says: Raft does not tell who was away that he was taken out. */
static bool is_member(struct meta *m, const struct raft_core_status *s)
{
    for (uint32_t i = 0; i < s->members_count; i++) {
        if (s->members[i].id == m->config.node)
            return s->members[i].role != RAFT_CORE_SPARE && !is_behind(m);
    }
    return false;
}

static void look_at_raft(struct meta *m, uint64_t now)
{
    struct raft_core_status s;
    uint32_t leader;

    raft_core_status(m->raft, &s);
    if (s.leader == m->config.node || now - m->alive_ns <= META_LEADER_LOST_MS * NS_PER_MS)
        m->leader_ns = now;
    if (s.leader == m->config.node || meta_state_revision(m->state) >= m->alive_revision)
        m->level_ns = now;
    follow_run(&m->follow, /* also when we hear of nobody who would tell us what is new */
               !is_member(m, &s) || now - m->leader_ns > META_LEADER_LOST_MS * NS_PER_MS);
    leader = meta_leader(m);
    watch_set_leader(&m->watch, leader);
    if (leader == m->leader)
        return;
    m->leader = leader;
    m->beat_ns = now; /* a new leader hears from us at once */
    calls_kick(&m->calls);
}

static void tick_step(struct task *task)
{
    struct meta *m = container_of(task, struct meta, tick);
    uint64_t now = loop_now(m->config.loop), next = now + META_TICK_MS * NS_PER_MS;

    look_at_raft(m, now);
    own_run(m, now);
    meta_beat_run(m, now);
    meta_lead_run(m, now, &next);
    step_down_run(m, now);
    loop_timer_start(m->config.loop, &m->timer, next);
}

static void on_timer(struct loop_timer *t)
{
    struct meta *m = container_of(t, struct meta, timer);
    loop_wake(m->config.loop, &m->tick);
}

/* ---- Access ---- */

static void access_submit(struct meta_access *a, struct meta_call *c)
{
    calls_submit(&meta_of(a)->calls, c);
}

static void access_feed_add(struct meta_access *a, struct map_feed *f)
{
    feeds_add(&meta_of(a)->feeds, f);
}

static void access_feed_remove(struct meta_access *a, struct map_feed *f)
{
    feeds_remove(&meta_of(a)->feeds, f);
}

static void access_report(struct meta_access *a, uint32_t osd, uint32_t incarnation, bool refused)
{
    meta_report_send(meta_of(a), osd, incarnation, refused);
}

struct meta_access *meta_access(struct meta *m)
{
    return &m->access;
}

/* ---- Life ---- */

static void open_parts(struct meta *m)
{
    struct loop *l = m->config.loop;

    m->access =
        (struct meta_access){access_submit, access_feed_add, access_feed_remove, access_report};
    feeds_init(&m->feeds, l);
    watch_init(&m->watch, l);
    replies_init(&m->replies);
    list_init(&m->served);
    m->calls = (struct calls){.loop = l,
                              .net = m->config.net,
                              .route = route,
                              .queued = on_queued,
                              .leader = on_leader,
                              .may_send = may_send,
                              .arg = m};
    calls_init(&m->calls);
    m->follow = (struct follow){.loop = l,
                                .net = m->config.net,
                                .upstream = follow_upstream,
                                .base = current_map,
                                .on_map = follow_on_map,
                                .leader = on_leader,
                                .arg = m};
    follow_init(&m->follow);
    duties_init(&m->duties, m->config.node, m->config.down_after_ms, m->config.voter_dead_ms);
    for (uint32_t i = 0; i < RAFT_IN_FLIGHT_MAX; i++)
        m->batches[i].meta = m;
    m->entry = mem_zalloc(RAFT_ENTRY_MAX);
    m->own.loop = l;
    m->own.done = own_done;
    m->own_step = META_OWN_SET;
    task_init(&m->publish, publish_step);
    task_init(&m->propose, propose_step);
    task_init(&m->tick, tick_step);
    loop_timer_init(&m->timer, on_timer);
    meta_beat_open(m);
    meta_lead_open(m);
}

static int open_raft(struct meta *m)
{
    struct raft_core_config c = {
        .loop = m->config.loop,
        .net = m->config.net,
        .dir = m->raft_dir,
        .id = m->config.node,
        .election_ms = m->config.election_ms,
        .heartbeat_ms = m->config.raft_heartbeat_ms,
        .snapshot_entries = m->config.raft.snapshot_entries,
        .trailing_entries = m->config.raft.trailing_entries,
        .fsm = {fsm_apply, fsm_snapshot, fsm_restore, fsm_leading, m},
        .fatal = on_fatal,
    };
    return raft_core_open(&c, &m->raft);
}

int meta_open(const struct meta_config *config, struct meta **out)
{
    struct meta *m = mem_zalloc(sizeof(*m));
    struct meta_state_env env = {on_applied, on_fatal, m};

    check(config->loop != NULL && config->net != NULL && config->fatal != NULL);
    m->config = *config;
    if (m->config.heartbeat_ms == 0)
        m->config.heartbeat_ms = HEARTBEAT_MS;
    if (m->config.down_after_ms == 0)
        m->config.down_after_ms = DOWN_AFTER_MS;
    if (m->config.voter_dead_ms == 0)
        m->config.voter_dead_ms = VOTER_DEAD_MS;
    snprintf(m->raft_dir, sizeof(m->raft_dir), "%s/raft", config->dir);
    open_parts(m);
    m->leader_ns = m->level_ns = loop_now(config->loop);
    int error = meta_state_open(&env, &m->state);
    if (error == 0)
        error = open_raft(m);
    if (error < 0) {
        task_cancel(&m->publish); /* the loop lives on */
        task_cancel(&m->propose);
        task_cancel(&m->tick);
        meta_close(m);
        return error;
    }
    loop_wake(config->loop, &m->publish);
    loop_wake(config->loop, &m->tick);
    *out = m;
    return 0;
}

/* Memory only, and our own only: the loop is dead, and others may have gone before. */
void meta_close(struct meta *m)
{
    if (m->raft != NULL)
        raft_core_close(m->raft);
    if (m->state != NULL)
        meta_state_close(m->state);
    meta_serve_close(m);
    meta_beat_close(m);
    duties_deinit(&m->duties);
    follow_deinit(&m->follow);
    calls_deinit(&m->calls);
    watch_deinit(&m->watch);
    replies_deinit(&m->replies);
    feeds_deinit(&m->feeds);
    free(m->entry);
    free(m);
}

void meta_raft_status(struct meta *m, struct raft_core_status *out)
{
    raft_core_status(m->raft, out);
}

bool meta_hears_leader(struct meta *m)
{
    uint64_t silent_ns = loop_now(m->config.loop) - m->alive_ns;

    return meta_leading(m) || (meta_leader(m) != 0 && m->alive_ns != 0 &&
                               silent_ns <= META_LEADER_LOST_MS * NS_PER_MS);
}

void meta_group(struct meta *m, struct raft_core_status *out)
{
    raft_core_status(m->raft, out);
    if (out->leading)
        return;
    out->leader = meta_hears_leader(m) ? meta_leader(m) : 0;
    if (is_member(m, out) || m->voters_count == 0)
        return;
    out->members_count = m->voters_count;
    for (uint32_t i = 0; i < m->voters_count; i++)
        out->members[i] = (struct raft_core_member){m->voters[i], RAFT_CORE_VOTER};
}

void meta_step_down(struct meta *m)
{
    m->step_down_until_ns = loop_now(m->config.loop) + META_STEP_DOWN_MS * NS_PER_MS;
    loop_wake(m->config.loop, &m->propose);
}

void meta_status(struct meta *m, struct meta_status *out)
{
    struct raft_core_status s;
    const struct map *map = feeds_map(&m->feeds);

    raft_core_status(m->raft, &s);
    *out = (struct meta_status){
        .revision = map == NULL ? 0 : map->revision,
        .leader = meta_leader(m),
        .leading = s.leading,
        .member = is_member(m, &s),
        .calls = m->calls.count,
        .watchers = m->watch.waiting_count,
        .entries_proposed = m->entries_proposed,
        .commands_applied = m->commands_applied,
        .rows_sent = m->watch.rows_sent,
    };
}
