/*
 * The simulator: three nodes of production code in virtual time, clients that
 * contend for a few blocks, and faults, all from a seed.
 *
 *   run SEED                          one seed
 *   run --from A --count N            N seeds from A on
 *   run … --mutant NAME               with one rule left out (osd_mutant_name()); exit 0 when a
 * seed caught it run … --twice                     each seed twice: the trace hashes must be equal
 *   run … --seconds S                 simulated seconds under faults (60)
 *   run … --verbose                   log lines and faults on stderr
 *
 * Checked: every register is linearizable, no acknowledged write is lost, after healing every
 * operation ends and the cluster is whole in bounded time, replicas are equal, no node stopped by
 * itself. A seed counts only if it simulated at least 60 s, acknowledged at least 2,000 operations
 * and had at least 5 faults that hit something. The last line is JSON.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/pool.h"
#include "base/text.h"
#include "tests/sim/cluster.h"
#include "tests/sim/history.h"

enum {
    WORKERS_PER_NODE = 4,
    WORKERS = WORKERS_PER_NODE * CLUSTER_NODES,
    BLOCKS = 20,
    SECTORS = 4,
    REGISTERS = BLOCKS + SECTORS,
    SPAN_MAX = 4,
    SECTOR = 512,
    BLOCK = 4096,
    OBJECT = 128 << 10,
    IMAGE_BYTES = 64 << 20,
    HEAL_LIMIT_S = 90,
    OPS_MIN = 2000,
    FAULTS_MIN = 5,
};

struct options {
    uint64_t from, count, seconds;
    uint32_t mutant;
    bool twice, verbose;
};

struct totals {
    uint64_t seeds, failed, weak, ops, unknown, faults, events;
    uint64_t crashes, power_losses, partitions, pauses;
};

struct reg {
    uint64_t offset;
    uint32_t len;
    struct history history;
};

struct run;

struct worker {
    struct run *run;
    uint32_t node; /* index */
    struct loop_timer timer;
    struct client_op op;
    struct client_image *image;
    bool busy, dead;
    bool write;
    uint32_t first, span;
    uint64_t values[SPAN_MAX];
    uint64_t call_ns;
    uint8_t *buf; /* SPAN_MAX blocks, page-aligned */
};

struct run {
    struct sim *sim;
    struct cluster cluster;
    const struct options *options;
    struct reg regs[REGISTERS];
    struct worker workers[WORKERS];
    uint64_t value_last, ops, unknown, errors, faults;
    uint64_t crashes, power_losses, partitions, pauses;
    uint64_t restart_ns[CLUSTER_NODES]; /* when a crashed node comes back; 0: it runs */
    uint64_t heal_ns;
    bool stopping;
    bool start_ops[CLUSTER_NODES]; /* its workers are to be started */
    char why[256];
};

/* ---- Log lines in virtual time ---- */

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

/* ---- Workers ---- */

static void worker_plan(struct worker *w, uint64_t delay_ns)
{
    struct loop *loop = w->run->cluster.nodes[w->node].client_loop;

    loop_timer_start(loop, &w->timer, loop_now(loop) + delay_ns);
}

static void fill(uint8_t *p, uint32_t len, uint64_t value)
{
    for (uint32_t i = 0; i < len; i += 8)
        put_u64(p + i, value);
}

/* The value a register holds, or false: a mixture. */
static bool parse(const uint8_t *p, uint32_t len, uint64_t *value)
{
    *value = get_u64(p);
    for (uint32_t i = 8; i < len; i += 8) {
        if (get_u64(p + i) != *value)
            return false;
    }
    return true;
}

static void worker_record(struct worker *w, bool known)
{
    struct run *r = w->run;

    for (uint32_t i = 0; i < w->span; i++) {
        struct history_op op = {
            .write = w->write,
            .value = w->values[i],
            .call_ns = w->call_ns,
            .answer_ns = known ? sim_now(r->sim) : HISTORY_NEVER,
        };
        if (w->write || known)
            history_add(&r->regs[w->first + i].history, &op);
    }
}

static void worker_on_done(struct client_op *op)
{
    struct worker *w = container_of(op, struct worker, op);
    struct run *r = w->run;
    bool known = op->result == 0;

    w->busy = false;
    for (uint32_t i = 0; known && !w->write && i < w->span; i++) {
        uint32_t len = r->regs[w->first].len;
        if (!parse(w->buf + (size_t)i * len, len, &w->values[i]) && r->why[0] == 0)
            snprintf(r->why, sizeof(r->why), "register %u holds a mixture of two writes",
                     w->first + i);
    }
    worker_record(w, known);
    if (known)
        r->ops++;
    else
        r->errors++;
    sim_trace_note(r->sim, w->values[0] ^ (uint64_t)op->result);
    worker_plan(w, prng_below(sim_prng(r->sim), 40 * NS_PER_MS));
}

static void worker_choose(struct worker *w)
{
    struct run *r = w->run;
    struct prng *p = sim_prng(r->sim);
    uint32_t len;

    w->first = (uint32_t)prng_below(p, REGISTERS);
    w->span = 1;
    if (prng_chance(p, 1, 3)) /* most of the time everybody wants the same few */
        w->first = (uint32_t)prng_below(p, 3);
    if (w->first < 16 - SPAN_MAX)
        w->span = 1 + (uint32_t)prng_below(p, SPAN_MAX);
    w->write = prng_chance(p, 1, 2);
    len = r->regs[w->first].len;
    for (uint32_t i = 0; i < w->span; i++) {
        w->values[i] = w->write ? ++r->value_last : 0;
        if (w->write)
            fill(w->buf + (size_t)i * len, len, w->values[i]);
    }
    w->op = (struct client_op){
        .kind = w->write ? CLIENT_WRITE : CLIENT_READ,
        .image = w->image,
        .offset = r->regs[w->first].offset,
        .len = (uint64_t)len * w->span,
        .buf = w->buf,
        .done = worker_on_done,
    };
}

static void worker_on_timer(struct loop_timer *t)
{
    struct worker *w = container_of(t, struct worker, timer);
    struct run *r = w->run;
    struct cluster_node *n = &r->cluster.nodes[w->node];

    if (r->stopping)
        return;
    if (w->image == NULL && client_image_open(n->client, "sim", &w->image) != 0) {
        w->image = NULL;
        worker_plan(w, 20 * NS_PER_MS);
        return;
    }
    worker_choose(w);
    w->busy = true;
    w->call_ns = sim_now(r->sim);
    client_op_start(n->client, &w->op);
}

static void workers_start(struct run *r, uint32_t node)
{
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct worker *w = &r->workers[i];
        if (w->node != node)
            continue;
        w->image = NULL;
        w->busy = false;
        loop_timer_init(&w->timer, worker_on_timer);
        worker_plan(w, prng_below(sim_prng(r->sim), 20 * NS_PER_MS));
    }
}

/* The node's process is gone, and nobody will ever know what became of what it was asked. */
static void workers_lost(struct run *r, uint32_t node)
{
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct worker *w = &r->workers[i];
        if (w->node != node)
            continue;
        if (w->busy) {
            worker_record(w, false);
            r->unknown++;
        }
        w->image = NULL; /* it goes with its client */
        w->busy = false;
    }
}

static bool workers_idle(void *arg)
{
    const struct run *r = arg;

    for (uint32_t i = 0; i < WORKERS; i++) {
        if (r->workers[i].busy)
            return false;
    }
    return true;
}

/* ---- Faults ---- */

static void note(struct run *r, const char *what, uint64_t a, uint64_t b)
{
    if (r->options->verbose)
        fprintf(stderr, "-- %9.3f ms: %s %llu %llu\n", (double)sim_now(r->sim) / 1e6, what,
                (unsigned long long)a, (unsigned long long)b);
}

static void fault_crash(struct run *r)
{
    static const uint32_t delays_ms[] = {50, 200, 700, 1500, 4000, 8000};
    struct prng *p = sim_prng(r->sim);
    uint32_t i = (uint32_t)prng_below(p, CLUSTER_NODES);
    bool power = prng_chance(p, 1, 2);
    uint32_t delay = delays_ms[prng_below(p, COUNT_OF(delays_ms))];

    if (r->restart_ns[i] != 0)
        return;
    note(r, power ? "power loss of node, back in ms" : "crash of node, back in ms", i + 1, delay);
    workers_lost(r, i);
    cluster_crash_node(&r->cluster, i, power);
    r->restart_ns[i] = sim_now(r->sim) + delay * NS_PER_MS;
    r->faults++;
    r->crashes++;
    r->power_losses += power;
}

static void fault_partition(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint32_t a = 1 + (uint32_t)prng_below(p, CLUSTER_NODES);
    uint32_t kind = (uint32_t)prng_below(p, 4);

    if (r->heal_ns != 0)
        return;
    note(r, "partition of node, kind", a, kind);
    for (uint32_t b = 1; b <= CLUSTER_NODES; b++) {
        if (b == a || (kind >= 2 && b != a % CLUSTER_NODES + 1))
            continue;
        sim_net_cut(r->sim, a, b, true);
        if (kind % 2 == 0)
            sim_net_cut(r->sim, b, a, true);
    }
    r->heal_ns = sim_now(r->sim) + (300 + prng_below(p, 6000)) * NS_PER_MS;
    r->faults++;
    r->partitions++;
}

static void fault_pause(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint32_t i = (uint32_t)prng_below(p, CLUSTER_NODES);
    uint64_t ns = (200 + prng_below(p, 4000)) * NS_PER_MS;

    if (r->restart_ns[i] != 0)
        return;
    note(r, "pause of node, ms", i + 1, ns / NS_PER_MS);
    sim_host_pause(r->cluster.nodes[i].host, ns);
    r->faults++;
    r->pauses++;
}

static void fault_slow(struct run *r)
{
    struct prng *p = sim_prng(r->sim);
    uint32_t i = (uint32_t)prng_below(p, CLUSTER_NODES);

    sim_disk_set_slow(r->cluster.nodes[i].host, (uint32_t)prng_below(p, 3), 20,
                      (1 + prng_below(p, 300)) * NS_PER_MS);
    sim_net_set_slow(r->sim, (uint32_t)prng_below(p, 3), 50, (1 + prng_below(p, 500)) * NS_PER_MS);
}

static void faults_step(struct run *r)
{
    struct prng *p = sim_prng(r->sim);

    if (!prng_chance(p, 1, 30))
        return;
    switch (prng_below(p, 6)) {
    case 0:
    case 1:
        fault_crash(r);
        return;
    case 2:
    case 3:
        fault_partition(r);
        return;
    case 4:
        fault_pause(r);
        return;
    default:
        fault_slow(r);
        return;
    }
}

/* What is due: nodes come back, the network heals; a node that stopped by itself is an error. */
static void faults_end(struct run *r)
{
    uint64_t now = sim_now(r->sim);

    if (r->heal_ns != 0 && now >= r->heal_ns) {
        note(r, "heal", 0, 0);
        sim_net_heal_all(r->sim);
        r->heal_ns = 0;
    }
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        struct cluster_node *n = &r->cluster.nodes[i];
        if (n->running && n->stopped) {
            if (!n->may_stop && r->why[0] == 0)
                snprintf(r->why, sizeof(r->why), "node %u stopped: %s", i + 1, n->stopped_why);
            note(r, "node stopped by itself", i + 1, 0);
            workers_lost(r, i);
            cluster_crash_node(&r->cluster, i, false);
            r->restart_ns[i] = now + 500 * NS_PER_MS;
        }
        if (r->restart_ns[i] != 0 && now >= r->restart_ns[i]) {
            note(r, "start of node", i + 1, 0);
            r->restart_ns[i] = 0;
            cluster_start_node(&r->cluster, i);
            workers_start(r, i);
        }
    }
}

static void heal_all(struct run *r)
{
    r->heal_ns = r->heal_ns != 0 ? 1 : 0;
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (r->restart_ns[i] != 0)
            r->restart_ns[i] = 1;
        sim_disk_set_slow(r->cluster.nodes[i].host, 0, 1, 0);
    }
    sim_net_set_slow(r->sim, 0, 1, 0);
    sim_net_heal_all(r->sim);
    faults_end(r);
}

/* ---- One seed ---- */

static void run_init(struct run *r, const struct options *o, uint64_t seed)
{
    struct sim_config config = {.seed = seed};

    memset(r, 0, sizeof(*r));
    r->options = o;
    r->sim = sim_create(&config);
    for (uint32_t i = 0; i < REGISTERS; i++) {
        struct reg *g = &r->regs[i];
        g->len = i < BLOCKS ? BLOCK : SECTOR;
        if (i < 16) /* around the border of two objects */
            g->offset = OBJECT - 8 * BLOCK + (uint64_t)i * BLOCK;
        else if (i < BLOCKS)
            g->offset = (uint64_t)(10 + i) * OBJECT;
        else
            g->offset = 50ull * OBJECT + BLOCK + (uint64_t)(i - BLOCKS) * SECTOR;
        history_init(&g->history);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        r->workers[i].run = r;
        r->workers[i].node = i / WORKERS_PER_NODE;
        r->workers[i].buf = mem_alloc_aligned(SPAN_MAX * BLOCK, BLOCK);
        loop_timer_init(&r->workers[i].timer, worker_on_timer);
    }
}

static void run_deinit(struct run *r)
{
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (r->cluster.nodes[i].running)
            workers_lost(r, i);
    }
    cluster_destroy(&r->cluster);
    sim_destroy(r->sim);
    for (uint32_t i = 0; i < REGISTERS; i++)
        history_deinit(&r->regs[i].history);
    for (uint32_t i = 0; i < WORKERS; i++)
        free(r->workers[i].buf);
}

static bool run_setup(struct run *r)
{
    struct meta_result result;
    struct meta_command image = {.kind = META_IMAGE_CREATE, .name = "sim", .size = IMAGE_BYTES};

    if (!cluster_create(&r->cluster, r->sim, r->options->mutant)) {
        snprintf(r->why, sizeof(r->why), "the cluster did not come up");
        return false;
    }
    image.pool = r->cluster.nodes[0].osd_object != NULL ? 1 : 0;
    if (!cluster_command(&r->cluster, 0, &image, &result)) {
        snprintf(r->why, sizeof(r->why), "the image was not created: %.150s", result.message);
        return false;
    }
    for (uint32_t i = 0; i < CLUSTER_NODES; i++)
        workers_start(r, i);
    return true;
}

static void run_under_faults(struct run *r)
{
    uint64_t end = sim_now(r->sim) + r->options->seconds * NS_PER_S;

    while (sim_now(r->sim) < end && r->why[0] == 0) {
        sim_run_until(r->sim, sim_now(r->sim) + 20 * NS_PER_MS);
        faults_end(r);
        faults_step(r);
    }
}

static bool run_is_whole(void *arg)
{
    return cluster_is_whole(&((struct run *)arg)->cluster);
}

/* After healing: every operation ends, the cluster is whole, both in bounded time. */
static void run_heal(struct run *r)
{
    uint64_t limit = sim_now(r->sim) + HEAL_LIMIT_S * NS_PER_S;

    heal_all(r);
    while (sim_now(r->sim) < limit && !run_is_whole(r) && r->why[0] == 0) {
        sim_run_until(r->sim, sim_now(r->sim) + 100 * NS_PER_MS);
        faults_end(r);
    }
    if (!run_is_whole(r) && r->why[0] == 0)
        snprintf(r->why, sizeof(r->why), "the cluster was not whole %d s after healing",
                 HEAL_LIMIT_S);
    sim_run_until(r->sim, sim_now(r->sim) + 2 * NS_PER_S); /* the survivors read and write on */
    r->stopping = true;
    if (!sim_run_until_true(r->sim, workers_idle, r, sim_now(r->sim) + HEAL_LIMIT_S * NS_PER_S) &&
        r->why[0] == 0)
        snprintf(r->why, sizeof(r->why), "an operation had not ended %d s after healing",
                 HEAL_LIMIT_S);
    sim_run_until(r->sim, sim_now(r->sim) + NS_PER_S);
}

static void run_check(struct run *r)
{
    uint64_t a, b;

    for (uint32_t i = 0; i < REGISTERS && r->why[0] == 0; i++) {
        const char *why = history_check(&r->regs[i].history, &a, &b);
        if (why != NULL)
            snprintf(r->why, sizeof(r->why), "register %u: %s (values %llu, %llu)", i, why,
                     (unsigned long long)a, (unsigned long long)b);
    }
    if (r->why[0] == 0) {
        const char *why = cluster_compare_replicas(&r->cluster);
        if (why != NULL)
            snprintf(r->why, sizeof(r->why), "%s", why);
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
    }
}

/* True: everything held. */
static bool run_seed(const struct options *o, uint64_t seed, struct totals *t, uint64_t *hash)
{
    static struct run r;
    struct sim_sink sink = {.sink = {sink_write, sink_wall_us}};

    run_init(&r, o, seed);
    sink.sim = r.sim;
    log_set(o->verbose ? &sink.sink : NULL, LOG_INFO, "sim");
    if (run_setup(&r)) {
        run_under_faults(&r);
        run_heal(&r);
        run_check(&r);
    }
    *hash = sim_trace_hash(r.sim);
    if (o->verbose)
        run_dump(&r);
    bool weak = r.ops < OPS_MIN || r.faults < FAULTS_MIN || sim_now(r.sim) < 60 * NS_PER_S;
    bool held = r.why[0] == 0;
    printf("seed %llu: %s%s ops %llu unknown %llu errors %llu faults %llu simulated %.1f s hash "
           "%016llx\n",
           (unsigned long long)seed, held ? "ok" : r.why, weak ? " (WEAK)" : "",
           (unsigned long long)r.ops, (unsigned long long)r.unknown, (unsigned long long)r.errors,
           (unsigned long long)r.faults, (double)sim_now(r.sim) / 1e9, (unsigned long long)*hash);
    fflush(stdout);
    t->seeds++;
    t->failed += !held;
    t->weak += weak && held;
    t->ops += r.ops;
    t->unknown += r.unknown;
    t->faults += r.faults;
    t->crashes += r.crashes;
    t->power_losses += r.power_losses;
    t->partitions += r.partitions;
    t->pauses += r.pauses;
    log_set(NULL, LOG_INFO, "sim");
    run_deinit(&r);
    return held;
}

/* ---- The command line ---- */

static bool parse_mutant(const char *name, uint32_t *out)
{
    for (uint32_t m = 0; m < OSD_MUTANT_COUNT; m++) {
        if (strcmp(osd_mutant_name((enum osd_mutant)m), name) == 0) {
            *out = m;
            return true;
        }
    }
    return false;
}

static bool parse_options(int argc, char **argv, struct options *o)
{
    *o = (struct options){.from = 1, .count = 1, .seconds = 60};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        bool takes_value = true, ok = true;
        if (strcmp(argv[i], "--from") == 0)
            ok = str_to_u64(value, &o->from);
        else if (strcmp(argv[i], "--count") == 0)
            ok = str_to_u64(value, &o->count);
        else if (strcmp(argv[i], "--seconds") == 0)
            ok = str_to_u64(value, &o->seconds);
        else if (strcmp(argv[i], "--mutant") == 0)
            ok = parse_mutant(value, &o->mutant);
        else
            takes_value = false;
        if (strcmp(argv[i], "--twice") == 0)
            o->twice = true;
        else if (strcmp(argv[i], "--verbose") == 0)
            o->verbose = true;
        else if (!takes_value)
            ok = str_to_u64(argv[i], &o->from);
        if (!ok) {
            fprintf(stderr, "run: not understood: %s %s\n", argv[i], takes_value ? value : "");
            return false;
        }
        i += takes_value;
    }
    return true;
}

static int report(const struct options *o, const struct totals *t, uint64_t diverged)
{
    uint64_t n = t->seeds != 0 ? t->seeds : 1;
    bool mutant = o->mutant != OSD_MUTANT_NONE;
    bool mean_is_low = t->ops / n < OPS_MIN || t->faults / n < FAULTS_MIN;
    bool ok = mutant ? t->failed > 0 : t->failed == 0 && diverged == 0 && !mean_is_low;

    printf("{\"mutant\": \"%s\", \"seeds\": %llu, \"failed\": %llu, \"weak\": %llu, "
           "\"diverged\": %llu, \"operations\": %llu, \"unknown\": %llu, \"faults\": %llu, "
           "\"crashes\": %llu, \"power_losses\": %llu, \"partitions\": %llu, \"pauses\": %llu, "
           "\"ok\": %s}\n",
           osd_mutant_name((enum osd_mutant)o->mutant), (unsigned long long)t->seeds,
           (unsigned long long)t->failed, (unsigned long long)t->weak, (unsigned long long)diverged,
           (unsigned long long)t->ops, (unsigned long long)t->unknown,
           (unsigned long long)t->faults, (unsigned long long)t->crashes,
           (unsigned long long)t->power_losses, (unsigned long long)t->partitions,
           (unsigned long long)t->pauses, ok ? "true" : "false");
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct options o;
    struct totals t = {0};
    uint64_t diverged = 0;

    if (!parse_options(argc, argv, &o))
        return 2;
    for (uint64_t seed = o.from; seed < o.from + o.count; seed++) {
        uint64_t hash, again;
        struct totals ignored = {0};
        bool held = run_seed(&o, seed, &t, &hash);
        if (o.twice) {
            run_seed(&o, seed, &ignored, &again);
            diverged += again != hash;
        }
        if (!held && o.mutant != OSD_MUTANT_NONE)
            break; /* caught */
    }
    return report(&o, &t, diverged);
}
