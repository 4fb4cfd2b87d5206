/*
 * Raft's messages between nodes, over net/'s connections.
 *
 * A message travels as one or more fragments, each a one-way call of kind RAFT_RPC_FRAGMENT to
 * NET_CONTROL/id whose body is
 *
 *   0  u64  number of the message: the sender's, a new one each time
 *   8  u32  its whole length
 *  12  u32  offset of this fragment
 *  16  ...  up to 256 KiB of it
 *
 * One fragment per peer is under way, the next leaves when it was handed to the socket. A fragment
 * that is not the next of its message ends the message: Raft sends again. A send that cannot be
 * made ends with RAFT_NOCONNECTION, and so do those that wait behind it.
 *
 * Threading: the control loop. The message is copied before a send returns; its callback comes
 * later, never from within the send.
 */

#ifndef RAFT_TRANSPORT_H
#define RAFT_TRANSPORT_H

#include <raft.h>

#include "base/list.h"
#include "net/rpc.h"
#include "raft/core.h"

enum {
    RAFT_RPC_FRAGMENT = RAFT_RPC_KIND_FIRST,
    RAFT_FRAGMENT_HEADER = 16,
    RAFT_FRAGMENT_MAX = 256 << 10,
    RAFT_PEERS_MAX = 16,
    RAFT_PEER_QUEUE_MAX = 64,
    RAFT_INBOX_MAX = 256,
};

struct raft_peer;

struct raft_transport {
    struct loop *loop;
    struct net *net;
    uint64_t send_ns; /* how long a fragment may take to reach the socket */
    void (*received)(void *arg, struct raft_message *m);
    void *arg;

    struct raft_peer *peers[RAFT_PEERS_MAX];
    uint32_t peers_count;
    struct list ended; /* sends whose callback is due */
    struct list inbox; /* messages that came */
    uint32_t inbox_count;
    struct task task;
    bool stopped;
};

void raft_transport_init(struct raft_transport *t, struct loop *loop, struct net *net);
/* Its loop is dead. Sends not yet answered are answered with RAFT_CANCELED. */
void raft_transport_deinit(struct raft_transport *t);

void raft_transport_send(struct raft_transport *t, struct raft_io_send *req,
                         const struct raft_message *m, raft_io_send_cb cb);

/* The body of a fragment from server `from`. 0, -EBADMSG, or -EBUSY: too many peers. */
int raft_transport_receive(struct raft_transport *t, uint64_t from, struct slice body);

/* A fragment came. Answers the request. */
void raft_transport_handle(struct raft_transport *t, struct rpc_request *req);

#endif /* RAFT_TRANSPORT_H */
