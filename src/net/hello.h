/*
 * The handshake: who is there, on which cluster, and does he know the secret.
 *
 *     client                                server
 *       HELLO  {versions, cluster, from, target, nonce}  ->
 *                    <-  HELLO_REPLY {verdict, version, nonce, proof}
 *       PROOF  {verdict, proof}                          ->
 *                    <-  WELCOME {verdict, node, incarnation}
 *
 * A proof is HMAC-SHA256(secret, label | client's nonce | server's nonce | HELLO | first 80 bytes
 * of HELLO_REPLY). The label differs by role, so that no proof can be sent back; the transcript
 * binds versions, endpoints and addresses. Either side that refuses says why in a verdict, so that
 * both can tell the operator; before its own proof is given a server tells only version and
 * cluster.
 *
 * Layouts: hello.c and net/README.md. Sizes are fixed and small: what an unauthenticated peer can
 * make us hold is one of these structs.
 *
 * Pure: bytes in, bytes out. The owner moves bytes as hello_output() and hello_room() ask, and
 * bounds the time.
 */

#ifndef NET_HELLO_H
#define NET_HELLO_H

#include "net/rpc.h"

enum {
    HELLO_SIZE = 128, /* HELLO and HELLO_REPLY */
    HELLO_PROOF_SIZE = 64,
    HELLO_WELCOME_SIZE = 64,
    HELLO_NONCE = 32,
    HELLO_PROOF = 32,
    HELLO_SIGNED = 80, /* of HELLO_REPLY: all before its proof */
};

/* On the wire; 0 is the only good one. */
enum hello_verdict {
    HELLO_OK = 0,
    HELLO_BAD_VERSION = 1,
    HELLO_BAD_CLUSTER = 2,
    HELLO_BAD_SECRET = 3,
    HELLO_BAD_ENDPOINT = 4, /* the target is not served here (now) */
    HELLO_BUSY = 5,
    HELLO_MALFORMED = 6, /* never sent: what came is no handshake of ours */
    HELLO_VERDICTS,
};

/* A state is named after what it awaits. */
enum hello_state {
    HELLO_AWAIT_HELLO,   /* server: the client's hello */
    HELLO_AWAIT_REPLY,   /* client: the server's answer and proof */
    HELLO_AWAIT_PROOF,   /* server: the client's proof */
    HELLO_AWAIT_ROUTE,   /* server: hello_decide(), from its owner */
    HELLO_AWAIT_WELCOME, /* client: the last word */
    HELLO_WELCOMED,      /* nothing: verdict is HELLO_OK, once the output is sent */
    HELLO_REFUSED,       /* nothing: the verdict says why, once the output is sent */
    HELLO_STATES,
};

struct hello_config {
    struct net_identity identity;
    net_endpoint self;   /* client */
    net_endpoint target; /* client: whom it wants */
    uint32_t incarnation;
    uint16_t version_min, version_max;
    uint8_t nonce[HELLO_NONCE]; /* fresh random bytes for each handshake */
};

struct hello {
    struct hello_config config;
    bool is_server;
    enum hello_state state;
    enum hello_verdict verdict;
    bool refused_by_peer; /* the verdict is the peer's word, not ours */

    /* What the peer said: authentic from HELLO_AWAIT_ROUTE or HELLO_AWAIT_WELCOME on. */
    uint16_t version;
    net_endpoint from;   /* server: the client */
    net_endpoint target; /* server: whom the client wants */
    uint32_t node;
    uint32_t incarnation;
    struct loop_addr advertise;

    /* Private. */
    uint8_t hello[HELLO_SIZE]; /* the transcript */
    uint8_t reply[HELLO_SIZE];
    uint8_t in[HELLO_SIZE];
    uint32_t in_have, in_need;
    uint8_t out[HELLO_SIZE];
    uint32_t out_len;
};

/* Versions of this program, and everything else left for the caller to set. */
void hello_client_init(struct hello *h, const struct hello_config *config);
void hello_server_init(struct hello *h, const struct hello_config *config);

/* Bytes to send, all of them, before anything else; then hello_output_sent(). 0: none. */
uint32_t hello_output(const struct hello *h, const uint8_t **out);
void hello_output_sent(struct hello *h);

/* Where the next bytes go and how many at most; 0: none are awaited. Then hello_input(). */
uint32_t hello_room(struct hello *h, uint8_t **room);
void hello_input(struct hello *h, uint32_t len);

/* Server, in HELLO_AWAIT_ROUTE: welcome the client, or refuse it with ENDPOINT or BUSY. */
void hello_decide(struct hello *h, enum hello_verdict verdict, uint32_t node, uint32_t incarnation);

/* "another cluster", for log lines. */
const char *hello_verdict_text(enum hello_verdict v);

/* What calls that waited for the connection end with. */
int hello_verdict_error(enum hello_verdict v);

#endif /* NET_HELLO_H */
