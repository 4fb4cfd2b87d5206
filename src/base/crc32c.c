#include "base/crc32c.h"

#include <isa-l/crc.h>

#include "base/bytes.h"

/* ISA-L takes lengths as int. */
enum { CRC_CHUNK_MAX = 1 << 30 };

/* ISA-L's function neither inverts the start value nor the result; the standard does both. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
    const unsigned char *p = data;

    crc = ~crc;
    while (len > CRC_CHUNK_MAX) {
        crc = crc32_iscsi((unsigned char *)(uintptr_t)p, CRC_CHUNK_MAX, crc);
        p += CRC_CHUNK_MAX;
        len -= CRC_CHUNK_MAX;
    }
    if (len > 0)
        crc = crc32_iscsi((unsigned char *)(uintptr_t)p, (int)len, crc);
    return ~crc;
}

/*
 * The identity is 20 bytes that come before the data: u64 image, u64 object, u32 block,
 * little-endian.
 */
uint32_t crc32c_block(uint64_t image, uint64_t object, uint32_t block, const void *data, size_t len)
{
    uint8_t identity[20];

    put_u64(identity, image);
    put_u64(identity + 8, object);
    put_u32(identity + 16, block);
    return crc32c(crc32c(0, identity, sizeof(identity)), data, len);
}
