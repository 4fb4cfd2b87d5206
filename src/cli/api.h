/* Talking to a node's admin API from a tool: libcurl over the unix socket. */

#ifndef CLI_API_H
#define CLI_API_H

#include "cli/cli.h"

/*
 * method: "GET", "POST", "DELETE". path: below /api/v1/, already encoded. body: NULL or an object,
 * whose reference it takes. 0 with *reply (a new reference), or -1 with the problem: the node's
 * own, or that it cannot be reached. A change is sent with a fresh Idempotency-Key.
 */
int api_call(const char *admin_path, const char *method, const char *path, json_t *body,
             uint32_t timeout_s, json_t **reply, struct problem *p);

/* The same with the socket that the command line names, and 30 s. */
int cli_api(const struct cli *c, const char *method, const char *path, json_t *body, json_t **reply,
            struct problem *p);

/* "NOUN/NAME" with the name percent-encoded. */
void api_path(char *dst, size_t dst_size, const char *noun, const char *name);

#endif /* CLI_API_H */
