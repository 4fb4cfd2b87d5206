/* A tool's short talk with a cluster it is not yet a member of. */

#ifndef CLI_JOIN_H
#define CLI_JOIN_H

#include "cli/nodedir.h"

/*
 * Ask the contacts of `id`, in turn, for a node number by id's name, listen address and join_id;
 * give up after 15 s. Sets id->node and adds the nodes known there to its contacts. -1 with a
 * problem: NOT_PERMITTED when a contact refused the secret, EXISTS when the name is taken,
 * UNREACHABLE otherwise.
 */
int join_cluster(struct identity *id, struct problem *p);

#endif /* CLI_JOIN_H */
