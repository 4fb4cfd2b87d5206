/*
 * Consensus behind a narrow door: libraft's core (Debian's 0.15) with our guard
 * and our own I/O underneath. Nothing outside src/raft/ includes raft.h.
 *
 * Threading: everything on the control loop. Memory: a proposal is the caller's until done().
 * Failure: any failed write of log, term, vote or snapshot calls `fatal` and nothing after it is
 * answered: the node must exit. raft/README.md: the guard's rules G1-G5 and the log's format, with
 * the argument.
 */

#ifndef RAFT_CORE_H
#define RAFT_CORE_H

#include "base/bytes.h"
#include "net/rpc.h"

struct raft_core;

enum {
    RAFT_SERVERS_MAX = 7,
    RAFT_ENTRY_MAX = 256 << 10,
    RAFT_IN_FLIGHT_MAX = 4,
    RAFT_WAITING_MAX = 256,    /* proposals that wait for one of those places; more: -EAGAIN */
    RAFT_RPC_KIND_FIRST = 100, /* kinds 100..119 of the control endpoint are raft's */
    RAFT_RPC_KIND_LAST = 119,
};

enum raft_core_role { RAFT_CORE_SPARE, RAFT_CORE_STANDBY, RAFT_CORE_VOTER };
enum raft_core_state { RAFT_CORE_DOWN, RAFT_CORE_FOLLOWER, RAFT_CORE_CANDIDATE, RAFT_CORE_LEADER };

/* The replicated state machine. Plain functions, called on the control loop. */
struct raft_core_fsm {
    /* Entry `index` is committed. Deterministic. `result` is handed to done() of the proposal if it
     * was ours. Never fails. */
    void (*apply)(void *arg, uint64_t index, struct slice entry, void **result);
    /* The whole state, as of the last applied entry; free()d by the core. */
    int (*snapshot)(void *arg, void **buf, size_t *len);
    /* Replace the state. -EINVAL when it cannot be understood. */
    int (*restore)(void *arg, struct slice snapshot);
    /* Optional: we became leader and this term's barrier is applied / we are leader no more. */
    void (*leading)(void *arg, bool leading);
    void *arg;
};

struct raft_core_config {
    struct loop *loop;
    struct net *net;           /* the control loop's; peers are endpoints NET_CONTROL/id */
    const char *dir;           /* holds term, log/, snap/ (DESIGN.md section 17) */
    uint32_t id;               /* node id, never reused */
    uint32_t election_ms;      /* 0: 600 */
    uint32_t heartbeat_ms;     /* 0: 60 */
    uint32_t snapshot_entries; /* entries between snapshots; 0: 20,000 plus a jitter by id */
    uint32_t trailing_entries; /* kept behind a snapshot; 0: 8,192 */
    struct raft_core_fsm fsm;
    void (*fatal)(void *arg, const char *what,
                  int error); /* storage failed or the log is corrupt: the node must stop. Called
                                 once, with fsm.arg; nothing is answered after it */
    uint64_t segment_size;    /* of the log's files, when dir is made; 0: 8 MiB */
};

/* A new cluster whose only voter is `id`. Only in an empty dir. Blocking. */
int raft_core_bootstrap(struct loop *loop, const char *dir, uint32_t id);
/* The same with raft_core_config.segment_size. */
int raft_core_bootstrap_sized(struct loop *loop, const char *dir, uint32_t id,
                              uint64_t segment_size);

/*
 * Load and check dir, restore the newest snapshot, replay, start; an empty dir becomes a server
 * that belongs to nothing yet. fsm.restore and (a single voter's) fsm.apply may be called before it
 * returns. When the log is corrupt and peers may help it returns 0, the state is RAFT_CORE_DOWN,
 * and it asks them until the log is whole, which may be never; only then the snapshot is restored.
 * -EBADMSG with a log line when nothing can help: this server must be wiped and rejoin under a new
 * id. -ENOTSUP: written by a newer version.
 */
int raft_core_open(const struct raft_core_config *config, struct raft_core **out);
void raft_core_close(struct raft_core *r); /* its loop has stopped or is dead: frees memory only */

/* A request of kind RAFT_RPC_KIND_FIRST..LAST came in. */
void raft_core_handle(struct raft_core *r, struct rpc_request *req);

struct raft_proposal {
    /* Set by the caller. */
    const void *entry; /* copied before propose returns */
    size_t len;        /* 1 .. RAFT_ENTRY_MAX */
    void (*done)(struct raft_proposal *p);
    /* Valid in done(). */
    int result; /* 0: committed and applied here; -EAGAIN: was not proposed or certainly lost;
                   -EINPROGRESS: unknown (leadership lost) */
    void *apply_result;
    /* Private. */
    struct raft_core *core;
    struct task task;
    struct list link;
    bool is_barrier;
};

/* -ENOTCONN-like refusals come as results too: not leader: -EAGAIN at once (from done, later). */
void raft_core_propose(struct raft_core *r, struct raft_proposal *p);

/* As propose, of nothing: when done with 0, everything committed before the call is applied here
 * (and we led at some moment since). */
void raft_core_barrier(struct raft_core *r, struct raft_proposal *p);

/* One membership change at a time; done() after it and a barrier behind it committed. -EBUSY while
 * one is under way. Leader only. */
void raft_core_assign(struct raft_core *r, struct raft_proposal *p, uint32_t id,
                      enum raft_core_role role); /* adds the server if it is not a member */
void raft_core_remove(struct raft_core *r, struct raft_proposal *p, uint32_t id);

/* Hand leadership to `id` (0: any up-to-date voter). Best effort. */
int raft_core_transfer(struct raft_core *r, uint32_t id);

struct raft_core_member {
    uint32_t id;
    enum raft_core_role role;
};

struct raft_core_status {
    enum raft_core_state state;
    uint64_t term;
    uint32_t leader; /* 0: none known */
    bool leading;    /* leader, and this term's barrier is applied */
    uint64_t last_index, commit_index, applied_index, snapshot_index;
    uint32_t members_count;
    struct raft_core_member members[RAFT_SERVERS_MAX];
    uint64_t guard_dropped, guard_capped, guard_commit_capped, guard_ticks_skipped;
};

void raft_core_status(struct raft_core *r, struct raft_core_status *out);

#endif /* RAFT_CORE_H */
