#include "meta/members.h"

#include <string.h>

#include "base/check.h"

static bool is_voter(const struct members_node *n)
{
    return n->member && n->role == RAFT_CORE_VOTER;
}

/* May be a voter: it is heard now, or it is one and not given up yet. */
static bool is_eligible(const struct members_node *n)
{
    return n->alive || (is_voter(n) && !n->dead);
}

static uint32_t size_for(uint32_t nodes)
{
    if (nodes >= 5)
        return 5;
    return nodes >= 3 ? 3 : 1;
}

static uint32_t voters_wanted(const struct members_node *nodes, uint32_t count)
{
    uint32_t voters = 0, eligible = 0, present = 0;

    for (uint32_t i = 0; i < count; i++) {
        voters += is_voter(&nodes[i]);
        eligible += is_eligible(&nodes[i]);
        present += !nodes[i].dead;
    }
    uint32_t least = size_for(eligible), most = size_for(present);
    if (most < 3 && voters >= 3)
        most = 3;
    if (voters < least)
        return least;
    return voters > most ? most : voters;
}

/* ---- Who ---- */

static bool is_location_taken(const struct members_node *nodes, uint32_t count, uint32_t location)
{
    for (uint32_t i = 0; i < count; i++) {
        if (nodes[i].wanted && nodes[i].location == location)
            return true;
    }
    return false;
}

static int rank_of(const struct members_node *nodes, uint32_t count, const struct members_node *n,
                   uint32_t self)
{
    if (n->id == self)
        return 100;
    if (!is_eligible(n))
        return is_voter(n) ? 0 : -1; /* a dead voter, when there is nobody else */
    int rank = is_location_taken(nodes, count, n->location) ? 1 : 10;
    if (n->member)
        rank += n->role == RAFT_CORE_VOTER ? 4 : n->role == RAFT_CORE_STANDBY ? 2 : 0;
    return rank;
}

static void choose(struct members_node *nodes, uint32_t count, uint32_t self)
{
    uint32_t wanted = voters_wanted(nodes, count);

    for (uint32_t i = 0; i < count; i++)
        nodes[i].wanted = false;
    for (; wanted > 0; wanted--) {
        struct members_node *best = NULL;
        int best_rank = -1;
        for (uint32_t i = 0; i < count; i++) {
            int rank = nodes[i].wanted ? -1 : rank_of(nodes, count, &nodes[i], self);
            if (rank > best_rank) {
                best = &nodes[i];
                best_rank = rank;
            }
        }
        if (best == NULL)
            return;
        best->wanted = true;
    }
}

/* ---- The next step ---- */

enum who { DEAD_VOTER, NEW_VOTER, EXTRA_VOTER, DEAD_STANDBY, NEW_STANDBY, PLACE_HOLDER };

static bool is_one(const struct members_node *n, enum who who)
{
    switch (who) {
    case DEAD_VOTER:
        return is_voter(n) && !n->wanted && !is_eligible(n);
    case NEW_VOTER:
        return !is_voter(n) && n->wanted;
    case EXTRA_VOTER:
        return is_voter(n) && !n->wanted;
    case DEAD_STANDBY:
        return n->member && n->role == RAFT_CORE_STANDBY && n->dead;
    case NEW_STANDBY:
        return n->alive && !n->wanted && (!n->member || n->role == RAFT_CORE_SPARE);
    case PLACE_HOLDER:
        return n->member && n->role != RAFT_CORE_VOTER && !n->wanted;
    }
    return false;
}

static const struct members_node *find(const struct members_node *nodes, uint32_t count,
                                       enum who who)
{
    for (uint32_t i = 0; i < count; i++) {
        if (is_one(&nodes[i], who))
            return &nodes[i];
    }
    return NULL;
}

static struct members_step step_to(enum members_change change, const struct members_node *n,
                                   enum raft_core_role role)
{
    return (struct members_step){change, n->id, role};
}

/* A member, or a new one when there is a place for it; else somebody who only stands by goes
 * first. */
static struct members_step step_in(const struct members_node *nodes, uint32_t count,
                                   const struct members_node *n, enum raft_core_role role,
                                   uint32_t members)
{
    const struct members_node *holder = find(nodes, count, PLACE_HOLDER);

    if (n->member || members < RAFT_SERVERS_MAX)
        return step_to(MEMBERS_ASSIGN, n, role);
    if (role == RAFT_CORE_VOTER && holder != NULL)
        return step_to(MEMBERS_REMOVE, holder, RAFT_CORE_SPARE);
    return (struct members_step){MEMBERS_NONE, 0, RAFT_CORE_SPARE};
}

void members_next(struct members_node *nodes, uint32_t count, uint32_t self, bool settled,
                  struct members_step *out)
{
    const struct members_node *n, *other;
    uint32_t members = 0, standbys = 0;

    memset(out, 0, sizeof(*out));
    choose(nodes, count, self);
    for (uint32_t i = 0; i < count; i++) {
        members += nodes[i].member;
        standbys += nodes[i].member && nodes[i].role == RAFT_CORE_STANDBY;
    }
    check(members <= RAFT_SERVERS_MAX);
    if ((n = find(nodes, count, DEAD_VOTER)) != NULL)
        *out = step_to(MEMBERS_REMOVE, n, RAFT_CORE_SPARE);
    else if ((n = find(nodes, count, NEW_VOTER)) != NULL)
        *out = step_in(nodes, count, n, RAFT_CORE_VOTER, members);
    else if (settled && (n = find(nodes, count, EXTRA_VOTER)) != NULL)
        *out = standbys < MEMBERS_STANDBYS_MAX ? step_to(MEMBERS_ASSIGN, n, RAFT_CORE_STANDBY)
                                               : step_to(MEMBERS_REMOVE, n, RAFT_CORE_SPARE);
    else if ((other = find(nodes, count, NEW_STANDBY)) == NULL)
        return;
    else if (standbys < MEMBERS_STANDBYS_MAX)
        *out = step_in(nodes, count, other, RAFT_CORE_STANDBY, members);
    else if ((n = find(nodes, count, DEAD_STANDBY)) != NULL)
        *out = step_to(MEMBERS_REMOVE, n, RAFT_CORE_SPARE);
}
