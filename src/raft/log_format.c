#include "raft/log_format.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"

enum {
    LOG_SEGMENT_MAGIC = 0x4d474553,
    LOG_RECORD_MAGIC = 0x44524352,
    LOG_VERSION = 1,
    LOG_CRC_AT = 60,
};

static_assert(LOG_CRC_AT + 4 == RAFT_LOG_HEADER, "the crc ends a header");

void log_header_encode(uint8_t *dst, struct log_header *h)
{
    memset(dst, 0, RAFT_LOG_HEADER);
    put_u32(dst + 0, LOG_RECORD_MAGIC);
    put_u16(dst + 4, LOG_VERSION);
    put_u16(dst + 6, h->type);
    put_u64(dst + 8, h->index);
    put_u64(dst + 16, h->term);
    put_u32(dst + 24, h->len);
    put_u32(dst + 28, h->page);
    put_u64(dst + 32, h->segment);
    put_u32(dst + 40, h->crc_before);
    put_u32(dst + 44, h->data_crc);
    h->crc = crc32c(0, dst, LOG_CRC_AT);
    put_u32(dst + LOG_CRC_AT, h->crc);
}

int log_header_decode(const uint8_t *src, struct log_header *h)
{
    if (get_u32(src) != LOG_RECORD_MAGIC || get_u32(src + LOG_CRC_AT) != crc32c(0, src, LOG_CRC_AT))
        return -EBADMSG;
    if (get_u16(src + 4) != LOG_VERSION)
        return -ENOTSUP;
    h->type = get_u16(src + 6);
    h->index = get_u64(src + 8);
    h->term = get_u64(src + 16);
    h->len = get_u32(src + 24);
    h->page = get_u32(src + 28);
    h->segment = get_u64(src + 32);
    h->crc_before = get_u32(src + 40);
    h->data_crc = get_u32(src + 44);
    h->crc = get_u32(src + LOG_CRC_AT);
    return h->len <= RAFT_LOG_DATA_MAX ? 0 : -EBADMSG;
}

void log_segment_encode(uint8_t *dst, const struct log_segment_header *h)
{
    memset(dst, 0, RAFT_LOG_HEADER);
    put_u32(dst + 0, LOG_SEGMENT_MAGIC);
    put_u32(dst + 4, LOG_VERSION);
    put_u64(dst + 8, h->number);
    put_u64(dst + 16, h->first_index);
    put_u64(dst + 24, h->size);
    put_u32(dst + 32, h->crc_before);
    put_u32(dst + LOG_CRC_AT, crc32c(0, dst, LOG_CRC_AT));
}

int log_segment_decode(const uint8_t *src, struct log_segment_header *h)
{
    if (get_u32(src) != LOG_SEGMENT_MAGIC ||
        get_u32(src + LOG_CRC_AT) != crc32c(0, src, LOG_CRC_AT))
        return -EBADMSG;
    if (get_u32(src + 4) != LOG_VERSION)
        return -ENOTSUP;
    h->number = get_u64(src + 8);
    h->first_index = get_u64(src + 16);
    h->size = get_u64(src + 24);
    h->crc_before = get_u32(src + 32);
    return 0;
}

bool log_is_zero(const uint8_t *p, size_t len)
{
    return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}
