#include "raft/conf.h"

#include <errno.h>
#include <stdio.h>

#include "raft/core.h"

enum { CONF_FORMAT = 1, CONF_HEADER = 9, CONF_ADDRESS_MAX = 255 };

void raft_conf_address(uint64_t id, char *dst)
{
    snprintf(dst, RAFT_ADDRESS_SIZE, "%llu", (unsigned long long)id);
}

static int conf_decode_server(const uint8_t *p, size_t len, size_t *used,
                              struct raft_configuration *conf)
{
    if (len < 8)
        return -EBADMSG;
    uint64_t id = get_u64(p);
    const uint8_t *address = p + 8;
    size_t room = len - 8 < CONF_ADDRESS_MAX + 1 ? len - 8 : CONF_ADDRESS_MAX + 1;
    const uint8_t *end = memchr(address, 0, room);
    if (id == 0 || end == NULL || end == address || (size_t)(end + 1 - p) >= len)
        return -EBADMSG;

    int role = end[1];
    if (role != RAFT_STANDBY && role != RAFT_VOTER && role != RAFT_SPARE)
        return -EBADMSG;
    *used = (size_t)(end + 2 - p);
    int rv = raft_configuration_add(conf, id, (const char *)address, role);
    return rv == RAFT_NOMEM ? -ENOMEM : rv != 0 ? -EBADMSG : 0;
}

int raft_conf_decode(struct slice bytes, struct raft_configuration *conf)
{
    const uint8_t *p = bytes.base;
    size_t at = CONF_HEADER;

    if (bytes.len < CONF_HEADER || p[0] != CONF_FORMAT)
        return -EBADMSG;
    uint64_t count = get_u64(p + 1);
    if (count == 0 || count > RAFT_SERVERS_MAX)
        return -EBADMSG;
    for (uint64_t i = 0; i < count; i++) {
        size_t used = 0;
        int rv = conf_decode_server(p + at, bytes.len - at, &used, conf);
        if (rv != 0)
            return rv;
        at += used;
    }
    return bytes.len - at < 8 ? 0 : -EBADMSG;
}
