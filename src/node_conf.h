/* What a node is told: command line over environment over node file over what it remembers over
 * defaults (DESIGN.md section 17). */

#ifndef NODE_CONF_H
#define NODE_CONF_H

#include "base/log.h"
#include "cli/cli.h"
#include "cli/nodedir.h"
#include "store/store.h"

struct node_conf {
    char dir[NODEDIR_PATH_MAX];
    char name[META_NAME_MAX];     /* empty: the identity's */
    char location[META_NAME_MAX]; /* empty: the node's name */
    char admin[512];
    bool listen_given, advertise_given, nbd_given, nbd_off;
    struct loop_addr listen, advertise, nbd;
    enum log_level log_level;
    enum loop_kind io;
    uint64_t scrub_period_s, scrub_rate; /* of each disk; 0: none, and the store's default */
    enum store_discard discard;
};

/* Everything but what the node directory remembers. */
int node_conf_read(const struct cli *c, struct node_conf *out, struct problem *p);

/* Fill in what was not given, from the identity and from the ports of the last run. */
int node_conf_complete(struct node_conf *conf, const struct identity *id, struct problem *p);

#endif /* NODE_CONF_H */
