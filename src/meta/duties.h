/*
 * The leader's duties as pure functions: of the map, of what nodes reported, of the time. They
 * decide; meta.c submits what they ask for and tells them when it has its effect.
 *
 *   silence     an OSD that no heartbeat names for down_after is down
 *   refusal     a node whose address refuses connections twice, 20 ms apart, has no process: its
 *               OSDs are down and dead, so that nobody waits for their leases (R7). A refusal
 *               that another OSD or a client reports counts at once
 *   placement   new targets when OSDs or pools change
 *   primaries   each OSD leads as many PGs as want it first: handed over slowly, when all PGs have
 *               been complete and nothing else has changed for 10 s
 *   stale rows  of OSDs that will not be recovered soon are forgotten
 *   members     1, 3 or 5 voters, up to two standbys (meta/members.h)
 *
 * What they remember is in memory only. A new leader, and one that was paused, gives everyone a
 * full period.
 */

#ifndef META_DUTIES_H
#define META_DUTIES_H

#include "meta/command.h"
#include "meta/members.h"
#include "raft/core.h"

enum {
    DUTIES_DOWN_MAX = 256, /* OSDs of one command */
    DUTIES_TARGETS_MAX = 256,
    DUTIES_CHANGES_MAX = 64,
    DUTIES_SWITCHES = 4, /* primaries handed over at a time */
    DUTIES_RECENT = 64,
};

struct duty_node {
    bool alive;          /* a heartbeat came in this reign */
    uint64_t seen_ns;    /* the last one; or when we began to wait for one */
    uint64_t refused_ns; /* the first refusal in a row; 0: none */
    bool refused_now;    /* not yet taken note of by duties_run() */
    bool gone;           /* refused twice */
};

struct duty_osd {
    uint32_t incarnation; /* that the times below are about */
    uint64_t seen_ns;
    uint32_t refused_incarnation;  /* registered when its node first refused */
    uint32_t reported_incarnation; /* somebody was refused */
    uint64_t down_since_ns;        /* 0: up */
};

struct duty_switch {
    uint64_t pg, at_ns;
};

struct duties {
    uint32_t self;
    uint64_t down_after_ns, voter_dead_ns;
    bool changes_busy; /* set before duties_run(): the last changes are still on their way */

    /* Private. */
    bool leading;
    uint64_t reign_ns, last_run_ns;
    struct duty_node *nodes; /* by id */
    uint32_t nodes_size;
    struct duty_osd *osds; /* by id */
    uint32_t osds_size;
    uint64_t signature;    /* of what placement depends on */
    uint64_t signature_ns; /* since when it has been so */
    bool placed;           /* targets[] are for this signature */
    struct meta_pg_target *targets;
    uint32_t targets_count;
    uint64_t scanned_revision, scanned_ns;
    uint64_t unrest;   /* of what must not have changed lately when primaries are handed over */
    uint64_t quiet_ns; /* since when it has been so */
    uint64_t switched_ns;
    struct duty_switch recent[DUTIES_RECENT];
    uint32_t recent_next;
    struct members_node *members; /* of the last run */
};

/* What to do now. Each list is one command. */
struct duties_out {
    uint32_t down_count;
    struct meta_osd_state down[DUTIES_DOWN_MAX];
    uint32_t targets_count;
    struct meta_pg_target targets[DUTIES_TARGETS_MAX];
    uint32_t changes_count;
    struct meta_pg_change changes[DUTIES_CHANGES_MAX];
    struct members_step member;
    bool kick;        /* look again at once whether nodes that refused still do */
    uint64_t next_ns; /* run again at this time at the latest */
};

void duties_init(struct duties *d, uint32_t self, uint32_t down_after_ms, uint32_t voter_dead_ms);
void duties_deinit(struct duties *d);

/* We lead from now on, or no more. */
void duties_lead(struct duties *d, bool leading);

void duties_heartbeat(struct duties *d, uint64_t now, const struct map *map, uint32_t node,
                      uint32_t incarnation, const struct meta_osd_state *osds, uint32_t count);
void duties_peer_up(struct duties *d, uint32_t node);
void duties_peer_lost(struct duties *d, uint64_t now, uint32_t node, int why);
void duties_report(struct duties *d, uint32_t osd, uint32_t incarnation, bool refused);

bool duties_node_is_alive(const struct duties *d, uint32_t node, uint64_t now);

void duties_run(struct duties *d, uint64_t now, const struct map *map,
                const struct raft_core_status *raft, struct duties_out *out);

#endif /* META_DUTIES_H */
