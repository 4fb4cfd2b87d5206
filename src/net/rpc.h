/*
 * Messages between endpoints: request and answer with deadlines, over one TCP
 * port a node, or in memory inside a process.
 *
 * An *endpoint* is a party that owns a loop: a node's control loop, an OSD, a client. Each loop has
 * one struct net. A connection runs from one endpoint to one endpoint: the hello names both, so a
 * frame arrives on the loop that must handle it and crosses no other thread. The node's acceptor
 * (struct net_acceptor, on the control loop) does the handshake and moves the connection there.
 *
 * Delivery: a call is sent at most once per rpc_call_start(). It ends exactly once: with the
 * answer's status, with -EPIPE when the connection was lost or could not be made (the request may
 * or may not have been executed), with -ECONNREFUSED when the peer's machine answered that nobody
 * listens (it certainly was not executed), with -EACCES or -EPROTONOSUPPORT when the handshake was
 * refused (another cluster or secret; no version in common; a log line says which, nothing was
 * executed), with -EBUSY when too many calls to that peer are in flight, or with -ETIMEDOUT at its
 * deadline. An answer after that is dropped. There is no order between calls, not even on one
 * connection: whoever needs order says so in the message.
 *
 * done() comes later than the deadline or the cancel only while the socket, or the other loop of an
 * in-process call, still works on the call's memory: net/README.md says how long that can be.
 *
 * Memory: a call and all it points to are the caller's until done(). A request is the net's until
 * its replied(). Limits: NET_BODY_MAX, NET_DATA_MAX, requests in flight per connection and in all
 * (the rest waits in the socket), calls per peer (-EBUSY), connections per net.
 *
 * Wire format: net/README.md and net/frame.h.
 */

#ifndef NET_RPC_H
#define NET_RPC_H

#include "base/bytes.h"
#include "base/hash.h"
#include "io/loop.h"

enum {
    NET_BODY_MAX = 512 << 10, /* bytes of a frame's body */
    NET_DATA_MAX = 1 << 20,   /* bytes of a frame's data; a multiple of 4 KiB is not required */
    NET_BODY_INLINE = 512,    /* answers' bodies up to this need no buffer of the caller's */
    NET_VERSION = 1,
};

/* ---- Endpoints ---- */

enum net_kind { NET_CONTROL = 1, NET_OSD = 2, NET_CLIENT = 3, NET_JOINER = 4 /* has no id yet */ };

typedef uint64_t net_endpoint; /* kind << 56 | id */

static inline net_endpoint net_endpoint_make(enum net_kind kind, uint64_t id)
{
    return (uint64_t)kind << 56 | id;
}
static inline enum net_kind net_endpoint_kind(net_endpoint e)
{
    return (enum net_kind)(e >> 56);
}
static inline uint64_t net_endpoint_id(net_endpoint e)
{
    return e & ((1ull << 56) - 1);
}

/* ---- One net per loop ---- */

struct net;
struct rpc_request;

/* What the connections of a process have in common; copied. */
struct net_identity {
    uint8_t cluster[16];
    uint8_t secret[32];         /* each hello proves it by HMAC-SHA256 over both nonces */
    uint32_t node;              /* 0: none yet */
    struct loop_addr advertise; /* told to peers in the hello; all zero: not a server */
};

struct net_config {
    struct loop *loop;
    struct net_identity identity;
    net_endpoint self;
    uint32_t incarnation;  /* told in the hello and in every frame; may be 0 for clients */
    uint32_t requests_max; /* requests being handled at once, all peers together; 0: 1024 */
    uint32_t data_buffers; /* page-aligned NET_DATA_MAX is cut from these 128 KiB buffers; 0: 256 */

    /* Where an endpoint is now. 0, or -ENOENT: unknown yet (the call waits for net_kick() or its
     * deadline). */
    int (*resolve)(void *arg, net_endpoint peer, struct loop_addr *out);

    /* Called on this loop for each request that came whole and intact. */
    void (*handle)(void *arg, struct rpc_request *req);

    /*
     * Optional: a connection of ours to `peer` came up, or was lost (why: -EPIPE, or -ETIMEDOUT
     * after 3 s of silence), or an attempt to make one failed (-ECONNREFUSED: nobody listens;
     * -ETIMEDOUT; -EPIPE, -EACCES, -EPROTONOSUPPORT: no handshake). `incarnation`: the last one
     * heard from that endpoint, 0 if none. Records and wakes.
     */
    void (*peer_up)(void *arg, net_endpoint peer, uint32_t incarnation);
    void (*peer_lost)(void *arg, net_endpoint peer, uint32_t incarnation, int why);
    void *arg;
};

int net_create(const struct net_config *config, struct net **out);
void net_destroy(struct net *n); /* its loop is dead, and so are those linked with it */

/* The incarnation of this endpoint, once it is known (an OSD learns its own when it has opened its
 * store). */
void net_set_incarnation(struct net *n, uint32_t incarnation);

/*
 * Tell `n` that `peer` lives in this process and is served by `other`: calls from n to it are
 * handed over in memory (loop_post). Called on n's loop; other's loop must outlive n's use
 * (net_unlink first).
 */
void net_link(struct net *n, net_endpoint peer, struct net *other);
void net_unlink(struct net *n, net_endpoint peer);

/* Addresses may have changed: calls that waited for one try again, and back-off is cut short. */
void net_kick(struct net *n);

/* Keep a connection to `peer` up from now on (for peer_lost and for latency), or stop wanting one.
 */
void net_want(struct net *n, net_endpoint peer, bool wanted);

/* ---- Calls ---- */

struct rpc_call {
    /* Set by the caller. */
    net_endpoint to;
    uint16_t kind; /* what the receiver dispatches on; see each service's header */
    uint64_t pg;   /* header fields that most storage messages carry; 0 if unused */
    uint32_t epoch;
    uint32_t to_incarnation;  /* 0: any; else a receiver of another incarnation answers -ESTALE */
    uint64_t revision;        /* of the cluster state this was decided at */
    struct slice body;        /* NET_BODY_MAX at most */
    const struct iovec *data; /* at most 64 pieces, NET_DATA_MAX in all */
    int data_count;
    uint64_t deadline_ns; /* loop_now() based; always set */
    void *body_buf;       /* room for the answer's body; NULL: inline_body serves */
    uint32_t body_buf_size;
    void *data_buf; /* room for the answer's data; read straight into it; NULL: none expected */
    uint32_t data_buf_size;
    void (*done)(struct rpc_call *c);

    /* Valid in done(). */
    int status;              /* 0 or -errno: the answer's status, or what ended the call */
    bool answered;           /* true: status came from the receiver's rpc_reply() */
    struct slice reply_body; /* in body_buf or inline_body */
    uint32_t reply_data_len; /* bytes in data_buf. An answer that does not fit is -EPROTO */
    uint64_t reply_revision;
    uint32_t reply_incarnation;

    /* Private. */
    uint8_t inline_body[NET_BODY_INLINE];
    struct list link;
    struct hash_link by_id;
    struct loop_timer timer;
    struct task task;
    struct loop_msg msg;
    struct net *net;
    struct net *lent_to; /* in-process: the net that serves it */
    void *peer;
    void *conn;
    uint8_t header[80];
    uint64_t id;
    uint32_t state;
    uint32_t flags;
    uint32_t from_incarnation;
    int end_status;
    bool oneway;
    bool lent_answered;
};

void rpc_call_start(struct net *n, struct rpc_call *c);

/* End it at once with -ECANCELED (in done(), later). Harmless when it is done already. */
void rpc_call_cancel(struct net *n, struct rpc_call *c);

/* A message without an answer: done() when it was handed to the socket, or could not be. Same
 * struct. */
void rpc_send_start(struct net *n, struct rpc_call *c);

/* ---- Requests ---- */

struct rpc_request {
    net_endpoint from; /* as proven in the hello */
    uint32_t from_node;
    uint32_t from_incarnation;
    struct loop_addr from_advertise; /* where that node says it listens */
    uint16_t kind;
    bool oneway; /* rpc_reply() must still be called; nothing is sent */
    uint64_t pg;
    uint32_t epoch;
    uint64_t revision;
    struct slice body;
    void *data; /* page-aligned, contiguous; NULL if data_len is 0. In-process: as the sender has it
                   if that is one aligned piece */
    uint32_t data_len;

    /* Set before rpc_reply(). */
    int status;
    uint64_t reply_revision;
    struct slice reply_body; /* copied if <= NET_BODY_INLINE, else must live until replied() */
    const void *reply_data;  /* must live until replied() */
    uint32_t reply_data_len;
    void (*replied)(
        struct rpc_request *req,
        void *arg); /* optional: answer left (or could not); reply memory is the handler's again */
    void *replied_arg;

    void *user; /* for the handler */
    /* Private to net/ follows in net/net.c's own struct. */
};

/*
 * A page-aligned buffer of `len` bytes to build the answer's data in: the caller's own data_buf for
 * an in-process call that has room, else one from the pool; it returns to the net after the answer.
 * NULL: the pool is empty (answer -EBUSY).
 */
void *rpc_reply_buffer(struct rpc_request *req, uint32_t len);

/* Answer. Exactly once per request, from its loop; never fails (a lost peer just does not hear it).
 */
void rpc_reply(struct rpc_request *req);

static inline void rpc_reply_status(struct rpc_request *req, int status)
{
    req->status = status;
    rpc_reply(req);
}

/* ---- The node's port ---- */

struct net_acceptor;

struct net_acceptor_config {
    struct loop *loop;
    struct net_identity identity;
    uint32_t incarnation;
    struct loop_addr listen;
    uint32_t handshakes_max; /* at once; each has 5 s; 0: 64 */

    /* Which local net serves `target`; NULL: refused with -ENOENT. On the acceptor's loop. */
    struct net *(*route)(void *arg, net_endpoint target);
    void *arg;
};

int net_acceptor_create(const struct net_acceptor_config *config, struct loop_addr *bound,
                        struct net_acceptor **out);
/* Close the listener: from now on connections are refused (a node does this last; R7). */
void net_acceptor_close_listener(struct net_acceptor *a);
void net_acceptor_destroy(struct net_acceptor *a); /* its loop is dead, those routed to as well */

#endif /* NET_RPC_H */
