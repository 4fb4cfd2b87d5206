/*
 * One seed: three nodes of production code in virtual time, clients that contend for a few blocks,
 * and faults. In some seeds a fourth node joins in the middle, and PGs move to it and about. run.c
 * has the order of things, workers.c the clients, faults.c the weather, cluster.c the nodes,
 * audit.c what must hold at the end.
 *
 * Checked:
 *   - every register is linearizable, so no acknowledged write is lost and no read is stale;
 *   - after healing every operation ends and the cluster is whole, in bounded time;
 *   - then each replica in turn is made primary of everything, and every register is read from it;
 *   - every PG is where placement wants it; its members hold the same objects, versions and
 *     checksums, and nobody else anything of it; space is accounted exactly; the nodes' cluster
 *     states have the same hash; no node stopped by itself.
 *
 * A seed is *weak* if it simulated less than 60 s under faults, acknowledged fewer than 2,000
 * operations on contended registers, or had fewer than 5 faults that hit something. A seed goes on
 * under faults until it is not (for at most RUN_S_MAX). A fault hit something if, between
 * its beginning and shortly after its end, a client had to try again, an operation's fate became
 * unknown, or a PG got a new epoch.
 */

#ifndef TESTS_SIM_RUN_H
#define TESTS_SIM_RUN_H

#include "tests/sim/cluster.h"
#include "tests/sim/history.h"

enum {
    RUN_S_MIN = 60,
    RUN_S_MAX = 240,
    RUN_OPS_MIN = 2000,
    RUN_HITS_MIN = 5,

    SPAN_MAX = 4,
    WORKERS_PER_NODE = 4,
    WORKERS = WORKERS_PER_NODE * CLUSTER_FOUNDERS,
    HOT = 16,             /* blocks around the border of two objects */
    SPREAD = 4,           /* one block each of other objects */
    SECTORS = 16,         /* 512 bytes each, in two blocks: eight on each side of their border */
    WATCHED_PER_NODE = 2, /* blocks that its reader watches and others write */
    WATCHED = WATCHED_PER_NODE * CLUSTER_FOUNDERS,
    CONTENDED = HOT + SPREAD + SECTORS + WATCHED,
    REGISTERS = CONTENDED + WORKERS, /* and a block for each worker alone */
    FAULTS_MAX = 32,
};

enum fault_kind {
    FAULT_CRASH,
    FAULT_POWER,
    FAULT_ALL,   /* every process at about the same time */
    FAULT_AGAIN, /* a crash soon after a restart: in the middle of recovery */
    FAULT_CUT,
    FAULT_PAUSE,
    FAULT_SLOW_NET,
    FAULT_SLOW_DISK,
    FAULT_SWITCH, /* another primary, by command: the one before lives on */
    FAULT_DEPOSE, /* a node is cut off, and its primaries are given to others by command */
    FAULT_ROT,    /* a block of one replica is not what was written */
    FAULT_READ,   /* one read of a store's device fails */
    FAULT_MOVE,   /* PGs are wanted elsewhere, until the leader has its way again */
    FAULT_KINDS
};

struct run_options {
    uint64_t seconds; /* under faults, at least */
    uint32_t mutant;
    bool verbose;
};

/* What became of a seed; of plain memory, so that it can go through a pipe. */
struct run_result {
    uint64_t seed, hash;
    uint64_t contended, ops, unknown, errors; /* operations */
    uint64_t faults, hits;
    uint64_t by_kind[FAULT_KINDS];
    uint64_t scrub_s;                /* that the end had to wait for scrub to mend what rotted */
    uint64_t simulated_ms, whole_ms; /* whole: from healing until the cluster was */
    uint64_t events;
    bool held, weak;
    char why[160];
};

struct reg {
    uint64_t offset;
    uint32_t len;
    uint64_t zero_last; /* value that stands for zeros: of the last ZERO (private registers only) */
    struct history history;
};

struct run;

struct worker {
    struct run *run;
    uint32_t number, node; /* index */
    struct loop_timer timer;
    struct client_op op;
    struct client_image *image;
    bool busy;
    uint32_t first, span;
    uint64_t values[SPAN_MAX];
    uint64_t call_ns;
    uint8_t *buf; /* SPAN_MAX blocks, page-aligned */
};

struct fault {
    bool open;
    enum fault_kind kind;
    uint64_t impact;  /* when it began */
    uint64_t over_ns; /* a while after its end */
};

struct run {
    struct sim *sim;
    struct cluster cluster;
    const struct run_options *options;
    struct run_result *result;
    struct reg regs[REGISTERS];
    struct worker workers[WORKERS];
    uint64_t value_last;
    bool bursting, stopping;
    uint32_t
        auditor; /* index of the node whose first worker reads everything; else CLUSTER_FOUNDERS */
    uint32_t audit_next;

    uint32_t weights[FAULT_KINDS], weights_sum;
    uint64_t fault_gap_ms;
    uint64_t retries_gone; /* of clients that are no more */
    struct fault faults[FAULTS_MAX];
    /* When a crashed node comes back, or one joins; 0: it runs; UINT64_MAX: it never joins. */
    uint64_t restart_ns[CLUSTER_NODES];
    uint64_t again_ns;       /* when a node is crashed in the middle of recovery */
    uint64_t busy_ns;        /* until then bursts are likely: somebody recovers, or is deposed */
    uint64_t depose_next_ns; /* when a node is deposed, at the end of a slow network */
    uint64_t depose_ns;      /* when the primaries of a node that is cut off move ... */
    uint32_t depose_to, depose_at; /* ... to this node, asked at that one */
    uint64_t move_ns;              /* until then PGs are moved about */
    uint64_t cut_ns, slow_net_ns, slow_disk_ns[CLUSTER_NODES]; /* when that ends; 0: it is not */
};

void run_seed(const struct run_options *o, uint64_t seed, struct run_result *out);
const char *fault_name(enum fault_kind kind);

/* The first thing that went wrong. */
void run_fail(struct run *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
void run_note(struct run *r, const char *what, uint64_t a, uint64_t b);

/* ---- workers.c ---- */

void workers_init(struct run *r);
void workers_deinit(struct run *r);
void workers_start(struct run *r, uint32_t node);
/* Nothing new is begun; what is under way goes on. */
void workers_stop(struct run *r);
/* The node's process is gone, and nobody will ever know what became of what it was asked. */
void workers_lost(struct run *r, uint32_t node);
bool workers_idle(void *run);
void workers_burst(struct run *r, bool on);
/* Read every register through this node, one by one; workers_idle() when it is done. */
void workers_audit(struct run *r, uint32_t node);

/* ---- faults.c ---- */

void faults_init(struct run *r);
/* Maybe one begins; what is due ends; nodes come back. */
void faults_step(struct run *r);
void faults_due(struct run *r);
void faults_heal(struct run *r);
/* The last one: in the middle of much that is in flight. */
void faults_last(struct run *r);

/* ---- audit.c ---- */

/* Everything that must hold of a whole and quiet cluster. */
void audit_rot(struct run *r); /* mended without a reader */
void audit_cluster(struct run *r);

#endif /* TESTS_SIM_RUN_H */
