/* `skerry node`: one process, its loops and what runs on them. See src/node_impl.h. */

#ifndef NODE_H
#define NODE_H

#include "cli/cli.h"

/* Runs until a signal ends it. 0: an orderly stop. -1: it could not start; the problem says why. */
int node_main(struct cli *c, struct problem *p);

#endif /* NODE_H */
