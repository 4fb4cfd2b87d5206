/*
 * The state of the cluster in words: may clients write, and would it survive another failure?
 *
 * A pure function of what one node knows: its map, its view of Raft, which nodes it believes to be
 * up, and what its own OSDs say. No clock, no I/O.
 *
 *   whole      active, and its in-sync set S is as large as the pool wants, all up, no two of it at
 *              one location if there are locations enough
 *   misplaced  all that but the last
 *   degraded   active, but a copy is missing or being made
 *   blocked    not serving writes: fewer than min_size of S are up; or enough are, and no
 *              primary is active yet, which passes by itself
 *
 * Nodes and OSDs that were given a number and have never started count for nothing.
 *
 * Writable: Raft has a leader, there is a PG, and none is blocked. A full OSD takes from that only
 * what is new: it is a check of its own, which only the node that has the OSD can make.
 *
 * Survives another failure: writable, and whichever one node goes next, every PG keeps min_size of
 * S and Raft a majority of its voters.
 */

#ifndef GW_STATUS_H
#define GW_STATUS_H

#include <jansson.h>

#include "meta/meta.h"

enum { STATUS_CHECKS_MAX = 16, STATUS_TEXT_MAX = 256 };

enum status_severity { STATUS_OK, STATUS_WARN, STATUS_ERROR };

struct status_check {
    const char *code; /* UPPER_SNAKE, stable */
    enum status_severity severity;
    char message[STATUS_TEXT_MAX];
    char action[STATUS_TEXT_MAX];
};

/* What an OSD of this node has room for; of those of other nodes it is not known. */
struct status_use {
    uint32_t osd;
    bool full; /* it refuses what is new */
    uint64_t data_bytes, free_bytes;
};

struct status_input {
    const struct map *map; /* an empty one: this node has not heard of a leader since it started */
    const struct raft_core_status *raft; /* of meta_group() */
    bool (*node_is_up)(void *arg, uint32_t node);
    void *arg;
    uint64_t recovery_objects_left; /* of the OSDs of this node */
    const struct status_use *uses;  /* and their room */
    uint32_t uses_count;
};

struct status_report {
    enum status_severity health;
    bool writable;
    char writable_why[STATUS_TEXT_MAX];
    bool survives;
    char survives_why[STATUS_TEXT_MAX];
    uint32_t nodes, nodes_up, osds, osds_up, voters, voters_up;
    uint32_t nodes_new, osds_new; /* never started; counted nowhere else */
    uint32_t pgs, pgs_active, pgs_whole, pgs_misplaced, pgs_degraded, pgs_blocked;
    uint32_t pgs_activating; /* those of the blocked that have enough copies up */
    uint64_t size_bytes, recovery_objects_left;
    uint32_t local_osds, local_full; /* OSDs of this node; those of them without room */
    uint64_t local_size_bytes, local_used_bytes;
    uint32_t checks_count;
    struct status_check checks[STATUS_CHECKS_MAX];
};

void status_make(const struct status_input *in, struct status_report *out);

const char *status_severity_name(enum status_severity severity);
bool status_osd_is_up(const struct map_osd *o);

/* "pool "default" is made when 3 hosts have a disk; now 2 have one" */
void status_say_default_pool(const struct map *m, char *dst, size_t dst_size);

/* Where the OSDs of a map are. */
struct status_places {
    const struct map *map;
    uint32_t *of_osd; /* locations as numbers, at the places of the map's osds[] */
    uint32_t up;      /* locations that have an OSD that is up */
};

void status_places_init(struct status_places *p, const struct map *m);
void status_places_deinit(struct status_places *p);

enum status_pg {
    STATUS_PG_WHOLE,
    STATUS_PG_MISPLACED,
    STATUS_PG_DEGRADED,
    STATUS_PG_ACTIVATING,
    STATUS_PG_BLOCKED,
    STATUS_PG_LAST = STATUS_PG_BLOCKED
};
enum status_pg status_of_pg(const struct status_places *places, const struct map_pool *pool,
                            const struct map_pg *pg);

#endif /* GW_STATUS_H */
