/*
 * A raft configuration as bytes: the encoding of libraft's own change entries, which it can write
 * (raft_configuration_encode) but does not let others read.
 *
 *   0  u8   1, the format
 *   1  u64  number of servers, then for each
 *           u64 id, its address as text with a terminating zero, u8 role
 *      ...  zero to a multiple of 8
 */

#ifndef RAFT_CONF_H
#define RAFT_CONF_H

#include <raft.h>

#include "base/bytes.h"

/* Into an initialised, empty `conf`; -EBADMSG when the bytes are not a configuration of 1 to
 * RAFT_SERVERS_MAX servers with distinct ids. `conf` is to be closed in any case. */
int raft_conf_decode(struct slice bytes, struct raft_configuration *conf);

/* The address of server `id`: the id in decimal, so that a node may move. */
enum { RAFT_ADDRESS_SIZE = 24 };
void raft_conf_address(uint64_t id, char *dst);

#endif /* RAFT_CONF_H */
