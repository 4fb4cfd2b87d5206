/*
 * Inside struct meta: one object on the control loop, in four files.
 *
 *   meta.c        life, maps, where commands go, entries, registration of this start
 *   meta_serve.c  requests of other nodes, of clients, of joiners
 *   meta_beat.c   heartbeats and reports to the leader
 *   meta_lead.c   the duties, while this node leads
 */

#ifndef META_META_IMPL_H
#define META_META_IMPL_H

#include <stdatomic.h>

#include "meta/calls.h"
#include "meta/duties.h"
#include "meta/feeds.h"
#include "meta/follow.h"
#include "meta/meta.h"
#include "meta/replies.h"
#include "meta/state.h"
#include "meta/watch.h"

enum {
    META_RPC_HEARTBEAT = 121, /* [node, incarnation, [[osd, incarnation]...]] ->
                                 [leader, revision, [live nodes], [voters]] */
    META_RPC_REPORT = 122,    /* one-way: [osd, incarnation, refused] */
    META_RPC_LEADER = 125,    /* one-way, no body: who sends it leads */

    META_CONTACTS_MAX = 64,
    META_HEARD_MAX = 64,
    META_REPORTS_MAX = 32,
    META_OSDS_SERVED_MAX = 256,
    META_CALLS_MAX = 4096, /* beyond, requests of others are answered -EBUSY */
    META_PATH_MAX = 4096,
    META_BEAT_MAX = 16 << 10, /* bytes of a heartbeat or its answer */
    META_TICK_MS = 100,
    META_STEP_DOWN_MS = 1000,   /* then it is given up, and this node leads on */
    META_CALL_HOME_MS = 500,    /* between calls to nodes that are there and do not report */
    META_LEADER_LOST_MS = 2000, /* a member that no leader answers for so long asks around */
};

struct meta_contact {
    struct loop_addr addr;
    uint32_t node;
};

/* An entry under way. */
struct meta_batch {
    struct meta *meta;
    struct raft_proposal proposal;
    uint32_t number;
    bool busy;
};

/* A hint on its way to the leader. Taken on any loop, given back on the control loop. */
struct meta_report {
    struct meta *meta;
    atomic_bool busy;
    struct loop_msg msg;
    struct rpc_call rpc;
    uint32_t osd, incarnation;
    bool refused;
    uint8_t body[32];
};

/* A command of the leader's duties. */
struct meta_duty {
    struct meta *meta;
    struct meta_call call;
    bool busy;
    uint64_t revision; /* its effect shows in maps from here on */
    uint64_t not_before_ns;
};

enum meta_own_step { META_OWN_INIT, META_OWN_ADD, META_OWN_SET, META_OWN_DONE };

struct meta {
    struct meta_access access; /* First: an access pointer is a meta pointer. */
    struct meta_config config;
    char raft_dir[META_PATH_MAX];
    bool stopped; /* fatal was called */
    struct raft_core *raft;
    struct meta_state *state;
    struct feeds feeds;
    struct calls calls;
    struct watch watch;
    struct follow follow;
    struct replies replies;
    struct list served; /* requests being worked on (meta_serve.c) */
    struct task publish, propose, tick;
    struct loop_timer timer;
    uint64_t tick_ns;

    struct meta_batch batches[RAFT_IN_FLIGHT_MAX];
    uint32_t batch_last; /* number of the last entry */
    uint8_t *entry;
    uint64_t entries_proposed, commands_applied;
    uint64_t step_down_until_ns; /* handing the lead over; 0: not */

    /* Who leads, and whom else to ask. */
    uint32_t leader;    /* as last known by any way; 0: none */
    uint32_t hint;      /* as others said */
    uint64_t leader_ns; /* when one was last heard, or we led */
    uint64_t level_ns;  /* when our log was last as new as the leader said its own was */
    struct meta_contact contacts[META_CONTACTS_MAX];
    uint32_t contacts_count;
    struct meta_contact heard[META_HEARD_MAX];
    uint32_t heard_next;

    /* Registration of this start. */
    struct meta_call own;
    enum meta_own_step own_step;
    bool own_busy, founder;
    uint64_t own_not_before_ns;
    uint8_t cluster[16];
    uint32_t replicas;

    /* Heartbeat. */
    struct meta_osd_state osds[META_OSDS_SERVED_MAX];
    uint32_t osds_count;
    struct rpc_call beat;
    bool beat_busy, beat_replied;
    uint64_t beat_ns; /* when the next is due */
    uint8_t *beat_body, *beat_answer;
    uint8_t *alive; /* by node id, as the leader said */
    uint64_t alive_ns;
    uint32_t voters_count, voters[RAFT_SERVERS_MAX]; /* as the leader said */
    uint8_t *linked; /* by node id: we are connected; what there is to go by without a leader */
    uint64_t alive_revision; /* the leader's then */
    struct meta_report reports[META_REPORTS_MAX];

    /* Leading. */
    struct duties duties;
    struct duties_out duties_out;
    struct meta_duty down, target, change, hash;
    uint64_t hash_index; /* the last one that was proposed */
    struct raft_proposal member;
    bool member_busy;
    struct rpc_call home;
    bool home_busy;
    uint32_t home_last; /* the node that was called last */
    uint64_t home_ns;   /* when the next may be */
};

/* meta.c */
void meta_fatal(struct meta *m, const char *what, int error);
bool meta_leading(struct meta *m);
uint32_t meta_leader(struct meta *m); /* 0: none known */
void meta_set_hint(struct meta *m, uint32_t leader);
void meta_heard(struct meta *m, uint32_t node, const struct loop_addr *addr);

/* meta_serve.c */
void meta_serve_close(struct meta *m);

/* meta_beat.c */
void meta_beat_open(struct meta *m);
void meta_beat_close(struct meta *m);
void meta_beat_run(struct meta *m, uint64_t now);
void meta_beat_handle(struct meta *m, struct rpc_request *req);
void meta_report_handle(struct meta *m, struct rpc_request *req);
void meta_report_send(struct meta *m, uint32_t osd, uint32_t incarnation, bool refused);

/* meta_lead.c */
void meta_lead_open(struct meta *m);
void meta_lead_run(struct meta *m, uint64_t now, uint64_t *next_ns);
void meta_lead_want_peers(struct meta *m);

#endif /* META_META_IMPL_H */
