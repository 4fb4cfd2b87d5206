/*
 * The NBD protocol's bytes: fixed newstyle negotiation, requests, simple replies.
 * Pure: bytes in, bytes out, no I/O, nothing allocated; fuzzed by tests/fuzz/fuzz_gw_nbd.c.
 *
 * Everything is big-endian. The handshake, as far as we speak it:
 *
 *   server  "NBDMAGIC" "IHAVEOPT" u16 flags
 *   client  u32 flags
 *   client  "IHAVEOPT" u32 option  u32 len  payload          any number of times
 *   server  u64 0x3e889045565a9  u32 option  u32 type  u32 len  payload     one or more for each,
 *           but EXPORT_NAME, which is answered by u64 size u16 flags and 124 zeros unless NO_ZEROES
 *
 * and then
 *
 *   client  u32 0x25609513  u16 flags  u16 type  u64 cookie  u64 offset  u32 len  [data of a WRITE]
 *   server  u32 0x67446698  u32 error  u64 cookie  [data of a READ that succeeded]
 *
 * A payload is looked at only when all of it is there. An option that is unknown,
 * or too long to be sensible, is answered with an error and its payload dropped; beyond
 * NBD_PAYLOAD_DROP_MAX the connection ends.
 */

#ifndef GW_NBD_PROTO_H
#define GW_NBD_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    NBD_GREETING_SIZE = 18,
    NBD_OPTION_HEADER_SIZE = 16,
    NBD_REQUEST_SIZE = 28,
    NBD_REPLY_SIZE = 16,
    NBD_NAME_MAX = 129,             /* with the terminator: DESIGN.md section 17 */
    NBD_PAYLOAD_MAX = 8192,         /* of an option that we read: a name of 4,096 and a list */
    NBD_PAYLOAD_DROP_MAX = 1 << 20, /* of one that we do not */
    NBD_OUT_MAX = 1024,
    NBD_LEN_MAX = 32 << 20, /* of a READ or WRITE */
    NBD_BLOCK_PREFERRED = 4096,
};

enum nbd_command_type {
    NBD_READ = 0,
    NBD_WRITE = 1,
    NBD_DISC = 2,
    NBD_FLUSH = 3,
    NBD_TRIM = 4,
    NBD_WRITE_ZEROES = 6
};

enum nbd_error {
    NBD_OK = 0,
    NBD_EIO = 5,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
};

/* ---- Negotiation ---- */

/* What a negotiation waits for. */
enum nbd_ask {
    NBD_ASK_MORE,     /* bytes from the client: nbd_negotiation_feed() */
    NBD_ASK_EXPORT,   /* the export `name`: nbd_negotiation_found() or _not_found() */
    NBD_ASK_LIST,     /* the names of all exports: _list_name() for each, then _list_end() */
    NBD_ASK_TRANSMIT, /* nothing: after `out` has been sent, requests follow */
    NBD_ASK_CLOSE     /* nothing: after `out` has been sent, the connection ends */
};

struct nbd_negotiation {
    enum nbd_ask ask;
    char name[NBD_NAME_MAX]; /* valid with NBD_ASK_EXPORT */
    uint8_t out[NBD_OUT_MAX];
    uint32_t out_len; /* bytes to be sent, and set to 0, before the next call */

    /* Private. */
    bool has_flags;
    bool no_zeroes;
    bool wants_name, wants_block_size;
    uint32_t option;
    uint32_t drop; /* bytes of a payload still to be dropped */
};

/* The greeting is in `out`. */
void nbd_negotiation_init(struct nbd_negotiation *n);

/*
 * Take what can be taken of `data`: at most one option. Returns the number of
 * bytes used; 0 with NBD_ASK_MORE: more is needed than there is (never more than
 * NBD_OPTION_HEADER_SIZE + NBD_PAYLOAD_MAX). Only with NBD_ASK_MORE and an empty `out`.
 */
size_t nbd_negotiation_feed(struct nbd_negotiation *n, const uint8_t *data, size_t len);

void nbd_negotiation_found(struct nbd_negotiation *n, uint64_t size);
void nbd_negotiation_not_found(struct nbd_negotiation *n);

/* False: `out` is full, send it first. */
bool nbd_negotiation_list_name(struct nbd_negotiation *n, const char *name);
bool nbd_negotiation_list_end(struct nbd_negotiation *n);

/* ---- Requests and replies ---- */

struct nbd_command {
    uint16_t flags;
    uint16_t type; /* enum nbd_command_type, if nbd_command_check() says so */
    uint64_t cookie;
    uint64_t offset;
    uint32_t len;
};

/* False: this is not a request; the stream is lost. */
bool nbd_command_parse(const uint8_t p[NBD_REQUEST_SIZE], struct nbd_command *out);

/* What to answer at once for an export of `size` bytes; NBD_OK: carry it out. */
enum nbd_error nbd_command_check(const struct nbd_command *cmd, uint64_t size);

void nbd_reply_put(uint8_t p[NBD_REPLY_SIZE], uint64_t cookie, enum nbd_error error);

#endif /* GW_NBD_PROTO_H */
