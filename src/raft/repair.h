/*
 * Repair: what a server does whose log has a bad record that once was durable. It has perhaps been
 * acknowledged, so the server may neither forget it nor vote without it. It does not start the
 * core; it asks the other members, leader or not, about the first bad index:
 *
 *   - somebody holds that very entry (term and crc, or the crc the next record names): written
 * anew;
 *   - somebody's snapshot covers it: that snapshot is fetched, and covers it here too;
 *   - no majority can ever hold it: the log ends before it. That is certain when so many voters do
 *     not hold it that the others are no majority, and each of them has a higher term than ours
 *     (so that no leader who could count our old acknowledgement gets theirs); or when all other
 *     voters have answered and none holds it;
 *   - otherwise: ask again, later.
 *
 * README.md has the argument. Requests, of two kinds, answered by any member whose own log is at
 * rest; little-endian:
 *
 *   RAFT_RPC_LOOK      body  0 u64 index  8 u64 term, 0 when it is not known  16 u32 crc of the
 * data answer 0 u32 1 held, 2 not held, 3 covered by my snapshot   4 u32 type 8 u64 term of the
 * entry  16 u64 my current term 24 u64 index of my newest snapshot  32 the entry's data
 *   RAFT_RPC_SNAPSHOT  body  0 u64 index of the snapshot  8 u64 offset in its file
 *                      answer 0 u64 size of the file  8 up to 256 KiB of it
 */

#ifndef RAFT_REPAIR_H
#define RAFT_REPAIR_H

#include "raft/io.h"

enum {
    RAFT_RPC_LOOK = RAFT_RPC_KIND_FIRST + 1,
    RAFT_RPC_SNAPSHOT = RAFT_RPC_KIND_FIRST + 2,
    RAFT_REPAIR_ANSWERS_MAX = 8,
};

struct raft_repair;

/* Begin; done(arg, result) comes once, later: 0: no bad record is left; else a storage error.
 * -EBADMSG at once when there is no other member to ask. */
int raft_repair_start(struct raft_disk *disk, void (*done)(void *arg, int result), void *arg,
                      struct raft_repair **out);
/* Also while it is under way, when the loop is dead. */
void raft_repair_free(struct raft_repair *r);

/* Answer RAFT_RPC_LOOK and RAFT_RPC_SNAPSHOT; -EBUSY when RAFT_REPAIR_ANSWERS_MAX are on their way.
 */
void raft_repair_handle(struct raft_disk *disk, struct rpc_request *req);
/* The loop is dead: free the answers that were on their way. */
void raft_repair_forget_answers(struct raft_disk *disk);

#endif /* RAFT_REPAIR_H */
