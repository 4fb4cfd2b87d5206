/*
 * The weather. Each seed has its own: which kinds of faults there are, and how often. A fault that
 * is over is judged a little later: did it hit something?
 */

#include <errno.h>
#include <string.h>

#include "osd/pg.h"

#include "tests/sim/run.h"

enum {
    AFTERMATH_MS = 1500, /* what a fault did may show only when it is over */
    STEP_MS = 20,        /* how often faults_step() is called */
};

static const char *const names[FAULT_KINDS] = {
    [FAULT_CRASH] = "crashes",
    [FAULT_POWER] = "power_losses",
    [FAULT_ALL] = "blackouts",
    [FAULT_AGAIN] = "crashes_in_recovery",
    [FAULT_CUT] = "partitions",
    [FAULT_PAUSE] = "pauses",
    [FAULT_SLOW_NET] = "slow_nets",
    [FAULT_SLOW_DISK] = "slow_disks",
    [FAULT_SWITCH] = "primary_switches",
    [FAULT_DEPOSE] = "depositions",
    [FAULT_ROT] = "rotten_blocks",
    [FAULT_READ] = "read_errors",
    [FAULT_MOVE] = "moves",
};

const char *fault_name(enum fault_kind kind)
{
    check(kind < FAULT_KINDS);
    return names[kind];
}

/* ---- Did it hit something? ---- */

static uint64_t impact_now(struct run *r)
{
    uint64_t impact = r->retries_gone + r->result->unknown, epochs = 0;

    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        struct client_status st;
        if (!r->cluster.nodes[i].running)
            continue;
        client_status(r->cluster.nodes[i].client, &st);
        impact += st.retries_total;
        uint64_t sum = cluster_epochs(&r->cluster, i);
        if (sum > epochs)
            epochs = sum;
    }
    return impact + epochs;
}

static void fault_begin(struct run *r, enum fault_kind kind, uint64_t lasts_ns)
{
    r->result->faults++;
    r->result->by_kind[kind]++;
    for (uint32_t i = 0; i < FAULTS_MAX; i++) {
        struct fault *f = &r->faults[i];
        if (f->open)
            continue;
        *f = (struct fault){
            .open = true,
            .kind = kind,
            .impact = impact_now(r),
            .over_ns = sim_now(r->sim) + lasts_ns + AFTERMATH_MS * NS_PER_MS,
        };
        return;
    }
}

static void faults_judge(struct run *r)
{
    for (uint32_t i = 0; i < FAULTS_MAX; i++) {
        struct fault *f = &r->faults[i];
        if (!f->open || sim_now(r->sim) < f->over_ns)
            continue;
        f->open = false;
        r->result->hits += impact_now(r) > f->impact;
    }
}

/* ---- Processes ---- */

static uint64_t outage_ns(struct prng *p)
{
    static const uint32_t ms[] = {20, 60, 200, 700, 1500, 3500, 6000};

    return (ms[prng_below(p, COUNT_OF(ms))] + prng_below(p, 100)) * NS_PER_MS;
}

static void node_gone(struct run *r, uint32_t i, bool power, uint64_t back_ns)
{
    struct cluster_node *n = &r->cluster.nodes[i];
    struct client_status st;

    client_status(n->client, &st);
    r->retries_gone += st.retries_total;
    workers_lost(r, i);
    sim_disk_clear_faults(n->host);
    cluster_crash_node(&r->cluster, i, power);
    r->restart_ns[i] = back_ns;
}

static void node_kill(struct run *r, uint32_t i, bool power, uint64_t outage)
{
    if (r->restart_ns[i] != 0 || r->cluster.nodes[i].stopped)
        return;
    run_note(r, power ? "power loss of node, back in ms" : "crash of node, back in ms", i + 1,
             outage / NS_PER_MS);
    node_gone(r, i, power, sim_now(r->sim) + outage);
}

static void begin_crash(struct run *r, uint32_t i, bool power)
{
    uint64_t outage = outage_ns(sim_prng(r->sim));

    if (r->restart_ns[i] != 0)
        return;
    fault_begin(r, power ? FAULT_POWER : FAULT_CRASH, outage);
    node_kill(r, i, power, outage);
}

static void begin_blackout(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    bool power = prng_chance(p, 2, 3);

    fault_begin(r, FAULT_ALL, 3 * NS_PER_S);
    for (uint32_t i = 0; i < CLUSTER_NODES; i++)
        node_kill(r, i, power, (20 + prng_below(p, 1500)) * NS_PER_MS);
}

/* The next restart is followed by a crash of somebody, early enough to meet recovery. */
static void plan_crash_again(struct run *r)
{
    if (r->again_ns == 0)
        r->again_ns = UINT64_MAX;
}

static void crash_again(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint32_t i = (uint32_t)prng_below(p, CLUSTER_NODES);
    uint64_t outage = outage_ns(p) / 4;

    r->again_ns = 0;
    if (r->restart_ns[i] != 0)
        return;
    fault_begin(r, FAULT_AGAIN, outage);
    node_kill(r, i, prng_chance(p, 1, 2), outage);
}

static void begin_pause(struct run *r)
{
    static const uint32_t ms[] = {150, 600, 1500, 3200, 5000}; /* a lease is 3 s */
    struct prng *p = sim_prng(r->sim);
    uint32_t i = (uint32_t)prng_below(p, CLUSTER_NODES);
    uint64_t ns = (ms[prng_below(p, COUNT_OF(ms))] + prng_below(p, 200)) * NS_PER_MS;

    if (r->restart_ns[i] != 0)
        return;
    fault_begin(r, FAULT_PAUSE, ns);
    run_note(r, "pause of node, ms", i + 1, ns / NS_PER_MS);
    sim_host_pause(r->cluster.nodes[i].host, ns);
}

/* ---- Network ---- */

static bool has_fourth(const struct run *r)
{
    return cluster_has_node(&r->cluster, CLUSTER_NODES - 1);
}

static void cut_pair(struct run *r, uint32_t a, uint32_t b, uint32_t ways)
{
    if ((ways & 1) != 0)
        sim_net_cut(r->sim, a, b, true);
    if ((ways & 2) != 0)
        sim_net_cut(r->sim, b, a, true);
}

/* A founder from both others, from one, or everybody from everybody; both ways, or only one. The
 * fourth node is on one of the sides. */
static void begin_cut(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint32_t a = 1 + (uint32_t)prng_below(p, CLUSTER_FOUNDERS);
    uint32_t b = a % CLUSTER_FOUNDERS + 1, c = b % CLUSTER_FOUNDERS + 1;
    uint32_t ways = prng_chance(p, 1, 2) ? 3 : 1 + (uint32_t)prng_below(p, 2);
    uint32_t kind = (uint32_t)prng_below(p, 8);
    uint64_t ns = (200 + prng_below(p, prng_chance(p, 1, 2) ? 1500 : 6000)) * NS_PER_MS;

    if (r->cut_ns != 0)
        return;
    fault_begin(r, FAULT_CUT, ns);
    run_note(r, "partition of node, kind", a, kind << 4 | ways);
    cut_pair(r, a, b, ways);
    if (kind < 5)
        cut_pair(r, a, c, prng_chance(p, 1, 4) ? 3 : ways);
    if (kind == 0)
        cut_pair(r, b, c, 3);
    if (has_fourth(r) && prng_chance(p, 3, 4))
        cut_pair(r, prng_chance(p, 1, 3) ? b : a, CLUSTER_NODES, ways);
    r->cut_ns = sim_now(r->sim) + ns;
}

static void begin_slow_net(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint64_t ns = (500 + prng_below(p, 4000)) * NS_PER_MS;

    if (r->slow_net_ns != 0)
        return;
    fault_begin(r, FAULT_SLOW_NET, ns);
    run_note(r, "slow network, ms", ns / NS_PER_MS, 0);
    sim_net_set_slow(r->sim, 1, 5 + (uint32_t)prng_below(p, 50),
                     (1 + prng_below(p, 800)) * NS_PER_MS);
    r->slow_net_ns = sim_now(r->sim) + ns;
    if (prng_chance(p, 1, 2)) /* with leases whose answers were slow */
        r->depose_next_ns = r->slow_net_ns;
}

static void begin_slow_disk(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint32_t i = (uint32_t)prng_below(p, CLUSTER_NODES);
    uint64_t ns = (500 + prng_below(p, 4000)) * NS_PER_MS;

    if (r->slow_disk_ns[i] != 0)
        return;
    fault_begin(r, FAULT_SLOW_DISK, ns);
    run_note(r, "slow disk of node, ms", i + 1, ns / NS_PER_MS);
    sim_disk_set_slow(r->cluster.nodes[i].host, 1, 2 + (uint32_t)prng_below(p, 20),
                      (1 + prng_below(p, 1500)) * NS_PER_MS);
    r->slow_disk_ns[i] = sim_now(r->sim) + ns;
}

/* One object's only block, where another replica has the same version. */
static void begin_rot(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint32_t i = (uint32_t)prng_below(p, CLUSTER_NODES);
    const struct reg *g = &r->regs[HOT + (uint32_t)prng_below(p, SPREAD)];

    if (!cluster_rot_block(&r->cluster, i, g->offset, (uint32_t)prng_below(p, 8 * 4096)))
        return;
    fault_begin(r, FAULT_ROT, 10 * NS_PER_S);
    run_note(r, "a bit of a block rots on node, offset", i + 1, g->offset);
}

static void begin_read_error(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint32_t i = (uint32_t)prng_below(p, CLUSTER_NODES);
    const struct cluster_node *n = &r->cluster.nodes[i];

    if (r->restart_ns[i] != 0 || n->osd_object == NULL || !n->osd_object->registered)
        return; /* while it opens its store, a read that fails stops it */
    fault_begin(r, FAULT_READ, 2 * NS_PER_S);
    run_note(r, "a read will fail on node", i + 1, 0);
    sim_disk_fail(n->host, "osd", SIM_DISK_READ, prng_below(p, 4), -EIO, true);
}

/* ---- The operator ---- */

static bool leads_raft(struct run *r, uint32_t i)
{
    struct raft_core_status st;

    if (!r->cluster.nodes[i].running || r->cluster.nodes[i].stopped)
        return false;
    meta_raft_status(r->cluster.nodes[i].meta, &st);
    return st.leader == r->cluster.nodes[i].id;
}

static void begin_switch(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint32_t i = (uint32_t)prng_below(p, CLUSTER_NODES);
    uint32_t to = (uint32_t)prng_below(p, CLUSTER_NODES);

    if (leads_raft(r, to) && prng_chance(p, 3, 4))
        to = (to + 1) % CLUSTER_NODES;
    if (cluster_switch_primaries(&r->cluster, i, r->cluster.nodes[to].osd) <= 0)
        return;
    fault_begin(r, FAULT_SWITCH, NS_PER_S);
    run_note(r, "primaries are to go to node, asked at node", to + 1, i + 1);
}

/* Who serves most; at times rather one that does not lead Raft, so that commands go on. */
static uint32_t busiest_primary(struct run *r)
{
    bool follower = prng_chance(sim_prng(r->sim), 3, 4);
    uint32_t best = 0, most = 0;

    for (uint32_t i = 0; i < CLUSTER_FOUNDERS; i++) {
        const struct cluster_node *n = &r->cluster.nodes[i];
        struct osd_status st;
        if (!n->running || n->stopped || n->osd_object == NULL || (follower && leads_raft(r, i)))
            continue;
        osd_status(n->osd_object, &st);
        if (st.pgs_active >= most) {
            most = st.pgs_active;
            best = i;
        }
    }
    return best;
}

/*
 * A node is cut off from the others, and soon its primaries are given to another by command: it
 * does not know, and holds leases. At times who is to follow it restarts first, and does not
 * remember what it granted.
 */
static void begin_depose(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint32_t a = busiest_primary(r);
    uint32_t b = (a + 1 + (uint32_t)prng_below(p, 2)) % CLUSTER_FOUNDERS;
    uint32_t c = CLUSTER_FOUNDERS - a - b;
    uint64_t ns = ((prng_chance(p, 1, 3) ? 1300 : 3000) + prng_below(p, 1500)) * NS_PER_MS;

    if (r->cut_ns != 0 || r->depose_ns != 0 || r->restart_ns[a] != 0 || r->restart_ns[b] != 0 ||
        r->restart_ns[c] != 0)
        return;
    fault_begin(r, FAULT_DEPOSE, ns);
    run_note(r, "node is cut off and deposed, in favour of node", a + 1, b + 1);
    cut_pair(r, a + 1, b + 1, 3);
    cut_pair(r, a + 1, c + 1, 3);
    if (has_fourth(r))
        cut_pair(r, a + 1, CLUSTER_NODES, 3);
    r->cut_ns = sim_now(r->sim) + ns;
    r->depose_ns = sim_now(r->sim) + prng_below(p, 1000) * NS_PER_MS;
    r->busy_ns = r->cut_ns;
    r->depose_to = b;
    r->depose_at = c;
    if (prng_chance(p, 1, 2))
        node_kill(r, b, prng_chance(p, 1, 2), (20 + prng_below(p, 60)) * NS_PER_MS);
}

static void depose(struct run *r)
{
    const struct cluster_node *to = &r->cluster.nodes[r->depose_to];

    if (!to->running || (to->osd_object != NULL && !to->osd_object->registered))
        r->depose_ns = sim_now(r->sim) + 50 * NS_PER_MS;
    else
        cluster_switch_primaries(&r->cluster, r->depose_at, to->osd);
}

/* Placement changes its mind, and changes it back, for as long as the leader is contradicted. */
static void begin_move(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint64_t ns = (500 + prng_below(p, 6000)) * NS_PER_MS;

    if (r->move_ns != 0 || !has_fourth(r))
        return;
    fault_begin(r, FAULT_MOVE, ns);
    run_note(r, "placement groups are moved about, ms", ns / NS_PER_MS, 0);
    r->move_ns = sim_now(r->sim) + ns;
    if (prng_chance(p, 2, 3)) /* by maps that are late */
        begin_slow_net(r);
}

static void move_some(struct run *r)
{
    struct prng *p = sim_prng(r->sim);

    if (r->move_ns != 0 && prng_chance(p, 1, 3))
        cluster_move_pgs(&r->cluster, (uint32_t)prng_below(p, CLUSTER_NODES));
}

/* ---- Time ---- */

static void begin(struct run *r, enum fault_kind kind)
{
    switch (kind) {
    case FAULT_CRASH:
    case FAULT_POWER:
        begin_crash(r, (uint32_t)prng_below(sim_prng(r->sim), CLUSTER_NODES), kind == FAULT_POWER);
        return;
    case FAULT_ALL:
        begin_blackout(r);
        return;
    case FAULT_AGAIN:
        plan_crash_again(r);
        return;
    case FAULT_CUT:
        begin_cut(r);
        return;
    case FAULT_PAUSE:
        begin_pause(r);
        return;
    case FAULT_SLOW_NET:
        begin_slow_net(r);
        return;
    case FAULT_SLOW_DISK:
        begin_slow_disk(r);
        return;
    case FAULT_SWITCH:
        begin_switch(r);
        return;
    case FAULT_DEPOSE:
        begin_depose(r);
        return;
    case FAULT_ROT:
        begin_rot(r);
        return;
    case FAULT_READ:
        begin_read_error(r);
        return;
    case FAULT_MOVE:
        begin_move(r);
        return;
    case FAULT_KINDS:
        return;
    }
}

void faults_init(struct run *r)
{
    static const uint32_t most[FAULT_KINDS] = {
        [FAULT_CRASH] = 4,  [FAULT_POWER] = 4,  [FAULT_ALL] = 1,      [FAULT_AGAIN] = 3,
        [FAULT_CUT] = 8,    [FAULT_PAUSE] = 5,  [FAULT_SLOW_NET] = 3, [FAULT_SLOW_DISK] = 3,
        [FAULT_SWITCH] = 5, [FAULT_DEPOSE] = 8, [FAULT_ROT] = 2,      [FAULT_READ] = 1,
        [FAULT_MOVE] = 6,
    };
    static const uint32_t gaps_ms[] = {1000, 1800, 3000};
    struct prng *p = sim_prng(r->sim);

    for (uint32_t k = 0; k < FAULT_KINDS; k++) {
        r->weights[k] = (uint32_t)prng_below(p, most[k] + 1);
        r->weights_sum += r->weights[k];
    }
    r->weights[FAULT_CUT]++; /* no seed is without any */
    r->weights[FAULT_DEPOSE] += 2;
    r->weights[FAULT_MOVE]++;
    r->weights_sum += 4;
    r->restart_ns[CLUSTER_NODES - 1] = UINT64_MAX;
    if (prng_chance(p, 1, 2)) /* somebody joins */
        r->restart_ns[CLUSTER_NODES - 1] = (5 + prng_below(p, 20)) * NS_PER_S;
    r->fault_gap_ms = gaps_ms[prng_below(p, COUNT_OF(gaps_ms))];
}

static void faults_begin_some(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint32_t more = r->bursting ? 3 : 1; /* best while much is in flight */

    while (prng_chance(p, more * STEP_MS, r->fault_gap_ms)) {
        uint32_t at = (uint32_t)prng_below(p, r->weights_sum), kind = 0;
        while (at >= r->weights[kind])
            at -= r->weights[kind++];
        begin(r, (enum fault_kind)kind);
        if (!prng_chance(p, 1, 5)) /* some come together */
            return;
    }
}

static bool is_due(uint64_t *at, uint64_t now)
{
    if (*at == 0 || *at == UINT64_MAX || now < *at)
        return false;
    *at = 0;
    return true;
}

static void node_look(struct run *r, uint32_t i, uint64_t now)
{
    struct cluster_node *n = &r->cluster.nodes[i];

    if (n->running && n->stopped) {
        if (!n->may_stop)
            run_fail(r, "node %u stopped: %.100s", i + 1, n->stopped_why);
        run_note(r, "node stopped by itself", i + 1, 0);
        node_gone(r, i, false, now + 500 * NS_PER_MS);
    }
    if (!is_due(&r->restart_ns[i], now))
        return;
    run_note(r, "start of node", i + 1, 0);
    cluster_start_node(&r->cluster, i);
    workers_start(r, i);
    r->busy_ns = now + 800 * NS_PER_MS;
    if (r->again_ns == UINT64_MAX)
        r->again_ns = now + (50 + prng_below(sim_prng(r->sim), 1500)) * NS_PER_MS;
}

void faults_due(struct run *r)
{
    uint64_t now = sim_now(r->sim);

    if (is_due(&r->cut_ns, now)) {
        run_note(r, "the partition ends", 0, 0);
        sim_net_heal_all(r->sim);
    }
    if (!is_due(&r->move_ns, now))
        move_some(r);
    if (is_due(&r->slow_net_ns, now))
        sim_net_set_slow(r->sim, 0, 1, 0);
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (is_due(&r->slow_disk_ns[i], now))
            sim_disk_set_slow(r->cluster.nodes[i].host, 0, 1, 0);
        node_look(r, i, now);
    }
    if (is_due(&r->again_ns, now))
        crash_again(r);
    if (is_due(&r->depose_next_ns, now))
        begin_depose(r);
    if (is_due(&r->depose_ns, now))
        depose(r);
    faults_judge(r);
}

void faults_step(struct run *r)
{
    faults_due(r);
    faults_begin_some(r);
}

/* Everything ends at once, but for pauses, which are over soon. */
void faults_heal(struct run *r)
{
    r->again_ns = r->depose_ns = r->depose_next_ns = 0;
    r->cut_ns = r->slow_net_ns = r->move_ns = 1;
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        r->slow_disk_ns[i] = 1;
        if (r->restart_ns[i] != 0 && r->restart_ns[i] != UINT64_MAX)
            r->restart_ns[i] = 1;
    }
    faults_due(r);
}

void faults_last(struct run *r)
{
    struct prng *p = sim_prng(r->sim);

    if (prng_chance(p, 3, 4)) { /* much is on one device and not yet on the others */
        sim_net_set_slow(r->sim, 1, 2, 500 * NS_PER_MS);
        r->slow_net_ns = sim_now(r->sim) + 200 * NS_PER_MS;
        sim_run_until(r->sim, sim_now(r->sim) + (1 + prng_below(p, 8)) * NS_PER_MS);
    }
    switch (prng_below(p, 4)) {
    case 0:
        begin_blackout(r);
        return;
    case 1:
        begin_depose(r);
        return;
    default:
        begin_crash(r, busiest_primary(r), prng_chance(p, 1, 2));
        return;
    }
}
