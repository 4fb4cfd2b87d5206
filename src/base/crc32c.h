/* CRC-32C (Castagnoli, RFC 3720 B.4), as ISA-L computes it with the processor's own instruction. */

#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/*
 * The crc of `len` bytes that follow bytes whose crc was `crc` (0 to begin):
 * crc32c(0, "123456789", 9) is 0xe3069283.
 */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

/*
 * The checksum of one 4 KiB block of an object, seeded with the identity of the
 * block, so that a block that lies in the wrong place does not match. This one
 * definition is what clients send, OSDs store and reads verify.
 */
uint32_t crc32c_block(uint64_t image, uint64_t object, uint32_t block, const void *data,
                      size_t len);

#endif /* BASE_CRC32C_H */
