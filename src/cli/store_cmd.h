/* The store commands: what store_cmd.c and store_cmd_dump.c have in common. They need no node. */

#ifndef CLI_STORE_CMD_H
#define CLI_STORE_CMD_H

#include "cli/cli.h"
#include "io/loop.h"
#include "store/inspect.h"

/* A store that is being looked at. */
struct store_cmd {
    struct cli *c;
    const char *path;
    struct loop *loop;
    struct inspect *in;
    struct inspect_report report;
    json_t *findings; /* array */
};

/* Open and check it. 0, or -1 with the problem. Either way store_cmd_close() ends it. */
int store_cmd_open(struct store_cmd *sc, struct cli *c, struct problem *p);
void store_cmd_close(struct store_cmd *sc);

/* Numbers of a store have 64 bits, those of JSON here 63: beyond, they are strings. */
json_t *store_cmd_u64(uint64_t value);
void store_cmd_put(json_t *o, const char *key, uint64_t value);
json_t *store_cmd_hex64(uint64_t value);
json_t *store_cmd_hex32(uint32_t value);
json_t *store_cmd_super(const struct inspect_super *copy, uint32_t number);

#endif /* CLI_STORE_CMD_H */
