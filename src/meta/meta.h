/*
 * The cluster state of one node: Raft, the state machine, maps, commands and,
 * on the leader, its duties (marking OSDs down, placement, membership).
 *
 * Threading: struct meta lives on the control loop. meta_submit(), meta_feed_add() and
 * meta_report_dead() may be called on any loop of the process.
 */

#ifndef META_META_H
#define META_META_H

#include "meta/command.h"
#include "raft/core.h"

enum {
    META_RPC_KIND_FIRST =
        120, /* kinds 120..149 of the control endpoint are meta's; kinds 100..119 are raft's */
    META_RPC_KIND_LAST = 149,
};

/*
 * A contact is an address of which we do not know yet which node listens there: its endpoint is
 * the control endpoint of whoever it is. A node's acceptor routes these, as its own id, to its
 * control net.
 */
static inline net_endpoint meta_contact_endpoint(uint32_t place)
{
    return net_endpoint_make(NET_CONTROL, (1ull << 48) + place);
}

/* `node`: the id the acceptor's node has. */
static inline bool meta_endpoint_is_control_of(net_endpoint e, uint32_t node)
{
    return net_endpoint_kind(e) == NET_CONTROL &&
           (net_endpoint_id(e) == node || net_endpoint_id(e) >> 48 != 0);
}

/* ---- Access: the same for a gateway in a node and for a client process ---- */

struct meta_call {
    /* Set by the caller. */
    struct loop *loop;           /* done() runs there */
    struct meta_command command; /* what it points to is the caller's until done(). request_id all
                                    zero: one is made */
    uint64_t deadline_ns;        /* 0: for ever. Retried, with the same request id, until then */
    void (*done)(struct meta_call *c);
    /* Valid in done(). */
    struct meta_result result; /* code -ETIMEDOUT: outcome unknown */
    /* Private. */
    struct loop_msg msg;
    void *meta;
    struct list link, queued;
    struct hash_link by_request;
    uint8_t *encoded;
    size_t encoded_len;
    struct rpc_call rpc;
    struct loop_timer timer;
    struct task task;
    uint32_t state, attempts, batch;
    bool here, nowhere, urgent, answered, sent, retry;
};

struct meta_access {
    void (*submit)(struct meta_access *a, struct meta_call *c);
    void (*feed_add)(struct meta_access *a, struct map_feed *f);
    /* on the feed's own loop; after it returns on_map() is not called again */
    void (*feed_remove)(struct meta_access *a, struct map_feed *f);
    /* `osd` of `incarnation` cannot be reached: refused (certainly gone) or only lost. A hint to
     * the leader. */
    void (*report)(struct meta_access *a, uint32_t osd, uint32_t incarnation, bool refused);
};

/* ---- A node's own ---- */

struct meta;

struct meta_config {
    struct loop *loop;
    struct net *net; /* the control loop's */
    const char *dir; /* the node directory; raft lives in dir/raft */
    uint32_t node;
    uint32_t node_incarnation;
    const char *node_name, *location;
    uint8_t join_id[16]; /* of the join that gave the number; zero: it is not compared */
    struct loop_addr advertise;
    uint32_t heartbeat_ms;                   /* node -> leader; 0: 500 */
    uint32_t down_after_ms;                  /* silent this long: its OSDs are down; 0: 2,500 */
    uint32_t voter_dead_ms;                  /* silent this long: replaced as a voter; 0: 30,000 */
    uint32_t election_ms, raft_heartbeat_ms; /* 0: raft's defaults */
    struct raft_core_config
        raft; /* only the tunables snapshot_entries, trailing_entries are taken */
    void (*fatal)(void *arg, const char *what, int error); /* the node must stop */
    void *arg;
};

/* Opens raft, restores the state. A bootstrapped node proposes CLUSTER_INIT and NODE_ADD of itself
 * by `meta_init_cluster`. */
int meta_open(const struct meta_config *config, struct meta **out);
void meta_close(struct meta *m); /* its loop has stopped or is dead */

struct meta_access *meta_access(struct meta *m);

/*
 * At each start of the node that began the cluster (node 1, after raft_core_bootstrap()): makes
 * sure that CLUSTER_INIT and NODE_ADD of itself are in the log. Repeating it changes nothing.
 * `fatal` if this is another cluster.
 */
void meta_init_cluster(struct meta *m, const uint8_t cluster[16], uint32_t replicas);

/* The control net's peer_up and peer_lost must be passed on: a refused connection to a node is how
 * the leader learns within milliseconds that its process is gone. */
void meta_peer_up(struct meta *m, net_endpoint e, uint32_t incarnation);
void meta_peer_lost(struct meta *m, net_endpoint e, uint32_t incarnation, int why);

/* True once this start of the node is in the state; only then do its commands go out. */
bool meta_is_registered(const struct meta *m);
/* By what the leader last said; when none is heard, by whom we are connected to. */
bool meta_node_is_up(struct meta *m, uint32_t node);

/* An rpc of kind META_RPC_KIND_* or RAFT_RPC_KIND_* came in on the control net. */
void meta_handle(struct meta *m, struct rpc_request *req);

/* The control net's resolve: address of an endpoint by the current state, else by what peers said
 * in their hellos. */
int meta_resolve(struct meta *m, net_endpoint e, struct loop_addr *out);
/* Initial contacts of a node that has no state yet (from its join). */
void meta_add_contact(struct meta *m, const struct loop_addr *addr, uint32_t node);

/* The OSDs this node serves, for its heartbeat: the leader keeps them up as long as it comes. */
void meta_serve_osd(struct meta *m, uint32_t osd, uint32_t incarnation, bool serving);

const struct map *meta_map(struct meta *m); /* on the control loop; valid until its next turn */
void meta_raft_status(struct meta *m, struct raft_core_status *out);
/* The same for people, on any node: the leader is 0 unless it was heard lately, and who is no
 * member shows the voters that the leader named. */
void meta_group(struct meta *m, struct raft_core_status *out);
bool meta_hears_leader(struct meta *m);
/* Orderly stop: hand leadership over, if this node has it. Best effort, for a second. */
void meta_step_down(struct meta *m);

/* The whole state as JSON text (malloc'd), table by table: `skerry meta dump`. */
char *meta_dump_json(struct meta *m);

/* For metrics and `skerry debug`. */
struct meta_status {
    uint64_t revision;
    uint32_t leader;   /* 0: none known */
    bool leading;      /* this node leads and runs the duties */
    bool member;       /* the state is our own copy of the log, not another node's rows */
    uint32_t calls;    /* commands waiting for their result here */
    uint32_t watchers; /* requests for rows that wait here for news */
    uint64_t entries_proposed, commands_applied, rows_sent;
};
void meta_status(struct meta *m, struct meta_status *out);

/* ---- A client process: no raft, subscribes to any node ---- */

struct meta_remote;
struct meta_remote_config {
    struct loop *loop;
    struct net *net;
    const struct loop_addr *contacts; /* nodes to try; copied */
    uint32_t contacts_count;
};
int meta_remote_open(const struct meta_remote_config *config, struct meta_remote **out);
void meta_remote_close(struct meta_remote *m);
struct meta_access *meta_remote_access(struct meta_remote *m);
int meta_remote_resolve(struct meta_remote *m, net_endpoint e, struct loop_addr *out);

#endif /* META_META_H */
