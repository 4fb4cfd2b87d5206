/*
 * A peer that says anything. The first byte picks the role and whether magic and crc of what comes
 * are put right; the rest comes in pieces. Nobody without the secret is ever welcomed.
 */

#include <string.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "net/hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void repair(uint8_t *message, uint32_t size)
{
    memcpy(message, "SKHI", 4);
    put_u32(message + size - 4, crc32c(0, message, size - 4));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hello_config config = {
        .identity = {.cluster = {1, 2, 3}, .secret = {4, 5, 6}, .node = 1},
        .self = net_endpoint_make(NET_OSD, 1),
        .target = net_endpoint_make(NET_OSD, 2),
        .version_min = 1,
        .version_max = 3,
    };
    struct hello h;
    uint8_t *room;
    const uint8_t *out;

    if (size == 0)
        return 0;
    bool is_server = data[0] & 1, repaired = data[0] & 2;
    data++, size--;
    if (is_server)
        hello_server_init(&h, &config);
    else
        hello_client_init(&h, &config);

    while (size > 0) {
        check(hello_output(&h, &out) <= HELLO_SIZE);
        hello_output_sent(&h);
        uint32_t wanted = hello_room(&h, &room);
        if (wanted == 0)
            break;
        uint32_t n = size < wanted ? (uint32_t)size : wanted;
        if (!repaired && n > 1 + data[0] % 64u)
            n = 1 + data[0] % 64u;
        memcpy(room, data, n);
        if (repaired && n == wanted)
            repair(room, n);
        hello_input(&h, n);
        data += n, size -= n;
    }
    check(h.state != HELLO_WELCOMED && h.state != HELLO_AWAIT_ROUTE &&
          h.state != HELLO_AWAIT_WELCOME);
    return 0;
}
