/*
 * Raft's messages as bytes. All integers little-endian; every length is checked before it is used.
 *
 *   0  u16 type (libraft's RAFT_IO_...)   2  u16 format version, 1   4  u32 0
 *   8  u64 term; then by type
 *
 *   request vote         16 u64 candidate  24 u64 last index  32 u64 last term
 *                        40 u32 flags: 1 disrupt leader, 2 pre-vote   44 u32 0             = 48
 *   request vote result  16 u32 granted  20 u32 pre-vote: 0 unknown, 1 yes, 2 no           = 24
 *   append entries       16 u64 index before  24 u64 term before  32 u64 leader's commit
 *                        40 u32 entries  44 u32 0  48 per entry {u64 term, u16 type, u16 0,
 *                        u32 length}; then their data, each zero-padded to 8
 *   append result        16 u64 rejected  24 u64 last index                                = 32
 *   install snapshot     16 u64 last index  24 u64 last term  32 u64 index of configuration
 *                        40 u32 length of configuration  44 u32 0  48 u64 length of data
 *                        56 configuration (raft/conf.h), zero-padded to 8; then the data
 *   timeout now          16 u64 last index  24 u64 last term                               = 32
 */

#ifndef RAFT_MESSAGE_H
#define RAFT_MESSAGE_H

#include <raft.h>

#include "base/bytes.h"

enum {
    RAFT_MESSAGE_MAX = 64 << 20,
    RAFT_MESSAGE_ENTRIES_MAX = 16 << 20, /* of entries that are sent in one message */
    RAFT_MESSAGE_SNAPSHOT_MAX = (256 << 20) + (64 << 10), /* of an install snapshot */
};

/* How many of the entries, from the first on, fit RAFT_MESSAGE_ENTRIES_MAX; one always does. */
unsigned raft_message_fit(const struct raft_append_entries *a);

/* Bytes it takes; 0: it is larger than a receiver would take. */
size_t raft_message_size(const struct raft_message *m);
void raft_message_encode(const struct raft_message *m, uint8_t *dst);

/* The limit for a message that begins with these bytes (16 at least). */
size_t raft_message_limit(const uint8_t *head);

/*
 * 0, -EBADMSG, -ENOMEM. Entries, configuration and data are raft_malloc()ed copies, which the core
 * (or raft_message_free) frees. Does not set server_id and server_address.
 */
int raft_message_decode(struct slice bytes, struct raft_message *m);
void raft_message_free(struct raft_message *m);

#endif /* RAFT_MESSAGE_H */
