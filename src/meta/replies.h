/* Answers larger than a frame's inline body: memory that lives until the answer has left, and that
 * is found again when the loop died with answers on their way. */

#ifndef META_REPLIES_H
#define META_REPLIES_H

#include "net/rpc.h"

struct replies {
    struct list list;
};

void replies_init(struct replies *r);
void replies_deinit(struct replies *r); /* the loop is dead */

/* Copies the body and answers. */
void replies_send(struct replies *r, struct rpc_request *req, int status, struct slice body);

#endif /* META_REPLIES_H */
