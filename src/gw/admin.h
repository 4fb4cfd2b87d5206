/*
 * The admin API of a node, on its unix socket: /api/v1/NOUNS[/NAME[/ACTION]], JSON in and out,
 * errors as application/problem+json {"error": {code, message, why, action}}.
 *
 *   GET    status                  in words: writable, survives another failure, checks
 *   GET    nodes | osds | pools | images          arrays
 *   GET    pools/NAME | images/NAME
 *   POST   images                  {"name", "size_bytes", "pool"?}
 *   DELETE images/NAME
 *   POST   disks                   {"path", "size_bytes"?, "sparse"?, "force"?}
 *   GET    meta                    the replicated state, table by table
 *
 * The header Idempotency-Key (32 hex digits) makes a repeated POST or DELETE safe: the recorded
 * result is given again. An answer to a change is sent when the change shows in this node's map.
 *
 * Threading: all of it runs on the control loop; libmicrohttpd's thread only passes requests on
 * (gw/http.h). Memory: one small allocation a request, at most HTTP_REQUESTS_MAX of them.
 */

#ifndef GW_ADMIN_H
#define GW_ADMIN_H

#include "gw/http.h"
#include "meta/meta.h"

/* What only the node itself can do: make a file or device an OSD and serve it. */
struct admin_disk {
    /* Set by the caller. */
    char path[HTTP_PATH_MAX];
    uint64_t size; /* 0: as large as it is */
    bool sparse;   /* do not reserve the space now (the demo) */
    bool force;    /* overwrite what is there */
    void (*done)(struct admin_disk *d);

    /* Valid in done(). */
    struct problem problem; /* kind NONE: it worked */
    uint32_t osd;
    uint64_t size_bytes;
};

/* A row of what the OSDs served here know of themselves. */
struct admin_osd_row {
    uint32_t id;
    bool registered, failed;
    bool full; /* it refuses what is new */
    uint32_t pgs_primary, pgs_active, pgs_recovering;
    uint64_t recovery_objects_left, used_bytes, data_bytes, free_bytes, objects, crc_errors;
    uint64_t repaired_objects; /* that its own device did not give back */
    uint64_t scrub_bad_blocks, scrub_permille, scrub_started_s, scrub_finished_s; /* store.h */
    bool scrub_late;
    uint64_t discarded_bytes;
};

enum { ADMIN_OSDS_MAX = 64 };

/* Asks every local OSD loop. Those that do not answer within a second are left out. */
struct admin_osds {
    void (*done)(struct admin_osds *q);
    uint32_t count;
    struct admin_osd_row rows[ADMIN_OSDS_MAX];
};

struct admin_config {
    struct loop *loop; /* the control loop */
    struct meta *meta;
    const char *unix_path;
    uint32_t node;
    const char *node_name;
    const uint8_t *cluster; /* 16 bytes */
    const char *nbd;        /* "nbd://HOST:PORT", or NULL when this node has no NBD */

    void (*disk_add)(void *arg, struct admin_disk *d);
    void (*osds)(void *arg, struct admin_osds *q);
    bool (*node_is_up)(void *arg, uint32_t node);
    void *arg;
};

struct admin;

/* As http_open(). */
int admin_open(const struct admin_config *config, struct admin **out);

/* On its loop: answer what comes from now on, and what waits, with "this node is stopping". */
void admin_refuse(struct admin *a);
bool admin_idle(struct admin *a);
void admin_close(struct admin *a); /* admin_idle(), or its loop has stopped for good */

#endif /* GW_ADMIN_H */
