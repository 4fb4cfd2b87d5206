/*
 * The node directory (DESIGN.md section 17), 0700, on the host's file system:
 *
 *   identity      who this node is: written once, by init or join, as the last thing they do
 *   lock          locked (fcntl) by the node that runs
 *   incarnation   how often the node was started; durable before the node talks to anybody
 *   pid           of the node that runs, removed when it stops in order
 *   ports         JSON: where the node listens, kept so that a restart listens there again
 *   joining       the join_id while a join is under way: a second attempt is the same join
 *   raft/ osd/    the log; one link a disk, named by the OSD's number
 *
 * The identity is lines of key = value:
 *
 *   version = 1            another one is refused
 *   cluster = 32 hex       node = N          name = NAME         founder = 0|1
 *   secret = 64 hex        join_id = 32 hex  listen = IP:PORT    replicas = N
 *   contact = N@IP:PORT    once for each node that was known then
 *
 * A file is replaced by writing another aside, syncing it, renaming it, and syncing the folder.
 */

#ifndef CLI_NODEDIR_H
#define CLI_NODEDIR_H

#include <sys/types.h>

#include "gw/problem.h"
#include "io/loop.h"
#include "meta/map.h"

enum { IDENTITY_CONTACTS_MAX = 8, NODEDIR_PATH_MAX = 4096 };

struct identity_contact {
    uint32_t node;
    struct loop_addr addr;
};

struct identity {
    uint8_t cluster[16];
    uint8_t secret[32];
    uint8_t join_id[16]; /* makes the join idempotent */
    uint32_t node;
    char name[META_NAME_MAX];
    struct loop_addr listen;
    uint32_t replicas; /* of the default pool; the founder proposes it */
    bool founder;
    uint32_t contacts_count;
    struct identity_contact contacts[IDENTITY_CONTACTS_MAX];
};

/* All: 0, or -1 with the problem filled in. */

/* Make it if it is missing, for its owner only. A directory that has an identity already, or holds
 * anything but what a node keeps in it, is refused. */
int nodedir_create(const char *dir, struct problem *p);

int nodedir_write_identity(const char *dir, const struct identity *id, struct problem *p);
int nodedir_read_identity(const char *dir, struct identity *out, struct problem *p);

/* The number that a join from this directory goes by: `id`, or the one of an earlier attempt that
 * may have been heard. Until the identity is written; then nodedir_joined(). */
int nodedir_join_id(const char *dir, uint8_t id[16], struct problem *p);
void nodedir_joined(const char *dir);

/* Held until the process ends. Refused when another one has it. */
int nodedir_lock(const char *dir, struct problem *p);

/* Count this start: durable when it returns. */
int nodedir_count_start(const char *dir, uint32_t *incarnation, struct problem *p);

int nodedir_write_file(const char *dir, const char *name, const char *text, struct problem *p);

/* The pid of the node that runs in `dir`, by its lock; 0: none does. Not for a process' own
 * directory: closing the file would drop its lock. */
pid_t nodedir_running(const char *dir);

/* What the file `ports` says; NULL when there is none. A new reference. */
json_t *nodedir_read_ports(const char *dir);

/* The admin socket that the node in `dir` wrote down. -1: it wrote none. */
int nodedir_admin_path(const char *dir, char *dst, size_t dst_size);

/* "DIR/NAME". False when it does not fit. */
bool nodedir_path(const char *dir, const char *name, char *dst, size_t dst_size);

#endif /* CLI_NODEDIR_H */
