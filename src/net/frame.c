#include "net/frame.h"

#include <errno.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "net/rpc.h"

enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_KIND = 6,
    AT_TYPE = 8,
    AT_EPOCH = 12,
    AT_ID = 16,
    AT_PG = 24,
    AT_REVISION = 32,
    AT_FROM = 40,
    AT_TO = 44,
    AT_STATUS = 48,
    AT_BODY_LEN = 52,
    AT_DATA_LEN = 56,
    AT_RESERVED = 60,
    AT_RESERVED_2 = 68,
    AT_BODY_CRC = 72,
    AT_CRC = 76,
};

static_assert(AT_CRC + sizeof(uint32_t) == FRAME_HEADER, "the header's crc is its last field");
static_assert(sizeof(((struct rpc_call *)0)->header) == FRAME_HEADER, "a call has room for it");

void frame_encode(const struct frame *f, uint8_t header[FRAME_HEADER])
{
    check(f->body_len <= NET_BODY_MAX && f->data_len <= NET_DATA_MAX);
    check(f->status <= 0);

    put_u32(header + AT_MAGIC, FRAME_MAGIC);
    put_u16(header + AT_VERSION, f->version);
    put_u16(header + AT_KIND, f->kind);
    put_u32(header + AT_TYPE, (uint32_t)f->type);
    put_u32(header + AT_EPOCH, f->epoch);
    put_u64(header + AT_ID, f->id);
    put_u64(header + AT_PG, f->pg);
    put_u64(header + AT_REVISION, f->revision);
    put_u32(header + AT_FROM, f->from_incarnation);
    put_u32(header + AT_TO, f->to_incarnation);
    put_u32(header + AT_STATUS, (uint32_t)f->status);
    put_u32(header + AT_BODY_LEN, f->body_len);
    put_u32(header + AT_DATA_LEN, f->data_len);
    put_u64(header + AT_RESERVED, 0);
    put_u32(header + AT_RESERVED_2, 0);
    put_u32(header + AT_BODY_CRC, f->body_crc);
    put_u32(header + AT_CRC, crc32c(0, header, AT_CRC));
}

/* What each type allows beyond the limits of all. */
static bool frame_type_allows(const struct frame *f)
{
    switch (f->type) {
    case FRAME_REQUEST:
    case FRAME_ONEWAY:
        return f->id != 0 && f->status == 0;
    case FRAME_REPLY:
        return f->id != 0 && f->status <= 0 && f->status > -4096;
    case FRAME_PING:
        return f->id == 0 && f->status == 0 && f->body_len == 0 && f->data_len == 0;
    }
    return false;
}

int frame_decode(const uint8_t header[FRAME_HEADER], struct frame *out)
{
    if (get_u32(header + AT_MAGIC) != FRAME_MAGIC ||
        get_u32(header + AT_CRC) != crc32c(0, header, AT_CRC))
        return -EBADMSG;
    if (get_u16(header + AT_VERSION) != NET_VERSION)
        return -EPROTONOSUPPORT;

    uint32_t type = get_u32(header + AT_TYPE);
    if (type < FRAME_REQUEST || type > FRAME_PING)
        return -EPROTO;

    *out = (struct frame){
        .type = (enum frame_type)type,
        .version = get_u16(header + AT_VERSION),
        .kind = get_u16(header + AT_KIND),
        .epoch = get_u32(header + AT_EPOCH),
        .id = get_u64(header + AT_ID),
        .pg = get_u64(header + AT_PG),
        .revision = get_u64(header + AT_REVISION),
        .from_incarnation = get_u32(header + AT_FROM),
        .to_incarnation = get_u32(header + AT_TO),
        .status = (int32_t)get_u32(header + AT_STATUS),
        .body_len = get_u32(header + AT_BODY_LEN),
        .data_len = get_u32(header + AT_DATA_LEN),
        .body_crc = get_u32(header + AT_BODY_CRC),
    };
    if (out->body_len > NET_BODY_MAX || out->data_len > NET_DATA_MAX)
        return -EMSGSIZE;
    if (get_u64(header + AT_RESERVED) != 0 || get_u32(header + AT_RESERVED_2) != 0)
        return -EPROTO;
    return frame_type_allows(out) ? 0 : -EPROTO;
}

int frame_check_body(const struct frame *f, const void *body)
{
    uint32_t crc = f->body_len > 0 ? crc32c(0, body, f->body_len) : 0;
    return crc == f->body_crc ? 0 : -EBADMSG;
}
