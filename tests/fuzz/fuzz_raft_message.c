/* Bytes from a peer: whatever they are, decoding neither crashes nor leaks, and what is accepted
 * encodes to what decodes to the same. */

#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "raft/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct raft_message m, again;

    if (raft_message_decode((struct slice){data, size}, &m) != 0)
        return 0;
    size_t len = raft_message_size(&m);
    check(len > 0 && len <= size + 8);
    uint8_t *bytes = malloc(len);
    check(bytes != NULL);
    raft_message_encode(&m, bytes);
    check(raft_message_decode((struct slice){bytes, len}, &again) == 0);
    check(again.type == m.type);
    uint8_t *twice = malloc(len);
    check(twice != NULL && raft_message_size(&again) == len);
    raft_message_encode(&again, twice);
    check(memcmp(bytes, twice, len) == 0);
    free(twice);
    free(bytes);
    raft_message_free(&again);
    raft_message_free(&m);
    return 0;
}
