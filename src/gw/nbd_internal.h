/*
 * What the files of the NBD gateway share.
 *
 *   nbd.c          the server: listeners, memory, stop
 *   nbd_conn.c     a connection: negotiation, requests in, replies out
 *   nbd_request.c  a request, cut into pieces
 *   nbd_proto.c    the bytes
 */

#ifndef GW_NBD_INTERNAL_H
#define GW_NBD_INTERNAL_H

#include "base/pool.h"
#include "gw/nbd.h"
#include "gw/nbd_proto.h"

enum {
    NBD_CONNECTIONS_DEFAULT = 256,
    NBD_MEMORY_DEFAULT = 64 << 20,
    NBD_DEPTH_MAX = 64, /* requests in flight for one connection */
    NBD_SMALL_SIZE = 4096,
    NBD_LARGE_SIZE = 128 << 10,
    NBD_WINDOW = 8,           /* pieces of one request in flight */
    NBD_ZERO_SIZE = 32 << 20, /* bytes of one piece of a TRIM or WRITE_ZEROES */
    NBD_RECEIVE_SIZE = 16 << 10,
    NBD_IOV_MAX = 128,
    NBD_SEND_MAX = 1 << 20, /* bytes of one send, about */
    NBD_HANDSHAKE_MS = 10 * 1000,
    NBD_SEND_MS = 60 * 1000, /* a client that takes nothing for so long is dropped */
    NBD_LOOKUP_MS = 20,      /* between looks for an export that is not known yet */
    NBD_UNKNOWN_MS = 250,    /* an image may be newer than our map: look for so long */
    NBD_ACCEPT_RETRY_MS = 100,
};

/* What a piece's bytes lie in. Each class is a pool, and has its own queue of who waits for it. */
enum nbd_memory { NBD_MEMORY_NONE, NBD_MEMORY_SMALL, NBD_MEMORY_LARGE, NBD_MEMORIES };

enum nbd_piece_state {
    NBD_PIECE_IDLE,    /* in request.idle: the next range of the request */
    NBD_PIECE_FILLING, /* data from the socket */
    NBD_PIECE_BUSY,    /* the backend's answer */
    NBD_PIECE_DONE,    /* its turn to be sent (READ) */
    NBD_PIECE_SENDING  /* the socket */
};

struct nbd_piece {
    struct client_op op;
    struct list link;          /* in request.pieces or request.idle */
    struct list finished_link; /* in conn.finished: its op came back, nobody has looked at it */
    struct nbd_request *request;
    enum nbd_piece_state state;
    enum nbd_memory memory;
    uint8_t *buf;
    uint32_t len, filled;
};

struct nbd_request {
    struct nbd_conn *conn;
    struct list link;       /* in conn.requests: all of them */
    struct list reply_link; /* in conn.replies: answered, in the order in which replies are sent */
    struct nbd_command cmd;
    enum nbd_error error;
    enum nbd_memory memory;
    struct list pieces; /* in order of offset */
    struct list idle;
    uint64_t cut;      /* bytes given to pieces */
    uint64_t received; /* bytes of a WRITE's data taken from the socket */
    uint64_t sent;     /* bytes of a READ's data that have left */
    uint32_t busy;     /* pieces that the backend has */
    bool answered;
    bool header_is_sending, header_is_sent;
    uint8_t header[NBD_REPLY_SIZE];
};

enum nbd_conn_state {
    NBD_CONN_NEGOTIATING,
    NBD_CONN_TRANSMITTING,
    NBD_CONN_ENDING, /* reads no more; waits for its requests to be answered */
    NBD_CONN_CLOSING /* its socket is closed; waits for its ops to come back */
};

struct nbd_conn {
    struct nbd_server *server;
    struct list link; /* in server.conns */
    struct task task;
    enum nbd_conn_state state;

    struct loop_conn *socket;
    struct loop_op receive_op, send_op;
    bool is_receiving, is_sending;
    bool receive_is_done, send_is_done;
    struct nbd_piece *receive_into; /* NULL: into rx */
    struct loop_timer deadline;     /* of the handshake, then of each send */
    struct loop_timer lookup;       /* the export is looked for again */
    bool is_late;

    struct nbd_negotiation negotiation;
    uint64_t list_cursor;
    char list_name[META_NAME_MAX]; /* did not fit any more; "" if none */
    uint64_t unknown_until_ns;

    struct client_image *image;
    uint64_t size;

    struct list requests, replies;
    uint32_t requests_count;
    uint32_t ops_count; /* with the backend */
    uint32_t held[NBD_MEMORIES];
    struct list finished;
    struct nbd_request *writing; /* whose data the socket brings */
    struct nbd_piece *filling;
    struct list memory_link; /* in server.waiters[memory_wanted]: waits for a buffer */
    enum nbd_memory memory_wanted;

    uint32_t rx_start, rx_end; /* what of rx is not used yet */
    int iov_count;
    struct iovec iov[NBD_IOV_MAX];
    uint8_t rx[NBD_RECEIVE_SIZE];
};

struct nbd_accept {
    struct nbd_server *server;
    struct loop_listener *listener;
    struct task task;
    struct loop_op op;
    struct loop_timer retry;
    bool is_waiting, is_done;
};

enum { NBD_LISTENERS_MAX = 2 };

struct nbd_server {
    struct nbd_server_config config;
    struct loop *loop;
    struct nbd_backend *backend;
    struct nbd_accept accepts[NBD_LISTENERS_MAX];
    uint32_t accepts_count;
    bool is_stopping;
    struct loop *stop_to;
    struct loop_msg *stop_msg;
    struct list conns;
    struct pool conns_pool, requests_pool, pieces_pool;
    struct pool buffers[NBD_MEMORIES]; /* NONE: unused */
    struct list waiters[NBD_MEMORIES]; /* nbd_conn.memory_link, in order of arrival */
    uint32_t held_max;                 /* large buffers of one connection */
    struct nbd_status status;
};

/* nbd.c */
struct nbd_piece *nbd_piece_get(struct nbd_conn *c,
                                enum nbd_memory memory); /* NULL: none is free */
void nbd_piece_put(struct nbd_conn *c, struct nbd_piece *p);
/* There was no piece: this connection is woken when there is. */
void nbd_memory_wait(struct nbd_conn *c, enum nbd_memory memory);
void nbd_memory_stop_waiting(struct nbd_conn *c);
void nbd_server_conn_gone(struct nbd_server *s);

/* nbd_conn.c */
void nbd_conn_start(struct nbd_server *s, struct loop_conn *socket);
void nbd_conn_end(struct nbd_conn *c); /* answer what is in flight, then close */

/* nbd_request.c */

/* NULL: no memory now; the connection is woken when there may be. */
struct nbd_request *nbd_request_start(struct nbd_conn *c, const struct nbd_command *cmd,
                                      enum nbd_error error);
void nbd_request_free(struct nbd_request *r);

/* A WRITE's next piece to be filled, NULL: wait for one to come back. */
struct nbd_piece *nbd_request_next_piece(struct nbd_request *r);
void nbd_request_piece_is_filled(struct nbd_request *r, struct nbd_piece *p);

/* A piece came back from the backend. False: the connection is to be dropped. */
bool nbd_request_take_result(struct nbd_request *r, struct nbd_piece *p);

/* A piece of a READ has left. */
void nbd_request_piece_is_sent(struct nbd_request *r, struct nbd_piece *p);

/* The whole of its reply has left. */
bool nbd_request_is_sent(const struct nbd_request *r);

#endif /* GW_NBD_INTERNAL_H */
