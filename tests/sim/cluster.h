/*
 * A simulated cluster: each node is production code (raft, meta, store, osd,
 * client, net) on three loops of one host, as src/node.c wires it, without threads.
 */

#ifndef TESTS_SIM_CLUSTER_H
#define TESTS_SIM_CLUSTER_H

#include "client/client.h"
#include "io/sim.h"
#include "meta/meta.h"
#include "osd/osd.h"

/* The last node is known from the beginning, and starts only if somebody starts it. */
enum { CLUSTER_FOUNDERS = 3, CLUSTER_NODES = 4, CLUSTER_PORT = 7400, CLUSTER_SCRUB_S = 30 };

struct cluster;

struct cluster_node {
    struct cluster *cluster;
    uint32_t id;  /* 1.. */
    uint32_t osd; /* its OSD's id; 0: not added yet */
    uint32_t starts;
    bool running;
    bool stopped;  /* it stopped by itself: `fatal` was called */
    bool may_stop; /* of its own accord: the OSD was declared dead and must start again */
    char stopped_why[160];
    struct sim_host *host;
    struct loop *control_loop, *osd_loop, *client_loop;
    struct net *control_net, *osd_net, *client_net;
    struct net_acceptor *acceptor;
    struct meta *meta;
    struct osd *osd_object;
    struct client *client;
    bool switching; /* switch_call is under way */
    struct meta_call switch_call;
    struct meta_pg_change switches[META_LIST_MAX];
    bool moving; /* move_call is under way */
    struct meta_call move_call;
    struct meta_pg_target moves[META_LIST_MAX];
};

struct cluster {
    struct sim *sim;
    uint32_t mutant;
    struct net_identity identity;
    struct cluster_node nodes[CLUSTER_NODES];
};

/* Bootstraps a cluster of three nodes with an OSD each, and waits until its PGs are active. False:
 * it did not come up. */
bool cluster_create(struct cluster *c, struct sim *sim, uint32_t mutant);
void cluster_destroy(struct cluster *c);

void cluster_start_node(struct cluster *c, uint32_t index);
/* The process is gone, at this instant. Also frees its memory. */
void cluster_crash_node(struct cluster *c, uint32_t index, bool power_loss);

/* Submit a command at a node and wait, in virtual time. */
bool cluster_command(struct cluster *c, uint32_t index, const struct meta_command *command,
                     struct meta_result *result);

/* It was started, and may have crashed since. */
bool cluster_has_node(const struct cluster *c, uint32_t index);
uint32_t cluster_node_of_osd(const struct cluster *c, uint32_t osd);

/* By the maps of all nodes: every PG is active, and on the OSDs that placement wants. */
bool cluster_is_whole(struct cluster *c);

/* The sum of all PGs' epochs, as this node's OSD knows them. */
uint64_t cluster_epochs(struct cluster *c, uint32_t index);

/*
 * Ask at a node that `osd` become primary of every PG it is a member of; the answer is not
 * waited for. Returns how many PGs that is about; -1: it cannot be asked there now.
 */
int cluster_switch_primaries(struct cluster *c, uint32_t index, uint32_t osd);

/* Ask at a node that some PGs be moved: one place of each to the OSD that has none. Not waited for,
 * like the above. */
int cluster_move_pgs(struct cluster *c, uint32_t index);

/* A bit of a block of the image rots on this node's device, if the block is there and another
 * node that runs holds the object in the same version. False: it is not. */
bool cluster_rot_block(struct cluster *c, uint32_t index, uint64_t offset, uint32_t bit);

/* Does the device of this node hold the blocks of its object as they were written? */
bool cluster_object_is_sound(struct cluster *c, uint32_t index, const struct store_id *id);

#endif /* TESTS_SIM_CLUSTER_H */
