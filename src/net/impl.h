/*
 * What the files of net/ share. Nobody else includes this.
 *
 *   net.c       create, identity, what runs for the net as a whole
 *   call.c      a call from start to done()
 *   request.c   a request from admission to replied(); the limits
 *   conn.c      frames over one connection, both roles
 *   shake.c     moves the bytes of one handshake
 *   peer.c      our connections to endpoints: attempts, back-off
 *   local.c     calls between nets of one process
 *   acceptor.c  the node's port
 */

#ifndef NET_IMPL_H
#define NET_IMPL_H

#include "base/pool.h"
#include "net/arena.h"
#include "net/frame.h"
#include "net/hello.h"
#include "net/rpc.h"
#include "net/stage.h"

#define NET_TICK_NS       (500 * NS_PER_MS) /* each connection looks at its clock this often */
#define NET_PING_NS       (1 * NS_PER_S)    /* nothing sent for this long: send a ping */
#define NET_SILENCE_NS    (3 * NS_PER_S)    /* nothing heard for this long: lost */
#define NET_STUCK_CALL_NS (1 * NS_PER_S)    /* a send may hold up an overdue call this long */
#define NET_STUCK_REPLY_NS                                                 \
    (3 * NS_PER_S) /* a client that takes no answers for this long is lost \
                    */
#define NET_FRAME_NS        (10 * NS_PER_S) /* from a frame's admission to its last byte */
#define NET_IDLE_NS         (60 * NS_PER_S) /* an unwanted connection without calls is closed */
#define NET_CONNECT_NS      (2 * NS_PER_S)
#define NET_SHAKE_NS        (2 * NS_PER_S) /* client: connected to welcomed */
#define NET_SHAKE_SERVER_NS (5 * NS_PER_S)
#define NET_BACKOFF_MIN_NS  (10 * NS_PER_MS)
#define NET_BACKOFF_MAX_NS  (1 * NS_PER_S)
#define NET_STEADY_NS       (1 * NS_PER_S) /* a connection that lived this long ends the back-off */

enum {
    NET_PIECES_MAX = 64,    /* iovecs of a call's data */
    NET_CALLS_MAX = 4096,   /* to one peer */
    NET_CONNS_MAX = 4096,   /* incoming, per net */
    NET_ATTEMPTS_MAX = 16,  /* connects to one peer that the kernel has not ended yet */
    NET_BUFFER = 128 << 10, /* what net_config.data_buffers counts */

    CONN_RX_SIZE = 64 << 10,
    CONN_RX_DIRECT = 4096, /* a rest at least this long is received where it belongs */
    CONN_IOV_MAX = 256,
    CONN_BATCH_BYTES = 256 << 10, /* a send takes no further frame beyond this */

    REQUEST_BODY_INLINE = 1536,
};

/* ---- Calls ---- */

/* A state is named after what the call awaits. */
enum call_state {
    CALL_IDLE,    /* nothing: never started, or done() has been called */
    CALL_WAITING, /* a connection */
    CALL_QUEUED,  /* its turn to be sent */
    CALL_SENT,    /* the answer (perhaps still in the socket's hands, or being received) */
    CALL_LENT,    /* the answer, from another net of this process */
    CALL_HELD,    /* it has ended; someone still works on its memory */
    CALL_ENDED,   /* its turn to call done() */
    CALL_STATES,
};

enum call_flag {
    CALL_IN_SEND = 1, /* its memory is in the socket's send */
    CALL_IN_RECV = 2, /* the socket's recv goes straight into its buffer */
    CALL_IS_LENT = 4, /* another loop uses its memory */
    CALL_OVERDUE = 8,
    CALL_RETURNED = 16, /* the other loop has answered */
    CALL_HASHED = 32,
    CALL_COUNTED = 64, /* in peer->calls */
};

struct peer;
struct conn;
struct request;

/* It ends with `status`, now or as soon as its memory is its own again. Once. */
void call_end(struct rpc_call *c, int status, bool answered);
/* One of the CALL_IN_ or CALL_IS_LENT holds is over. */
void call_unhold(struct rpc_call *c, uint32_t hold);
bool call_is_over(const struct rpc_call *c); /* held or ended */
void call_move(struct rpc_call *c, enum call_state next);

/* ---- Requests ---- */

enum request_state {
    REQUEST_RECEIVING, /* the rest of its frame */
    REQUEST_HANDLING,  /* rpc_reply() */
    REQUEST_QUEUED,    /* its answer's turn to be sent */
    REQUEST_SENDING,   /* the socket */
    REQUEST_FINISHED,  /* its turn to call replied() */
    REQUEST_STATES,
};

struct request {
    struct rpc_request pub; /* first: the handler's pointer is ours */
    enum request_state state;
    struct net *net;
    struct intake *intake;
    struct conn *conn;     /* NULL: in-process, or the connection was lost */
    struct rpc_call *call; /* in-process */
    struct list link;      /* in conn's handling, queue or sending */
    struct task task;
    uint64_t id;
    uint32_t to_incarnation;
    void *run; /* of intake's arena: data, then a body too long for body_inline */
    uint32_t run_pages;
    void *reply_run; /* of the net's arena for answers */
    uint32_t reply_pages;
    uint8_t header[FRAME_HEADER];
    uint8_t reply_inline[NET_BODY_INLINE];
    uint8_t body_inline[REQUEST_BODY_INLINE];
};

/*
 * Requests come in two classes with memory of their own: those of clients, and those of nodes.
 * A node's requests are what handling a client's may wait for, so they must not wait for it.
 * Within a class there are three lines, first come, first served in each; the lines take turns.
 * The last request struct is for the line whose turn it is; of the others, who needs no pages
 * passes the one that waits for pages.
 */
enum intake_line {
    LINE_LOCALS, /* struct rpc_call.link: lent to us and not admitted yet */
    LINE_SMALL,  /* struct conn.intake_link: the next request needs no pages */
    LINE_LARGE,  /* struct conn.intake_link: it needs some */
    LINE_COUNT,
};

struct intake {
    struct net *net;
    struct pool requests;
    struct arena arena;
    struct list lines[LINE_COUNT];
    enum intake_line served; /* in turn, last */
    uint32_t conn_requests_max;
};

enum { INTAKE_CLIENTS, INTAKE_NODES, INTAKE_COUNT };

struct intake *intake_of(struct net *n, net_endpoint from);

/* A request with `pages` of memory, or NULL: not now. A conn that is refused stands in line and is
 * woken; conn NULL: for the first of LINE_LOCALS. */
struct request *intake_admit(struct intake *in, struct conn *conn, uint32_t pages);
void intake_leave(struct conn *conn); /* no more in line */
void intake_wake(struct intake *in);  /* something was given back, or the line moved */

/* It came whole: hand it to the handler, or refuse another incarnation's. */
void request_handle(struct request *r);
void request_sending(struct request *r);
void request_leave_conn(struct request *r);
void request_finish(struct request *r); /* replied() and request_free(), from the run queue */
void request_free(struct request *r);   /* at once; nobody has seen it, or all is done */

/* ---- Connections ---- */

enum conn_state { CONN_OPEN, CONN_CLOSING /* until the socket gave everything back */ };

/* What the next bytes are. */
enum rx_state { RX_HEADER, RX_ADMIT, RX_BODY, RX_DATA };

struct conn {
    struct net *net;
    struct stage stage;
    struct list link; /* net->conns */
    struct task task;
    enum conn_state state;

    struct peer *peer; /* client role: whose connection this is; NULL once lost, or server role */
    bool is_client;
    struct intake *intake; /* server role */
    struct list intake_link;
    net_endpoint remote;
    uint32_t remote_node;
    struct loop_addr remote_advertise;
    uint16_t version;
    uint32_t requests; /* server role: admitted and not freed */

    struct loop_timer timer;
    bool tick;
    uint64_t tick_due_ns;
    uint64_t opened_ns, heard_ns, sent_ns, used_ns;
    uint64_t rx_since_ns, send_since_ns; /* of what is under way */

    struct loop_op recv;
    bool recv_busy, recv_came, recv_direct;
    struct loop_op send;
    bool send_busy, send_came, ping;

    /* Receiving. */
    enum rx_state rx;
    uint32_t rx_begin, rx_end; /* bytes in rx_buf not yet taken */
    struct frame rx_frame;
    uint8_t *rx_dst; /* where the rest of this part goes; NULL: nowhere */
    uint32_t rx_left;
    struct rpc_call *rx_call;   /* client role: whose answer it is; NULL: nobody's any more */
    struct request *rx_request; /* server role */

    /* Sending: calls in client role, requests' answers in server role. */
    struct list queue;
    struct list sending;
    struct list waiting; /* client role: sent; server role: being handled */
    uint32_t preface_len;
    uint8_t preface[HELLO_WELCOME_SIZE]; /* server role: the handshake's last word */
    uint8_t ping_header[FRAME_HEADER];
    struct iovec iov[CONN_IOV_MAX];

    uint8_t *rx_buf;
};

/* Client role: to_peer. Server role: to_peer is NULL and hello holds the welcome to send. */
struct conn *conn_create(struct net *n, const struct stage *stage, const struct hello *h,
                         struct peer *to_peer);
void conn_lose(struct conn *c, int why,
               const char *reason); /* reason: for the log; NULL: no line */
void conn_send_call(struct conn *c, struct rpc_call *call);
void conn_send_reply(struct conn *c, struct request *r);
void conn_forget_call(struct conn *c, struct rpc_call *call); /* it ended by itself */
void conn_destroy(struct conn *c);                            /* memory only */

/* ---- Handshakes ---- */

/* Moves the bytes of one handshake, one op at a time. The owner's task is woken when one is done.
 */
struct shake {
    struct stage stage;
    struct hello hello;
    struct loop_op op;
    struct iovec iov;
    bool busy, came, sending;
    int error;
    struct task *task;
};

void shake_init(struct shake *s, struct loop *loop, struct loop_conn *conn, struct task *task);
/* Go on. True: there is nothing more to move: hello's state, or error, tells why. Not while busy.
 */
bool shake_step(struct shake *s);

/* ---- Peers ---- */

enum peer_state {
    PEER_IDLE,       /* anybody to want it */
    PEER_UNKNOWN,    /* an address: net_kick() */
    PEER_BACKOFF,    /* its time */
    PEER_CONNECTING, /* the attempt */
    PEER_UP,         /* nothing; until conn is lost */
    PEER_STATES,
};

struct attempt;

struct peer {
    struct net *net;
    net_endpoint endpoint;
    struct hash_link by_endpoint;
    struct list link; /* net->peers, in order of first use */
    struct task task;
    enum peer_state state;
    bool wanted, kicked;
    struct net *local; /* in this process: never connected to */
    uint32_t calls;
    struct list waiting; /* calls */
    struct conn *conn;
    int lost; /* why, until peer_step() has seen it */
    uint32_t incarnation;
    struct attempt *attempt;
    uint32_t attempts; /* in the kernel, abandoned ones too */
    struct loop_timer timer;
    uint64_t backoff_ns;
    uint64_t not_before_ns;
};

struct peer *peer_get(struct net *n, net_endpoint e); /* makes it at first use */
void peer_send_call(struct peer *p, struct rpc_call *c);
void peer_conn_lost(struct peer *p, int why); /* conn is gone */
void peer_kick(struct peer *p);
void peer_destroy(struct peer *p);       /* memory only */
void attempt_destroy_all(struct net *n); /* memory only */

/* ---- In-process ---- */

void local_lend(struct rpc_call *c, struct net *to);
void local_serve(struct net *n); /* admit what has been handed over */
void local_reply(struct request *r);

/* ---- The net ---- */

/* A handshake that the acceptor has finished; the acceptor's memory, lent by loop_post(). */
struct arrival {
    struct loop_msg msg;
    struct list link;
    struct net *net;
    struct shake *shake;
    struct loop *home;
    bool refused; /* the net has no room for it: the connection is moved back */
    void (*returned)(struct loop_msg *msg); /* on home */
};

void net_arrive(struct net *n, struct arrival *a);

struct net {
    struct net_config config;
    struct task task;
    struct list peers;
    struct hash peers_by_endpoint;
    struct hash calls_by_id;
    uint64_t id_last;
    struct list conns;
    uint32_t conns_incoming;
    struct list attempts;
    struct list arrivals;
    struct intake intakes[INTAKE_COUNT];
    struct arena replies;
    char name[32]; /* for log lines */
};

static inline struct loop *net_loop(const struct net *n)
{
    return n->config.loop;
}

enum { NET_ENDPOINT_STR = 32 };
const char *net_endpoint_str(net_endpoint e, char dst[NET_ENDPOINT_STR]); /* "osd.3" */

#endif /* NET_IMPL_H */
