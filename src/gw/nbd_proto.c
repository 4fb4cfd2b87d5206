#include "gw/nbd_proto.h"

#include <endian.h>
#include <string.h>

#include "base/check.h"

#define NBD_MAGIC        0x4e42444d41474943ull /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC 0x49484156454f5054ull /* "IHAVEOPT" */
#define NBD_ANSWER_MAGIC 0x0003e889045565a9ull

enum {
    NBD_REQUEST_MAGIC = 0x25609513,
    NBD_REPLY_MAGIC = 0x67446698,

    FLAG_FIXED_NEWSTYLE = 1,
    FLAG_NO_ZEROES = 2,

    OPT_EXPORT_NAME = 1,
    OPT_ABORT = 2,
    OPT_LIST = 3,
    OPT_INFO = 6,
    OPT_GO = 7,

    ANSWER_ACK = 1,
    ANSWER_SERVER = 2,
    ANSWER_INFO = 3,

    INFO_EXPORT = 0,
    INFO_NAME = 1,
    INFO_BLOCK_SIZE = 3,

    /* What every export can do: FUA costs nothing, as all writes are durable when
     * answered, on every gateway, which is also what makes several connections legal. */
    EXPORT_FLAGS = 1 << 0   /* there are flags */
                   | 1 << 2 /* FLUSH */
                   | 1 << 3 /* FUA */
                   | 1 << 5 /* TRIM */
                   | 1 << 6 /* WRITE_ZEROES */
                   | 1 << 8 /* several connections */
                   | 1 << 11 /* fast zero: to zero is never slower than to write */,

    COMMAND_FUA = 1 << 0,
    COMMAND_NO_HOLE = 1 << 1,
    COMMAND_FAST_ZERO = 1 << 4,

    ANSWER_HEADER_SIZE = 20,
    EXPORT_NAME_PADDING = 124,
};

#define ANSWER_ERR_UNSUP   0x80000001u
#define ANSWER_ERR_INVALID 0x80000003u
#define ANSWER_ERR_UNKNOWN 0x80000006u
#define ANSWER_ERR_TOO_BIG 0x80000009u

static uint16_t get_be16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return be16toh(v);
}

static uint32_t get_be32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static uint64_t get_be64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

static void put_be16(uint8_t *p, uint16_t v)
{
    v = htobe16(v);
    memcpy(p, &v, sizeof(v));
}

static void put_be32(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof(v));
}

static void put_be64(uint8_t *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof(v));
}

/* ---- Answers ---- */

static uint8_t *out_reserve(struct nbd_negotiation *n, uint32_t len)
{
    check(len <= NBD_OUT_MAX - n->out_len);

    uint8_t *p = n->out + n->out_len;
    n->out_len += len;
    return p;
}

static uint8_t *answer(struct nbd_negotiation *n, uint32_t type, uint32_t len)
{
    uint8_t *p = out_reserve(n, ANSWER_HEADER_SIZE + len);

    put_be64(p, NBD_ANSWER_MAGIC);
    put_be32(p + 8, n->option);
    put_be32(p + 12, type);
    put_be32(p + 16, len);
    return p + ANSWER_HEADER_SIZE;
}

/* The text is for people; clients show it beside the code. */
static void answer_error(struct nbd_negotiation *n, uint32_t type, const char *text)
{
    size_t len = strlen(text);

    memcpy(answer(n, type, (uint32_t)len), text, len);
    n->ask = NBD_ASK_MORE;
}

void nbd_negotiation_init(struct nbd_negotiation *n)
{
    memset(n, 0, sizeof(*n));
    n->ask = NBD_ASK_MORE;

    uint8_t *p = out_reserve(n, NBD_GREETING_SIZE);
    put_be64(p, NBD_MAGIC);
    put_be64(p + 8, NBD_OPTION_MAGIC);
    put_be16(p + 16, FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
}

/* ---- Options ---- */

static size_t take_client_flags(struct nbd_negotiation *n, const uint8_t *data, size_t len)
{
    if (len < 4)
        return 0;

    uint32_t flags = get_be32(data);
    n->has_flags = true;
    n->no_zeroes = (flags & FLAG_NO_ZEROES) != 0;
    if ((flags & ~(uint32_t)(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)) != 0)
        n->ask = NBD_ASK_CLOSE; /* it counts on something that we do not know */
    return 4;
}

static size_t take_dropped(struct nbd_negotiation *n, size_t len)
{
    size_t used = len < n->drop ? len : n->drop;

    n->drop -= (uint32_t)used;
    return used;
}

static void ask_export(struct nbd_negotiation *n, const uint8_t *name, uint32_t len)
{
    if (len >= NBD_NAME_MAX || memchr(name, 0, len) != NULL) {
        nbd_negotiation_not_found(n);
        return;
    }
    memcpy(n->name, name, len);
    n->name[len] = 0;
    n->ask = NBD_ASK_EXPORT;
    if (len == 0)
        nbd_negotiation_not_found(n);
}

/* INFO and GO: u32 length of the name, the name, u16 count, u16 each: what it wants to know. */
static void take_info(struct nbd_negotiation *n, const uint8_t *p, uint32_t len)
{
    uint32_t name_len = len >= 6 ? get_be32(p) : 0;

    if (len < 6 || name_len > len - 6) {
        answer_error(n, ANSWER_ERR_INVALID, "the option's length does not fit its name");
        return;
    }
    const uint8_t *wants = p + 4 + name_len;
    uint32_t wants_count = get_be16(wants);
    if (len - 6 - name_len != 2 * wants_count) {
        answer_error(n, ANSWER_ERR_INVALID, "the option's length does not fit its list");
        return;
    }
    n->wants_name = false;
    n->wants_block_size = false;
    for (uint32_t i = 0; i < wants_count; i++) {
        uint16_t type = get_be16(wants + 2 + 2 * (size_t)i);
        n->wants_name |= type == INFO_NAME;
        n->wants_block_size |= type == INFO_BLOCK_SIZE;
    }
    ask_export(n, p + 4, name_len);
}

static void take_option(struct nbd_negotiation *n, const uint8_t *payload, uint32_t len)
{
    switch (n->option) {
    case OPT_EXPORT_NAME:
        ask_export(n, payload, len);
        return;
    case OPT_INFO:
    case OPT_GO:
        take_info(n, payload, len);
        return;
    case OPT_LIST:
        if (len == 0)
            n->ask = NBD_ASK_LIST;
        else
            answer_error(n, ANSWER_ERR_INVALID, "LIST has no payload");
        return;
    case OPT_ABORT:
        answer(n, ANSWER_ACK, 0);
        n->ask = NBD_ASK_CLOSE;
        return;
    default:
        never("an unknown option was not refused");
    }
}

static bool option_is_known(uint32_t option)
{
    return option == OPT_EXPORT_NAME || option == OPT_ABORT || option == OPT_LIST ||
           option == OPT_INFO || option == OPT_GO;
}

/* Refuse an option unread. EXPORT_NAME knows no refusal but the end of the connection. */
static void refuse_option(struct nbd_negotiation *n, uint32_t len)
{
    if (n->option == OPT_EXPORT_NAME || len > NBD_PAYLOAD_DROP_MAX) {
        n->ask = NBD_ASK_CLOSE;
        return;
    }
    n->drop = len;
    if (option_is_known(n->option))
        answer_error(n, ANSWER_ERR_TOO_BIG, "the option's payload is too long");
    else
        answer_error(n, ANSWER_ERR_UNSUP, "this server does not know the option");
}

size_t nbd_negotiation_feed(struct nbd_negotiation *n, const uint8_t *data, size_t len)
{
    check(n->ask == NBD_ASK_MORE && n->out_len == 0);

    if (!n->has_flags)
        return take_client_flags(n, data, len);
    if (n->drop > 0)
        return take_dropped(n, len);
    if (len < NBD_OPTION_HEADER_SIZE)
        return 0;
    if (get_be64(data) != NBD_OPTION_MAGIC) {
        n->ask = NBD_ASK_CLOSE;
        return len;
    }
    n->option = get_be32(data + 8);

    uint32_t payload_len = get_be32(data + 12);
    if (!option_is_known(n->option) || payload_len > NBD_PAYLOAD_MAX) {
        refuse_option(n, payload_len);
        return NBD_OPTION_HEADER_SIZE;
    }
    if (len - NBD_OPTION_HEADER_SIZE < payload_len)
        return 0;
    take_option(n, data + NBD_OPTION_HEADER_SIZE, payload_len);
    return NBD_OPTION_HEADER_SIZE + payload_len;
}

static void answer_infos(struct nbd_negotiation *n, uint64_t size)
{
    uint8_t *p = answer(n, ANSWER_INFO, 12);
    put_be16(p, INFO_EXPORT);
    put_be64(p + 2, size);
    put_be16(p + 10, EXPORT_FLAGS);

    if (n->wants_name) {
        uint32_t len = (uint32_t)strlen(n->name);
        p = answer(n, ANSWER_INFO, 2 + len);
        put_be16(p, INFO_NAME);
        memcpy(p + 2, n->name, len);
    }
    if (n->wants_block_size) {
        p = answer(n, ANSWER_INFO, 14);
        put_be16(p, INFO_BLOCK_SIZE);
        put_be32(p + 2, 1);
        put_be32(p + 6, NBD_BLOCK_PREFERRED);
        put_be32(p + 10, NBD_LEN_MAX);
    }
    answer(n, ANSWER_ACK, 0);
}

void nbd_negotiation_found(struct nbd_negotiation *n, uint64_t size)
{
    check(n->ask == NBD_ASK_EXPORT);

    if (n->option == OPT_EXPORT_NAME) {
        uint32_t padding = n->no_zeroes ? 0 : EXPORT_NAME_PADDING;
        uint8_t *p = out_reserve(n, 10 + padding);
        put_be64(p, size);
        put_be16(p + 8, EXPORT_FLAGS);
        memset(p + 10, 0, padding);
    } else {
        answer_infos(n, size);
    }
    n->ask = n->option == OPT_INFO ? NBD_ASK_MORE : NBD_ASK_TRANSMIT;
}

void nbd_negotiation_not_found(struct nbd_negotiation *n)
{
    if (n->option == OPT_EXPORT_NAME)
        n->ask = NBD_ASK_CLOSE;
    else if (n->ask == NBD_ASK_EXPORT && n->name[0] == 0)
        answer_error(n, ANSWER_ERR_UNKNOWN,
                     "name an image: there is no default export; LIST shows the images");
    else
        answer_error(n, ANSWER_ERR_UNKNOWN,
                     "there is no image of this name; LIST shows the images");
}

bool nbd_negotiation_list_name(struct nbd_negotiation *n, const char *name)
{
    check(n->ask == NBD_ASK_LIST);

    uint32_t len = (uint32_t)strlen(name);
    check(len < NBD_NAME_MAX);
    if (NBD_OUT_MAX - n->out_len < ANSWER_HEADER_SIZE + 4 + len)
        return false;
    uint8_t *p = answer(n, ANSWER_SERVER, 4 + len);
    put_be32(p, len);
    memcpy(p + 4, name, len);
    return true;
}

bool nbd_negotiation_list_end(struct nbd_negotiation *n)
{
    check(n->ask == NBD_ASK_LIST);

    if (NBD_OUT_MAX - n->out_len < ANSWER_HEADER_SIZE)
        return false;
    answer(n, ANSWER_ACK, 0);
    n->ask = NBD_ASK_MORE;
    return true;
}

/* ---- Requests and replies ---- */

bool nbd_command_parse(const uint8_t p[NBD_REQUEST_SIZE], struct nbd_command *out)
{
    if (get_be32(p) != NBD_REQUEST_MAGIC)
        return false;
    out->flags = get_be16(p + 4);
    out->type = get_be16(p + 6);
    out->cookie = get_be64(p + 8);
    out->offset = get_be64(p + 16);
    out->len = get_be32(p + 24);
    return true;
}

/* The codes are the specification's: what is beyond the end is no space to a writer. */
enum nbd_error nbd_command_check(const struct nbd_command *cmd, uint64_t size)
{
    const bool is_outside = cmd->offset > size || cmd->len > size - cmd->offset;
    uint16_t flags_allowed = COMMAND_FUA;

    switch (cmd->type) {
    case NBD_READ:
        if (is_outside || cmd->len > NBD_LEN_MAX)
            return NBD_EINVAL;
        break;
    case NBD_WRITE:
        if (is_outside)
            return NBD_ENOSPC;
        break;
    case NBD_TRIM:
        if (is_outside)
            return NBD_EINVAL;
        break;
    case NBD_WRITE_ZEROES:
        flags_allowed |= COMMAND_NO_HOLE | COMMAND_FAST_ZERO;
        if (is_outside)
            return NBD_ENOSPC;
        break;
    case NBD_FLUSH:
    case NBD_DISC:
        break;
    default:
        return NBD_EINVAL;
    }
    return (cmd->flags & ~flags_allowed) != 0 ? NBD_EINVAL : NBD_OK;
}

void nbd_reply_put(uint8_t p[NBD_REPLY_SIZE], uint64_t cookie, enum nbd_error error)
{
    put_be32(p, NBD_REPLY_MAGIC);
    put_be32(p + 4, error);
    put_be64(p + 8, cookie);
}
