/*
 * The parts of a node, and on which thread each lives:
 *
 *   main       starts and stops everything, one step after the other; in between waits for signals
 *   control    acceptor, control net, meta (and raft), admin's requests, the table of OSDs
 *   gateway    the client, its net, NBD
 *   one a disk the OSD and its net
 *   MHD        libmicrohttpd's own: passes admin requests on
 *   worker     one at a time, while a disk is added: what must block
 *
 * main and worker are plain threads: they may block, and have things done on a loop by
 * node_thread_call(). A loop never waits for them. Which OSDs there are is changed on the control
 * loop only; main (before the node serves) and the worker (after) are the ones that add, so the
 * one that adds may read the table as well.
 *
 * Stopping (R7): NBD finishes what is in flight, the OSDs stop serving, the cluster is told, the
 * Raft lead is handed over, and only then does the listener go, so that "connection refused" means
 * that nothing here serves any more. Then all loops are halted, and what is on them is freed.
 */

#ifndef NODE_IMPL_H
#define NODE_IMPL_H

#include "client/client.h"
#include "gw/admin.h"
#include "gw/nbd.h"
#include "node_conf.h"
#include "node_thread.h"
#include "osd/osd.h"

enum {
    NODE_OSDS_MAX = ADMIN_OSDS_MAX,
    NODE_OSD_START_MS = 20000,
    NODE_COMMAND_MS = 10000,
    NODE_STOP_COMMAND_MS = 1500,
};

struct node;

enum node_osd_outcome { NODE_OSD_STARTING, NODE_OSD_SERVING, NODE_OSD_FAILED };

struct node_osd {
    struct node *node;
    uint32_t id;
    char path[NODEDIR_PATH_MAX];
    struct node_thread thread;
    struct net *net;
    struct osd *osd; /* on its loop; NULL until opened */

    /* On the control loop, told by the OSD's. */
    enum node_osd_outcome outcome;
    uint32_t incarnation;

    /* OSD's loop -> control loop: it serves once and fails at most once. */
    struct node_osd_told {
        struct loop_msg msg;
        struct node_osd *osd;
        enum node_osd_outcome outcome;
        uint32_t incarnation;
        int error;
    } told_serving, told_failed;
    struct meta_call call_failed; /* tells the cluster that its device failed */
    char why[PROBLEM_TEXT_MAX];   /* of the failure */
    sem_t settled;                /* the first outcome has arrived at the control loop */

    struct loop_msg msg_stopped;
    sem_t stopped;
};

struct node {
    struct node_conf conf;
    struct identity identity;
    struct net_identity net_identity;
    uint32_t incarnation;
    char nbd_url[LOOP_ADDR_STR + 8];

    /* Control loop. */
    struct node_thread control;
    struct net_acceptor *acceptor;
    struct net *control_net;
    struct meta *meta;
    struct admin *admin;
    uint32_t osds_count;
    struct node_osd *osds[NODE_OSDS_MAX];
    struct list queries; /* struct osds_query of node_osd.c */

    /* Gateway loop. */
    struct node_thread gateway;
    struct net *gateway_net;
    struct client *client;
    struct nbd_client_backend nbd_backend;
    struct nbd_server *nbd; /* NULL: --nbd off */

    /* The worker. */
    struct admin_disk *disk;
    char disk_again_path[HTTP_PATH_MAX]; /* the last that was to be numbered, until it was linked */
    uint8_t disk_again_uuid[16];
    pthread_t worker;
    bool worker_started; /* and not joined */
    struct loop_msg msg_worker_done;
};

/* ---- node_osd.c: on a plain thread ---- */

/* Start serving the store at `path` as OSD `id`: its thread, its net, links to the other nets of
 * the process. It opens in the background. */
int node_osd_start(struct node *n, uint32_t id, const char *path, struct node_osd **out,
                   struct problem *p);

int node_osd_too_many(struct problem *p);

/* Every disk that the node directory names. One that cannot be served is logged. */
int node_osds_start_all(struct node *n, struct problem *p);

/* Serve no more: 0 when all have nothing in flight, within `ms`. */
void node_osds_stop(struct node *n, uint32_t ms);
void node_osds_halt(struct node *n);
void node_osds_free(struct node *n);

/* ---- node_osd.c: on the control loop ---- */

struct net *node_osd_route(struct node *n, uint32_t id);
void node_osds_query(void *node, struct admin_osds *q);

/* ---- node_disk.c ---- */

/* admin's disk_add: on the control loop, hands it to the worker. */
void node_disk_add(void *node, struct admin_disk *d);
void node_worker_join(struct node *n);

/* ---- node_control.c: commands from plain threads ---- */

/* Submit and wait, at most `ms`. What the command points to must live until then. */
void node_command(struct node *n, const struct meta_command *command, uint32_t ms,
                  struct meta_result *result);

/* The control loop's parts, in order; each is told apart in the problem. */
int node_control_start(struct node *n, struct problem *p);
int node_admin_start(struct node *n, struct problem *p);

/* Free what they hold. The loops are halted. */
void node_control_free(struct node *n);

/* ---- node_gateway.c: on a plain thread ---- */

int node_gateway_start(struct node *n, struct problem *p);
/* Serve what is in flight, drop the connections; within `ms`. */
void node_gateway_stop(struct node *n, uint32_t ms);
void node_gateway_free(struct node *n);

#endif /* NODE_IMPL_H */
