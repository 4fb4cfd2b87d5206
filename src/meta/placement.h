/*
 * Placement: which OSDs should hold each PG of a pool (DESIGN.md section 6).
 *
 * Goal, in this order: no two members of a PG in one failure domain; every OSD within one PG of
 * its share by weight; as little data moved from where the PGs are now as that allows; primaries
 * (the first of each target) even too. A pure function on integers: apply makes a pool's first
 * targets with it, so a change of its choices is a new version of POOL_CREATE and OSD_UP.
 */

#ifndef META_PLACEMENT_H
#define META_PLACEMENT_H

#include "meta/map.h"

struct placement_osd {
    uint32_t id;     /* ascending */
    uint32_t domain; /* any number; equal ones share a host */
    uint32_t weight; /* 0: may hold nothing */
};

struct placement_pg {
    uint64_t id;
    uint8_t count; /* in: where it is wanted now, preferred primary first; out: where from now on */
    uint32_t osds[META_REPLICAS_MAX];
};

/*
 * Changes pgs[] in place. With fewer domains than replicas, PGs keep members of weight 0 in the
 * places that nothing else can fill, and else get as many as there are domains.
 */
void placement_run(const struct placement_osd *osds, uint32_t osds_count, struct placement_pg *pgs,
                   uint32_t pgs_count, uint8_t replicas);

/* How many domains have an OSD that may hold something. */
uint32_t placement_domains(const struct placement_osd *osds, uint32_t osds_count);

#endif /* META_PLACEMENT_H */
