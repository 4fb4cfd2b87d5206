/*
 * Who should be a member of the Raft group: 1, 3 or 5 voters and up to two standbys. A pure
 * function of who is there, where, and who is what now; it answers with the next single change.
 *
 * How many: 5 from five nodes on, 3 from three on, else 1: of two voters either one's death stops
 * the group. Nodes that are dead do not count, but three voters never become one because nodes
 * died: what one voter alone acknowledged, one disk alone holds. Nobody counts for growing who is
 * not heard now, and nobody for shrinking before he is dead; in between all stays as it is.
 *
 * Who: the leader; then whoever is in a location that has no voter yet; then who is a voter
 * already, then who is a standby, then the lowest id.
 *
 * In which order:
 *
 *   1. a dead voter that is not wanted goes. The majority of 2n + 1 is that of 2n, so nobody's
 * death stops a group that it would not have stopped before. (With the newcomer first, four would
 *      need three, and the newcomer's death would stop them.) It goes only when there is
 *      somebody in its place, or too many are there
 *   2. who is wanted becomes a voter, when it has caught up
 *   3. a live voter that is not wanted becomes a standby: others have been promoted before
 *   4. standbys
 */

#ifndef META_MEMBERS_H
#define META_MEMBERS_H

#include <stdbool.h>
#include <stdint.h>

#include "raft/core.h"

enum { MEMBERS_STANDBYS_MAX = 2 };

struct members_node {
    uint32_t id;
    uint32_t location; /* equal numbers share a failure domain */
    bool alive;        /* heard from just now */
    bool dead;         /* silent for so long that nobody waits for it */
    bool member;       /* of the Raft group, as: */
    enum raft_core_role role;
    bool wanted; /* out: as a voter */
};

enum members_change { MEMBERS_NONE, MEMBERS_ASSIGN, MEMBERS_REMOVE };

struct members_step {
    enum members_change change;
    uint32_t id;
    enum raft_core_role role;
};

/*
 * nodes[] by id; every member of the group is among them, and `self`, the leader, which is alive.
 * Not `settled`: we have not led long enough to know who is there, so nobody alive is demoted.
 */
void members_next(struct members_node *nodes, uint32_t count, uint32_t self, bool settled,
                  struct members_step *out);

#endif /* META_MEMBERS_H */
