/* Making a node directory: what init, join and the demo have in common. All: 0, or -1 with the
 * problem filled in. */

#ifndef CLI_SETUP_H
#define CLI_SETUP_H

#include "cli/cli.h"
#include "cli/nodedir.h"

/* name NULL: the host's. listen NULL: 127.0.0.1:7400; port 0: a free one, which is kept. */
int setup_init(const char *dir, const char *name, const char *listen, uint32_t replicas,
               struct identity *id, struct problem *p);
int setup_join(const char *dir, const char *token, const char *name, const char *listen,
               struct identity *id, struct problem *p);

/* A port that nobody has now on this address. */
int setup_free_port(struct loop_addr *addr, struct problem *p);

int setup_parse_addr(const char *text, const char *what, struct loop_addr *out, struct problem *p);

/* A warning on stderr when `addr` is not loopback. */
void setup_warn_open(const char *what, const struct loop_addr *addr);

/* Does a file or device begin with nothing but zeros? Anything else is somebody's data. -errno. */
int setup_is_blank(const char *path, bool *blank);

void setup_format_uuid(const uint8_t uuid[16], char dst[37]);

/* Why a loop of this kind could not be made. */
int setup_no_loop(enum loop_kind kind, int error, struct problem *p);

#endif /* CLI_SETUP_H */
