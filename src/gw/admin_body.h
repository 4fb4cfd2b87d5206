/* The JSON object in a request's body: does it hold what the request takes, and nothing else? */

#ifndef GW_ADMIN_BODY_H
#define GW_ADMIN_BODY_H

#include <stdbool.h>

#include "gw/problem.h"

struct admin_key {
    const char *name;
    json_type type; /* JSON_STRING, JSON_INTEGER; JSON_TRUE: either truth */
    bool must;      /* it may not be left out */
};

/* False: the problem names the key that is unknown, missing or of the wrong kind. */
bool admin_body_fits(json_t *body, const struct admin_key *keys, size_t count, struct problem *p);

#endif /* GW_ADMIN_BODY_H */
