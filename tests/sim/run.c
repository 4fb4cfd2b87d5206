#include "tests/sim/run.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/pool.h"
#include "osd/pg.h"

enum { IMAGE_BYTES = 64 << 20, STEP_MS = 20, HEAL_LIMIT_S = 60, QUIET_MS = 1000 };

/* ---- What is said ---- */

struct sim_sink {
    struct log_sink sink;
    struct sim *sim;
};

static void sink_write(struct log_sink *sink, const char *line, uint32_t len)
{
    (void)sink;
    fwrite(line, 1, len, stderr);
}

static uint64_t sink_wall_us(struct log_sink *sink)
{
    struct sim_sink *s = container_of(sink, struct sim_sink, sink);

    return sim_now(s->sim) / 1000;
}

void run_fail(struct run *r, const char *format, ...)
{
    char text[sizeof(r->result->why)];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    run_note(r, text, 0, 0);
    if (r->result->why[0] == 0)
        memcpy(r->result->why, text, sizeof(text));
}

static bool run_failed(const struct run *r)
{
    return r->result->why[0] != 0;
}

void run_note(struct run *r, const char *what, uint64_t a, uint64_t b)
{
    if (r->options->verbose)
        fprintf(stderr, "-- %9.3f ms: %s %llu %llu\n", (double)sim_now(r->sim) / 1e6, what,
                (unsigned long long)a, (unsigned long long)b);
}

static void dump_osds(const char *what, const uint32_t *osds, uint32_t count)
{
    fprintf(stderr, " %s", what);
    for (uint32_t i = 0; i < count; i++)
        fprintf(stderr, " %u", osds[i]);
}

static void dump_pgs(const struct map *map)
{
    for (uint32_t i = 0; map != NULL && i < map->pgs_count; i++) {
        const struct map_pg *pg = &map->pgs[i];
        fprintf(stderr, "  pg %llx epoch %u primary %u%s", (unsigned long long)pg->id, pg->epoch,
                pg->primary, pg->active ? "" : " inactive");
        dump_osds("on", pg->set, pg->set_count);
        dump_osds("to", pg->target, pg->target_count);
        for (uint32_t k = 0; k < pg->stale_count; k++)
            fprintf(stderr, " stale %u:%llx", pg->stale[k].osd,
                    (unsigned long long)pg->stale[k].version);
        fprintf(stderr, "\n");
    }
}

/* Where everybody stands, for whoever reads the trace of a seed that failed. */
static void run_dump(struct run *r)
{
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        struct cluster_node *n = &r->cluster.nodes[i];
        struct raft_core_status st;
        struct osd_status osd;
        if (!n->running || n->osd_object == NULL)
            continue;
        meta_raft_status(n->meta, &st);
        osd_status(n->osd_object, &osd);
        fprintf(stderr,
                "node %u: raft state %d term %llu leader %u last %llu commit %llu applied %llu "
                "snapshot %llu members",
                n->id, (int)st.state, (unsigned long long)st.term, st.leader,
                (unsigned long long)st.last_index, (unsigned long long)st.commit_index,
                (unsigned long long)st.applied_index, (unsigned long long)st.snapshot_index);
        for (uint32_t k = 0; k < st.members_count; k++)
            fprintf(stderr, " %u:%d", st.members[k].id, (int)st.members[k].role);
        fprintf(stderr, "; osd incarnation %u registered %d primary %u active %u recovering %u\n",
                osd.incarnation, osd.registered, osd.pgs_primary, osd.pgs_active,
                osd.pgs_recovering);
        dump_pgs(n->osd_object->map);
    }
}

/* ---- The order of things ---- */

static bool run_setup(struct run *r)
{
    struct meta_result result;
    struct meta_command image = {
        .kind = META_IMAGE_CREATE, .name = "sim", .size = IMAGE_BYTES, .pool = 1};

    if (!cluster_create(&r->cluster, r->sim, r->options->mutant)) {
        run_fail(r, "the cluster did not come up");
        return false;
    }
    if (!cluster_command(&r->cluster, 0, &image, &result)) {
        run_fail(r, "the image was not created: %.100s", result.message);
        return false;
    }
    for (uint32_t i = 0; i < CLUSTER_FOUNDERS; i++)
        workers_start(r, i);
    return true;
}

static bool run_counts(const struct run *r)
{
    return r->result->contended >= RUN_OPS_MIN && r->result->hits >= RUN_HITS_MIN;
}

/* Of what it needs, by far: then fewer bursts do, and the seed costs less. */
static bool run_is_ahead(const struct run *r, uint64_t begin)
{
    uint64_t passed_s = (sim_now(r->sim) - begin) / NS_PER_S;

    return r->result->contended > (passed_s + 1) * 2 * RUN_OPS_MIN / RUN_S_MIN;
}

/* A burst begins with a chance of one in so many steps: best while somebody is being recovered,
 * or deposed. */
static uint64_t run_burst_den(const struct run *r, uint64_t begin)
{
    if (sim_now(r->sim) < r->busy_ns)
        return 4;
    return run_is_ahead(r, begin) ? 80 : 25;
}

static void run_under_faults(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint64_t begin = sim_now(r->sim);
    uint64_t end = begin + r->options->seconds * NS_PER_S;
    uint32_t burst_left = 0;

    while (!run_failed(r) && (sim_now(r->sim) < end ||
                              (!run_counts(r) && sim_now(r->sim) < begin + RUN_S_MAX * NS_PER_S))) {
        if (burst_left > 0)
            burst_left--;
        else if (prng_chance(p, 1, run_burst_den(r, begin)))
            burst_left = 1 + (uint32_t)prng_below(p, 3);
        workers_burst(r, burst_left > 0);
        sim_run_until(r->sim, sim_now(r->sim) + STEP_MS * NS_PER_MS);
        faults_step(r);
    }
    r->result->weak = !run_counts(r) || sim_now(r->sim) - begin < RUN_S_MIN * NS_PER_S;
    r->result->simulated_ms = (sim_now(r->sim) - begin) / NS_PER_MS;
}

static bool run_is_whole(void *arg)
{
    return cluster_is_whole(&((struct run *)arg)->cluster);
}

static void run_wait_idle(struct run *r, const char *what)
{
    uint64_t limit = sim_now(r->sim) + HEAL_LIMIT_S * NS_PER_S;

    if (!run_failed(r) && !sim_run_until_true(r->sim, workers_idle, r, limit))
        run_fail(r, "%s had not ended %d s after healing", what, HEAL_LIMIT_S);
}

static void run_wait_whole(struct run *r, const char *when)
{
    uint64_t limit = sim_now(r->sim) + HEAL_LIMIT_S * NS_PER_S;

    while (!run_failed(r) && !run_is_whole(r) && sim_now(r->sim) < limit) {
        sim_run_until(r->sim, sim_now(r->sim) + STEP_MS * NS_PER_MS);
        faults_due(r);
    }
    if (!run_failed(r) && !run_is_whole(r))
        run_fail(r, "the cluster was not whole %d s after %s", HEAL_LIMIT_S, when);
}

static void run_for(struct run *r, uint64_t ns)
{
    uint64_t end = sim_now(r->sim) + ns;

    while (sim_now(r->sim) < end) {
        sim_run_until(r->sim, sim_now(r->sim) + STEP_MS * NS_PER_MS);
        faults_due(r);
    }
}

/* A last fault while much is in flight, and no write after it that could cover up what it left. */
static void run_end(struct run *r)
{
    struct prng *p = sim_prng(r->sim);

    workers_burst(r, true);
    sim_run_until(r->sim, sim_now(r->sim) + (2 + prng_below(p, 20)) * NS_PER_MS);
    faults_last(r);
    sim_run_until(r->sim, sim_now(r->sim) + prng_below(p, 3) * NS_PER_MS);
    workers_stop(r);
    run_for(r, prng_below(p, 4000) * NS_PER_MS);
}

/* Or everybody writes on while who was gone is being recovered, and stops in the middle of it. */
static void run_end_in_recovery(struct run *r)
{
    struct prng *p = sim_prng(r->sim);

    workers_burst(r, true);
    faults_last(r);
    run_for(r, (100 + prng_below(p, 300)) * NS_PER_MS);
    faults_heal(r);
    run_for(r, (100 + prng_below(p, 1200)) * NS_PER_MS);
    workers_stop(r);
}

/* After healing every operation ends, and the cluster is whole, both in bounded time. */
static void run_heal(struct run *r)
{
    uint64_t begin = sim_now(r->sim);

    run_note(r, "healing", 0, 0);
    faults_heal(r);
    run_wait_whole(r, "healing");
    r->result->whole_ms = (sim_now(r->sim) - begin) / NS_PER_MS;
    run_wait_idle(r, "an operation");
    sim_run_until(r->sim, sim_now(r->sim) + QUIET_MS * NS_PER_MS);
    if (!run_failed(r))
        audit_rot(r);
}

/* Every replica has its turn as primary of everything, and every register is read from it. */
static void run_read_all(struct run *r)
{
    for (uint32_t i = 0; i < CLUSTER_NODES && !run_failed(r); i++) {
        if (!cluster_has_node(&r->cluster, i))
            continue;
        workers_audit(r, (i + 1) % CLUSTER_FOUNDERS);
        run_wait_idle(r, "a read");
        if (!run_failed(r) && cluster_switch_primaries(&r->cluster, i, r->cluster.nodes[i].osd) < 0)
            run_fail(r, "no switch of primaries could be asked for");
        sim_run_until(r->sim, sim_now(r->sim) + QUIET_MS * NS_PER_MS);
        run_wait_whole(r, "a switch of primaries");
    }
    if (run_failed(r))
        return;
    workers_audit(r, 0);
    run_wait_idle(r, "a read");
    sim_run_until(r->sim, sim_now(r->sim) + QUIET_MS * NS_PER_MS);
}

static void run_check(struct run *r)
{
    uint64_t a, b;

    for (uint32_t i = 0; i < REGISTERS; i++) {
        const char *why = history_check(&r->regs[i].history, &a, &b);
        if (why != NULL)
            run_fail(r, "register %u: %s (%llu, %llu)", i, why, (unsigned long long)a,
                     (unsigned long long)b);
    }
    if (!run_failed(r))
        audit_cluster(r);
}

/* ---- One seed ---- */

static void run_deinit(struct run *r)
{
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (r->cluster.nodes[i].running)
            workers_lost(r, i);
    }
    cluster_destroy(&r->cluster);
    sim_destroy(r->sim);
    workers_deinit(r);
    free(r);
}

void run_seed(const struct run_options *o, uint64_t seed, struct run_result *out)
{
    struct sim_config config = {.seed = seed};
    struct sim_sink sink = {.sink = {sink_write, sink_wall_us}};
    struct run *r = mem_zalloc(sizeof(*r));

    memset(out, 0, sizeof(*out));
    out->seed = seed;
    r->options = o;
    r->result = out;
    r->sim = sink.sim = sim_create(&config);
    log_set(o->verbose ? &sink.sink : NULL, LOG_INFO, "sim");
    workers_init(r);
    faults_init(r);
    if (run_setup(r)) {
        run_under_faults(r);
        if (!run_failed(r) && prng_chance(sim_prng(r->sim), 1, 2))
            run_end(r);
        else if (!run_failed(r))
            run_end_in_recovery(r);
        if (!run_failed(r))
            run_heal(r);
        if (!run_failed(r))
            run_read_all(r);
        run_check(r);
    }
    out->hash = sim_trace_hash(r->sim);
    out->events = sim_events_count(r->sim);
    out->held = !run_failed(r);
    if (o->verbose)
        run_dump(r);
    log_set(NULL, LOG_INFO, "sim");
    run_deinit(r);
}
