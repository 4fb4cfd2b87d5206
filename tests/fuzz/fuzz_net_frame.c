/* A header of any bytes is refused or means the same when written again. */

#include <string.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "net/frame.h"
#include "net/rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t header[FRAME_HEADER] = {0}, again[FRAME_HEADER];
    struct frame f;

    memcpy(header, data, size < sizeof(header) ? size : sizeof(header));
    frame_decode(header, &f);

    /* Past magic and crc, which no mutation would find. */
    put_u32(header, FRAME_MAGIC);
    put_u16(header + 4, NET_VERSION);
    put_u32(header + 76, crc32c(0, header, 76));
    if (frame_decode(header, &f) != 0)
        return 0;
    check(f.body_len <= NET_BODY_MAX && f.data_len <= NET_DATA_MAX);
    frame_encode(&f, again);
    check(memcmp(header, again, sizeof(header)) == 0);
    if (size >= sizeof(header) + f.body_len)
        frame_check_body(&f, data + sizeof(header));
    return 0;
}
