/*
 * The clients: four workers on each node, one operation at a time each. They come in bursts, so
 * that many are in flight for the same few blocks at once, with a trickle in between, so that
 * somebody always asks.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "tests/sim/run.h"

enum { BLOCK = 4096, SECTOR = 512, OBJECT = 128 << 10 };

static void worker_plan(struct worker *w, uint64_t delay_ns)
{
    struct loop *loop = w->run->cluster.nodes[w->node].client_loop;

    loop_timer_start(loop, &w->timer, loop_now(loop) + delay_ns);
}

/*
 * One on each node only reads, and often: somebody is to notice when two serve at once. Most of
 * what it reads its own node does not write, for a primary that is cut off does not answer reads of
 * what is being written.
 */
static bool worker_is_reader(const struct worker *w)
{
    return w->number % WORKERS_PER_NODE == 0;
}

static uint64_t worker_pause_ns(struct worker *w)
{
    struct run *r = w->run;
    struct prng *p = sim_prng(r->sim);

    if (r->bursting)
        return prng_below(p, 2 * NS_PER_MS);
    if (worker_is_reader(w))
        return (5 + prng_below(p, 100)) * NS_PER_MS;
    return (10 + prng_below(p, 500)) * NS_PER_MS;
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

static bool worker_writes(const struct worker *w)
{
    return w->op.kind != CLIENT_READ;
}

static void worker_record(struct worker *w, bool known)
{
    struct run *r = w->run;

    for (uint32_t i = 0; i < w->span; i++) {
        struct reg *g = &r->regs[w->first + i];
        struct history_op op = {
            .write = worker_writes(w),
            .value = w->values[i],
            .call_ns = w->call_ns,
            .answer_ns = known ? sim_now(r->sim) : HISTORY_NEVER,
        };
        if (op.write || known)
            history_add(&g->history, &op);
    }
}

static void worker_take_values(struct worker *w)
{
    struct run *r = w->run;

    for (uint32_t i = 0; i < w->span; i++) {
        struct reg *g = &r->regs[w->first + i];
        if (!parse(w->buf + (size_t)i * g->len, g->len, &w->values[i]))
            run_fail(r, "register %u holds a mixture of two writes", w->first + i);
        if (w->values[i] == 0)
            w->values[i] = g->zero_last;
    }
}

static void worker_go_on(struct worker *w)
{
    struct run *r = w->run;

    if (r->auditor == w->node && w->number % WORKERS_PER_NODE == 0)
        worker_plan(w, 0);
    else if (!r->stopping)
        worker_plan(w, worker_pause_ns(w));
}

static void worker_on_done(struct client_op *op)
{
    struct worker *w = container_of(op, struct worker, op);
    struct run *r = w->run;
    bool known = op->result == 0;

    w->busy = false;
    if (known && op->kind == CLIENT_READ)
        worker_take_values(w);
    worker_record(w, known);
    if (known) {
        r->result->ops++;
        r->result->contended += w->first < CONTENDED && r->auditor == CLUSTER_FOUNDERS;
    } else {
        r->result->errors++;
        run_note(r, "an operation ended with an error of register", w->first,
                 (uint64_t)-op->result);
    }
    sim_trace_note(r->sim, w->values[0] ^ (uint64_t)op->result);
    worker_go_on(w);
}

/* ---- What to do next ---- */

static void choose_contended(struct worker *w, struct prng *p)
{
    uint32_t left;

    if (prng_chance(p, 1, 2)) /* everybody wants the same few */
        w->first = (uint32_t)prng_below(p, 3);
    else
        w->first = (uint32_t)prng_below(p, CONTENDED - WATCHED);
    left = w->first < HOT            ? HOT - w->first
           : w->first < HOT + SPREAD ? 1
                                     : CONTENDED - WATCHED - w->first;
    w->span = prng_chance(p, 1, 2) ? 1 : 1 + (uint32_t)prng_below(p, SPAN_MAX);
    if (w->span > left)
        w->span = left;
    w->op.kind = worker_is_reader(w) || prng_chance(p, 1, 2) ? CLIENT_READ : CLIENT_WRITE;
}

/* A reader's own, or a writer's from another node. */
static void choose_watched(struct worker *w, struct prng *p)
{
    uint32_t node = w->node;

    if (!worker_is_reader(w))
        node = (node + 1 + (uint32_t)prng_below(p, CLUSTER_FOUNDERS - 1)) % CLUSTER_FOUNDERS;
    w->first = CONTENDED - WATCHED + node * WATCHED_PER_NODE;
    w->first += (uint32_t)prng_below(p, WATCHED_PER_NODE);
    w->span = 1;
    w->op.kind = worker_is_reader(w) ? CLIENT_READ : CLIENT_WRITE;
}

/* Its own block: what it was told last is what it must find. */
static void choose_private(struct worker *w, struct prng *p)
{
    static const enum client_op_kind kinds[] = {CLIENT_WRITE, CLIENT_READ, CLIENT_ZERO};

    w->first = CONTENDED + w->number;
    w->span = 1;
    w->op.kind = kinds[prng_below(p, 3)];
}

static void worker_choose(struct worker *w)
{
    struct run *r = w->run;
    struct prng *p = sim_prng(r->sim);

    memset(&w->op, 0, sizeof(w->op));
    if (r->auditor == w->node) {
        w->first = r->audit_next++;
        w->span = 1;
        w->op.kind = CLIENT_READ;
    } else if (prng_chance(p, worker_is_reader(w) ? 63 : 8, 64)) {
        choose_watched(w, p);
    } else if (!worker_is_reader(w) && prng_chance(p, 1, 6)) {
        choose_private(w, p);
    } else {
        choose_contended(w, p);
    }
    for (uint32_t i = 0; i < w->span; i++) {
        struct reg *g = &r->regs[w->first + i];
        w->values[i] = worker_writes(w) ? ++r->value_last : 0;
        if (w->op.kind == CLIENT_WRITE)
            fill(w->buf + (size_t)i * g->len, g->len, w->values[i]);
        if (w->op.kind == CLIENT_ZERO)
            g->zero_last = w->values[i];
    }
    w->op.image = w->image;
    w->op.offset = r->regs[w->first].offset;
    w->op.len = (uint64_t)r->regs[w->first].len * w->span;
    w->op.buf = w->buf;
    w->op.done = worker_on_done;
}

static void worker_on_timer(struct loop_timer *t)
{
    struct worker *w = container_of(t, struct worker, timer);
    struct run *r = w->run;
    struct cluster_node *n = &r->cluster.nodes[w->node];

    if (w->busy)
        return; /* it was sent off by the audit meanwhile */
    if (r->stopping && (r->auditor != w->node || r->audit_next == REGISTERS))
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

/* ---- All of them ---- */

static void reg_place(struct reg *g, uint32_t i)
{
    g->len = BLOCK;
    if (i < HOT) {
        g->offset = OBJECT - 8 * BLOCK + (uint64_t)i * BLOCK;
    } else if (i < HOT + SPREAD) {
        g->offset = (uint64_t)(10 + i) * OBJECT;
    } else if (i >= CONTENDED - WATCHED && i < CONTENDED) {
        g->offset = (uint64_t)(80 + i) * OBJECT;
    } else if (i < CONTENDED) {
        g->len = SECTOR;
        g->offset = 50ull * OBJECT + 2 * BLOCK - 8 * SECTOR + (uint64_t)(i - HOT - SPREAD) * SECTOR;
    } else { /* four workers to an object */
        g->offset = (60ull + (i - CONTENDED) / 4) * OBJECT + (uint64_t)(i - CONTENDED) * BLOCK;
    }
    history_init(&g->history);
}

void workers_init(struct run *r)
{
    for (uint32_t i = 0; i < REGISTERS; i++)
        reg_place(&r->regs[i], i);
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct worker *w = &r->workers[i];
        w->run = r;
        w->number = i;
        w->node = i / WORKERS_PER_NODE;
        w->buf = mem_alloc_aligned(SPAN_MAX * BLOCK, BLOCK);
        loop_timer_init(&w->timer, worker_on_timer);
    }
    r->auditor = CLUSTER_FOUNDERS;
}

void workers_deinit(struct run *r)
{
    for (uint32_t i = 0; i < REGISTERS; i++)
        history_deinit(&r->regs[i].history);
    for (uint32_t i = 0; i < WORKERS; i++)
        free(r->workers[i].buf);
}

void workers_start(struct run *r, uint32_t node)
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

void workers_lost(struct run *r, uint32_t node)
{
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct worker *w = &r->workers[i];
        if (w->node != node)
            continue;
        if (w->busy) {
            worker_record(w, false);
            r->result->unknown++;
        }
        w->image = NULL; /* it goes with its client */
        w->busy = false;
    }
}

void workers_stop(struct run *r)
{
    workers_burst(r, false);
    r->stopping = true;
}

bool workers_idle(void *run)
{
    const struct run *r = run;

    if (r->auditor != CLUSTER_FOUNDERS && r->audit_next < REGISTERS)
        return false;
    for (uint32_t i = 0; i < WORKERS; i++) {
        if (r->workers[i].busy)
            return false;
    }
    return true;
}

void workers_burst(struct run *r, bool on)
{
    if (r->bursting == on)
        return;
    r->bursting = on;
    for (uint32_t i = 0; on && i < WORKERS; i++) {
        struct worker *w = &r->workers[i];
        if (r->cluster.nodes[w->node].running && !r->cluster.nodes[w->node].stopped && !w->busy)
            worker_plan(w, worker_pause_ns(w));
    }
}

void workers_audit(struct run *r, uint32_t node)
{
    struct worker *w = &r->workers[node * WORKERS_PER_NODE];

    check(r->stopping && !w->busy);
    r->auditor = node;
    r->audit_next = 0;
    worker_plan(w, 0);
}
