/*
 * How long a lone voter takes to commit an entry, on a real disk.
 *
 *   bench_raft_commit DIR [ENTRIES [BYTES [IN_FLIGHT]]]
 *
 * DIR must be new. Prints commits per second and percentiles of the latency.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/pool.h"
#include "raft/core.h"

struct bench;

struct slot {
    struct bench *bench;
    struct raft_proposal proposal;
    struct task task;
    uint64_t begun;
};

struct bench {
    struct loop *loop;
    struct raft_core *core;
    struct slot slots[64];
    uint8_t *entry;
    size_t bytes;
    uint32_t in_flight;
    uint64_t wanted, begun, ended, applied;
    uint64_t first_ns, last_ns;
    uint64_t *latencies;
};

static void bench_apply(void *arg, uint64_t index, struct slice entry, void **result)
{
    struct bench *b = arg;
    (void)index;
    (void)entry;
    *result = NULL;
    b->applied++;
}

static int bench_snapshot(void *arg, void **buf, size_t *len)
{
    (void)arg;
    *len = 8;
    *buf = calloc(1, 8);
    return *buf != NULL ? 0 : -1;
}

static int bench_restore(void *arg, struct slice snapshot)
{
    (void)arg;
    (void)snapshot;
    return 0;
}

static void bench_propose(struct slot *s)
{
    struct bench *b = s->bench;

    if (b->begun == b->wanted)
        return;
    b->begun++;
    s->begun = loop_now(b->loop);
    s->proposal.entry = b->entry;
    s->proposal.len = b->bytes;
    raft_core_propose(b->core, &s->proposal);
}

static void bench_on_done(struct raft_proposal *p)
{
    struct slot *s = container_of(p, struct slot, proposal);
    struct bench *b = s->bench;

    if (p->result != 0) {
        fprintf(stderr, "a proposal failed: %d\n", p->result);
        exit(1);
    }
    b->last_ns = loop_now(b->loop);
    b->latencies[b->ended++] = b->last_ns - s->begun;
    if (b->ended == b->wanted)
        loop_stop(b->loop);
    else
        bench_propose(s);
}

static void bench_leading(void *arg, bool leading)
{
    struct bench *b = arg;

    check(leading);
    b->first_ns = loop_now(b->loop);
    for (uint32_t i = 0; i < b->in_flight; i++) {
        b->slots[i].bench = b;
        b->slots[i].proposal.done = bench_on_done;
        bench_propose(&b->slots[i]);
    }
}

static void bench_fatal(void *arg, const char *what, int error)
{
    (void)arg;
    fprintf(stderr, "%s: %d\n", what, error);
    exit(1);
}

static int bench_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double bench_percentile(const struct bench *b, double share)
{
    return (double)b->latencies[(uint64_t)((double)(b->ended - 1) * share)] / 1000.0;
}

int main(int argc, char **argv)
{
    static struct bench b;

    if (argc < 2) {
        fprintf(stderr, "usage: bench_raft_commit DIR [ENTRIES [BYTES [IN_FLIGHT]]]\n");
        return 2;
    }
    b.wanted = argc > 2 ? strtoull(argv[2], NULL, 10) : 2000;
    b.bytes = argc > 3 ? strtoull(argv[3], NULL, 10) : 256;
    b.in_flight = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 1;
    check(b.wanted > 0 && b.bytes > 0 && b.bytes <= RAFT_ENTRY_MAX);
    check(b.in_flight > 0 && b.in_flight <= COUNT_OF(b.slots));
    b.entry = mem_zalloc(b.bytes);
    b.latencies = mem_zalloc(b.wanted * sizeof(*b.latencies));

    struct raft_core_config config = {.dir = argv[1],
                                      .id = 1,
                                      .fsm = {.apply = bench_apply,
                                              .snapshot = bench_snapshot,
                                              .restore = bench_restore,
                                              .leading = bench_leading,
                                              .arg = &b},
                                      .fatal = bench_fatal};
    int rv = loop_create(&b.loop, LOOP_AUTO, 64);
    config.loop = b.loop;
    if (rv == 0)
        rv = raft_core_bootstrap(b.loop, argv[1], 1);
    if (rv == 0)
        rv = raft_core_open(&config, &b.core);
    if (rv != 0) {
        fprintf(stderr, "%s: %d\n", argv[1], rv);
        return 1;
    }
    loop_run(b.loop);

    qsort(b.latencies, b.ended, sizeof(*b.latencies), bench_compare);
    printf("{\"commits_per_second\": %.0f, \"p50_us\": %.0f, \"p99_us\": %.0f, \"max_us\": %.0f}\n",
           (double)b.ended * 1e9 / (double)(b.last_ns - b.first_ns), bench_percentile(&b, 0.5),
           bench_percentile(&b, 0.99), bench_percentile(&b, 1.0));
    loop_halt(b.loop);
    raft_core_close(b.core);
    loop_destroy(b.loop);
    free(b.latencies);
    free(b.entry);
    return 0;
}
