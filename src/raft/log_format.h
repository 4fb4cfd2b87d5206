/* The bytes of raft/log.h: headers of segments and records, and where they lie. Pure. */

#ifndef RAFT_LOG_FORMAT_H
#define RAFT_LOG_FORMAT_H

#include "raft/log.h"

struct log_header { /* of a record, and its copy */
    uint64_t index, term, segment;
    uint32_t page, len, crc_before, data_crc;
    uint16_t type;
    uint32_t crc; /* set by encode and decode */
};

struct log_segment_header {
    uint64_t number, first_index, size;
    uint32_t crc_before;
};

static inline uint32_t log_pages(uint64_t bytes)
{
    return (uint32_t)((bytes + RAFT_LOG_PAGE - 1) / RAFT_LOG_PAGE);
}

static inline uint32_t log_record_pages(uint32_t len)
{
    return log_pages((uint64_t)len + RAFT_LOG_HEADER);
}

static inline uint32_t log_slot_pages(uint64_t segment_size)
{
    return log_pages(segment_size / RAFT_LOG_PAGE * RAFT_LOG_HEADER);
}

static inline uint32_t log_data_page(uint64_t segment_size)
{
    return 2 + log_slot_pages(segment_size);
}

void log_header_encode(uint8_t *dst, struct log_header *h);
/* 0, -EBADMSG, -ENOTSUP */
int log_header_decode(const uint8_t *src, struct log_header *h);

void log_segment_encode(uint8_t *dst, const struct log_segment_header *h);
int log_segment_decode(const uint8_t *src, struct log_segment_header *h);

bool log_is_zero(const uint8_t *p, size_t len);

#endif /* RAFT_LOG_FORMAT_H */
