#include "net/hello.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "base/check.h"
#include "base/crc32c.h"

/*
 * Server:  AWAIT_HELLO --good--> AWAIT_PROOF --good--> AWAIT_ROUTE --decided--> WELCOMED
 * Client:  AWAIT_REPLY --good--> AWAIT_WELCOME --good--> WELCOMED
 * All:     any --refuses, is refused, or does not understand--> REFUSED
 *
 * HELLO, 128 bytes:
 *    0 u32 magic "SKHI"   4 u16 message 1    6 u16 version_min   8 u16 version_max  10 u16 0
 *   12 u32 node          16 u8[16] cluster  32 u64 from         40 u64 target
 *   48 u32 incarnation   52 u8[16] advertised ip                68 u16 advertised port  70 u16 0
 *   72 u8[32] nonce     104 u8[20] 0       124 u32 crc32c of bytes 0..123
 * HELLO_REPLY, 128 bytes:
 *    0 u32 magic          4 u16 message 2    6 u16 version_min   8 u16 version_max
 *   10 u16 version in use, 0: none          12 u32 verdict      16 u8[16] cluster
 *   32 u64 target, repeated                 40 u64 0            48 u8[32] nonce
 *   80 u8[32] proof, zeros unless OK       112 u8[12] 0        124 u32 crc32c of bytes 0..123
 * PROOF, 64 bytes:
 *    0 u32 magic          4 u16 message 3    6 u16 0             8 u32 verdict
 *   12 u32 0             16 u8[32] proof, zeros unless OK       48 u8[12] 0
 *   60 u32 crc32c of bytes 0..59
 * WELCOME, 64 bytes:
 *    0 u32 magic          4 u16 message 4    6 u16 0             8 u32 verdict
 *   12 u32 node          16 u32 incarnation 20 u8[40] 0         60 u32 crc32c of bytes 0..59
 *
 * In every version to come magic, message and the version fields stay where they are, and so do
 * the sizes of HELLO and HELLO_REPLY: else two versions could not even tell each other so. The crcs
 * only tell damage and strangers apart from us early; the proofs are what is trusted.
 */

#define HELLO_MAGIC 0x49484b53u /* "SKHI" */

enum { MESSAGE_HELLO = 1, MESSAGE_REPLY = 2, MESSAGE_PROOF = 3, MESSAGE_WELCOME = 4 };

static_assert(HELLO_SIZE >= HELLO_PROOF_SIZE && HELLO_SIZE >= HELLO_WELCOME_SIZE,
              "one buffer holds any message");

#define CAN_MOVE_TO(state) (1u << (state))

static const uint32_t hello_moves[HELLO_STATES] = {
    [HELLO_AWAIT_HELLO] = CAN_MOVE_TO(HELLO_AWAIT_PROOF) | CAN_MOVE_TO(HELLO_REFUSED),
    [HELLO_AWAIT_REPLY] = CAN_MOVE_TO(HELLO_AWAIT_WELCOME) | CAN_MOVE_TO(HELLO_REFUSED),
    [HELLO_AWAIT_PROOF] = CAN_MOVE_TO(HELLO_AWAIT_ROUTE) | CAN_MOVE_TO(HELLO_REFUSED),
    [HELLO_AWAIT_ROUTE] = CAN_MOVE_TO(HELLO_WELCOMED) | CAN_MOVE_TO(HELLO_REFUSED),
    [HELLO_AWAIT_WELCOME] = CAN_MOVE_TO(HELLO_WELCOMED) | CAN_MOVE_TO(HELLO_REFUSED),
};

const char *hello_verdict_text(enum hello_verdict v)
{
    static const char *const text[HELLO_VERDICTS] = {
        [HELLO_OK] = "welcome",
        [HELLO_BAD_VERSION] = "no protocol version in common",
        [HELLO_BAD_CLUSTER] = "another cluster",
        [HELLO_BAD_SECRET] = "wrong cluster secret",
        [HELLO_BAD_ENDPOINT] = "the target is not served there",
        [HELLO_BUSY] = "too many connections",
        [HELLO_MALFORMED] = "not a valid handshake",
    };

    check((unsigned)v < HELLO_VERDICTS);
    return text[v];
}

int hello_verdict_error(enum hello_verdict v)
{
    switch (v) {
    case HELLO_OK:
        return 0;
    case HELLO_BAD_VERSION:
        return -EPROTONOSUPPORT;
    case HELLO_BAD_CLUSTER:
    case HELLO_BAD_SECRET:
        return -EACCES;
    case HELLO_BAD_ENDPOINT:
    case HELLO_BUSY:
    case HELLO_MALFORMED:
    case HELLO_VERDICTS:
        break;
    }
    return -EPIPE;
}

static void hello_move(struct hello *h, enum hello_state next)
{
    check(hello_moves[h->state] & CAN_MOVE_TO(next));
    check((next == HELLO_REFUSED) == (h->verdict != HELLO_OK));
    h->state = next;
}

static void hello_refuse(struct hello *h, enum hello_verdict v, bool by_peer)
{
    h->verdict = v;
    h->refused_by_peer = by_peer;
    hello_move(h, HELLO_REFUSED);
}

/* ---- Messages ---- */

static void message_begin(struct hello *h, uint16_t message, uint32_t size)
{
    check(h->out_len == 0);
    memset(h->out, 0, sizeof(h->out));
    h->out_len = size;
    put_u32(h->out, HELLO_MAGIC);
    put_u16(h->out + 4, message);
}

static void message_end(struct hello *h)
{
    put_u32(h->out + h->out_len - 4, crc32c(0, h->out, h->out_len - 4));
}

static bool message_is(const struct hello *h, uint16_t message)
{
    uint32_t size = h->in_need;
    return get_u32(h->in) == HELLO_MAGIC && get_u16(h->in + 4) == message &&
           get_u32(h->in + size - 4) == crc32c(0, h->in, size - 4);
}

static void hello_proof(const struct hello *h, bool of_server, uint8_t proof[HELLO_PROOF])
{
    static const char label_server[16] = "skerry server 1";
    static const char label_client[16] = "skerry client 1";
    uint8_t text[16 + 2 * HELLO_NONCE + HELLO_SIZE + HELLO_SIGNED];
    uint8_t *p = text;

    memcpy(p, of_server ? label_server : label_client, 16);
    memcpy(p += 16, h->hello + 72, HELLO_NONCE);
    memcpy(p += HELLO_NONCE, h->reply + 48, HELLO_NONCE);
    memcpy(p += HELLO_NONCE, h->hello, HELLO_SIZE);
    memcpy(p += HELLO_SIZE, h->reply, HELLO_SIGNED);
    check(p + HELLO_SIGNED == text + sizeof(text));

    int error = gnutls_hmac_fast(GNUTLS_MAC_SHA256, h->config.identity.secret,
                                 sizeof(h->config.identity.secret), text, sizeof(text), proof);
    check(error == 0); /* the algorithm is always there */
}

/* In constant time. */
static bool hello_proof_is(const struct hello *h, bool of_server, const uint8_t *claimed)
{
    uint8_t proof[HELLO_PROOF];

    hello_proof(h, of_server, proof);
    return gnutls_memcmp(proof, claimed, HELLO_PROOF) == 0;
}

static void hello_put_hello(struct hello *h)
{
    const struct hello_config *c = &h->config;

    message_begin(h, MESSAGE_HELLO, HELLO_SIZE);
    put_u16(h->out + 6, c->version_min);
    put_u16(h->out + 8, c->version_max);
    put_u32(h->out + 12, c->identity.node);
    memcpy(h->out + 16, c->identity.cluster, 16);
    put_u64(h->out + 32, c->self);
    put_u64(h->out + 40, c->target);
    put_u32(h->out + 48, c->incarnation);
    memcpy(h->out + 52, c->identity.advertise.ip, 16);
    put_u16(h->out + 68, c->identity.advertise.port);
    memcpy(h->out + 72, c->nonce, HELLO_NONCE);
    message_end(h);
    memcpy(h->hello, h->out, HELLO_SIZE);
}

static void hello_put_reply(struct hello *h, enum hello_verdict v)
{
    const struct hello_config *c = &h->config;

    message_begin(h, MESSAGE_REPLY, HELLO_SIZE);
    put_u16(h->out + 6, c->version_min);
    put_u16(h->out + 8, c->version_max);
    put_u16(h->out + 10, h->version);
    put_u32(h->out + 12, (uint32_t)v);
    memcpy(h->out + 16, c->identity.cluster, 16);
    put_u64(h->out + 32, h->target);
    memcpy(h->out + 48, c->nonce, HELLO_NONCE);
    memcpy(h->reply, h->out, HELLO_SIGNED);
    if (v == HELLO_OK)
        hello_proof(h, true, h->out + 80);
    message_end(h);
}

static void hello_put_proof(struct hello *h, enum hello_verdict v)
{
    message_begin(h, MESSAGE_PROOF, HELLO_PROOF_SIZE);
    put_u32(h->out + 8, (uint32_t)v);
    if (v == HELLO_OK)
        hello_proof(h, false, h->out + 16);
    message_end(h);
}

static void hello_put_welcome(struct hello *h, enum hello_verdict v, uint32_t node,
                              uint32_t incarnation)
{
    message_begin(h, MESSAGE_WELCOME, HELLO_WELCOME_SIZE);
    put_u32(h->out + 8, (uint32_t)v);
    put_u32(h->out + 12, node);
    put_u32(h->out + 16, incarnation);
    message_end(h);
}

/* ---- What comes ---- */

static void hello_await(struct hello *h, uint32_t size)
{
    h->in_have = 0;
    h->in_need = size;
}

/* The highest version both speak; 0: none. */
static uint16_t hello_negotiate(const struct hello_config *c, uint16_t min, uint16_t max)
{
    uint16_t version = max < c->version_max ? max : c->version_max;
    return version >= min && version >= c->version_min ? version : 0;
}

static bool endpoint_kind_is(net_endpoint e, enum net_kind first, enum net_kind last)
{
    return net_endpoint_kind(e) >= first && net_endpoint_kind(e) <= last;
}

static enum hello_verdict hello_judge(struct hello *h)
{
    h->version = hello_negotiate(&h->config, get_u16(h->in + 6), get_u16(h->in + 8));
    if (h->version == 0)
        return HELLO_BAD_VERSION;
    if (memcmp(h->in + 16, h->config.identity.cluster, 16) != 0)
        return HELLO_BAD_CLUSTER;
    return HELLO_OK;
}

/* Server. */
static void hello_on_hello(struct hello *h)
{
    if (!message_is(h, MESSAGE_HELLO)) {
        hello_refuse(h, HELLO_MALFORMED, false);
        return;
    }
    h->node = get_u32(h->in + 12);
    h->from = get_u64(h->in + 32);
    h->target = get_u64(h->in + 40);
    h->incarnation = get_u32(h->in + 48);
    memcpy(h->advertise.ip, h->in + 52, 16);
    h->advertise.port = get_u16(h->in + 68);
    memcpy(h->hello, h->in, HELLO_SIZE);

    enum hello_verdict v = hello_judge(h);
    if (v == HELLO_OK && (!endpoint_kind_is(h->from, NET_CONTROL, NET_JOINER) ||
                          !endpoint_kind_is(h->target, NET_CONTROL, NET_OSD))) {
        hello_refuse(h, HELLO_MALFORMED, false);
        return;
    }
    hello_put_reply(h, v);
    if (v != HELLO_OK) {
        hello_refuse(h, v, false);
        return;
    }
    hello_await(h, HELLO_PROOF_SIZE);
    hello_move(h, HELLO_AWAIT_PROOF);
}

/* A peer's word on why it refuses; a word that makes no sense is none. */
static enum hello_verdict hello_peer_verdict(const struct hello *h, uint32_t at)
{
    uint32_t v = get_u32(h->in + at);
    return v < HELLO_MALFORMED ? (enum hello_verdict)v : HELLO_MALFORMED;
}

/* Client. */
static void hello_on_reply(struct hello *h)
{
    if (!message_is(h, MESSAGE_REPLY)) {
        hello_refuse(h, HELLO_MALFORMED, false);
        return;
    }
    enum hello_verdict v = hello_peer_verdict(h, 12);
    if (v != HELLO_OK) {
        hello_refuse(h, v, true);
        return;
    }
    uint16_t version = get_u16(h->in + 10);
    if (version < h->config.version_min || version > h->config.version_max ||
        get_u64(h->in + 32) != h->config.target) {
        hello_refuse(h, HELLO_MALFORMED, false);
        return;
    }
    h->version = version;
    memcpy(h->reply, h->in, HELLO_SIZE);
    v = hello_proof_is(h, true, h->in + 80) ? HELLO_OK : HELLO_BAD_SECRET;
    hello_put_proof(h, v);
    if (v != HELLO_OK) {
        hello_refuse(h, v, false);
        return;
    }
    hello_await(h, HELLO_WELCOME_SIZE);
    hello_move(h, HELLO_AWAIT_WELCOME);
}

/* Server. */
static void hello_on_proof(struct hello *h)
{
    if (!message_is(h, MESSAGE_PROOF)) {
        hello_refuse(h, HELLO_MALFORMED, false);
        return;
    }
    enum hello_verdict v = hello_peer_verdict(h, 8);
    if (v != HELLO_OK) {
        hello_refuse(h, v, true);
        return;
    }
    if (!hello_proof_is(h, false, h->in + 16)) {
        hello_put_welcome(h, HELLO_BAD_SECRET, 0, 0);
        hello_refuse(h, HELLO_BAD_SECRET, false);
        return;
    }
    hello_await(h, 0);
    hello_move(h, HELLO_AWAIT_ROUTE);
}

/* Client. */
static void hello_on_welcome(struct hello *h)
{
    if (!message_is(h, MESSAGE_WELCOME)) {
        hello_refuse(h, HELLO_MALFORMED, false);
        return;
    }
    enum hello_verdict v = hello_peer_verdict(h, 8);
    if (v != HELLO_OK) {
        hello_refuse(h, v, true);
        return;
    }
    h->node = get_u32(h->in + 12);
    h->incarnation = get_u32(h->in + 16);
    hello_await(h, 0);
    hello_move(h, HELLO_WELCOMED);
}

/* ---- The owner's side ---- */

static void hello_init(struct hello *h, const struct hello_config *config, bool is_server)
{
    *h = (struct hello){
        .config = *config,
        .is_server = is_server,
        .state = is_server ? HELLO_AWAIT_HELLO : HELLO_AWAIT_REPLY,
    };
    hello_await(h, HELLO_SIZE);
}

void hello_client_init(struct hello *h, const struct hello_config *config)
{
    hello_init(h, config, false);
    h->target = config->target;
    hello_put_hello(h);
}

void hello_server_init(struct hello *h, const struct hello_config *config)
{
    hello_init(h, config, true);
}

uint32_t hello_output(const struct hello *h, const uint8_t **out)
{
    *out = h->out;
    return h->out_len;
}

void hello_output_sent(struct hello *h)
{
    h->out_len = 0;
}

uint32_t hello_room(struct hello *h, uint8_t **room)
{
    if (h->state == HELLO_WELCOMED || h->state == HELLO_REFUSED)
        return 0;
    *room = h->in + h->in_have;
    return h->in_need - h->in_have;
}

void hello_input(struct hello *h, uint32_t len)
{
    check(h->out_len == 0);
    check(len <= h->in_need - h->in_have);

    h->in_have += len;
    if (h->in_have < h->in_need)
        return;

    switch (h->state) {
    case HELLO_AWAIT_HELLO:
        hello_on_hello(h);
        return;
    case HELLO_AWAIT_REPLY:
        hello_on_reply(h);
        return;
    case HELLO_AWAIT_PROOF:
        hello_on_proof(h);
        return;
    case HELLO_AWAIT_WELCOME:
        hello_on_welcome(h);
        return;
    case HELLO_AWAIT_ROUTE:
    case HELLO_WELCOMED:
    case HELLO_REFUSED:
    case HELLO_STATES:
        never("input that nobody awaits");
    }
}

void hello_decide(struct hello *h, enum hello_verdict verdict, uint32_t node, uint32_t incarnation)
{
    check(h->state == HELLO_AWAIT_ROUTE);

    hello_put_welcome(h, verdict, node, incarnation);
    if (verdict != HELLO_OK)
        hello_refuse(h, verdict, false);
    else
        hello_move(h, HELLO_WELCOMED);
}
