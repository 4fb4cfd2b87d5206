/* A superblock of any bytes is refused, or means the same when written again. */

#include <string.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "store/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t block[STORE_BLOCK], again[STORE_BLOCK], third[STORE_BLOCK];
    struct superblock sb, twice;

    memset(block, 0, sizeof(block));
    memcpy(block, data, size < STORE_BLOCK ? size : STORE_BLOCK);
    superblock_decode(block, &sb);

    /* Past magic and crc, which no mutation would find. */
    memcpy(block, "SKERRYST", 8);
    put_u32(block + STORE_BLOCK - 4, crc32c(0, block, STORE_BLOCK - 4));
    if (superblock_decode(block, &sb) != 0)
        return 0;
    check(sb.copy < SUPER_COPIES && sb.ring_first + sb.ring_blocks <= sb.blocks / 2);
    for (uint32_t i = 0; i < SUPER_COPIES; i++)
        check(superblock_place(sb.blocks, i) == 0 ||
              superblock_place(sb.blocks, i) >= sb.ring_first + sb.ring_blocks);
    superblock_encode(&sb, again);
    check(superblock_decode(again, &twice) == 0);
    superblock_encode(&twice, third);
    check(memcmp(again, third, STORE_BLOCK) == 0);
    return 0;
}
