#include "meta/replies.h"

#include <stdlib.h>

#include "base/pool.h"

struct reply {
    struct list link;
    uint8_t bytes[];
};

void replies_init(struct replies *r)
{
    list_init(&r->list);
}

void replies_deinit(struct replies *r)
{
    struct list *link;

    while ((link = list_pop(&r->list)) != NULL)
        free(container_of(link, struct reply, link));
}

static void on_replied(struct rpc_request *req, void *arg)
{
    struct reply *reply = arg;

    (void)req;
    list_remove(&reply->link);
    free(reply);
}

void replies_send(struct replies *r, struct rpc_request *req, int status, struct slice body)
{
    req->status = status;
    if (body.len <= NET_BODY_INLINE) {
        req->reply_body = body;
        rpc_reply(req);
        return;
    }
    struct reply *reply = mem_zalloc(sizeof(*reply) + body.len);
    memcpy(reply->bytes, body.base, body.len);
    list_init(&reply->link);
    list_push(&r->list, &reply->link);
    req->reply_body = (struct slice){reply->bytes, body.len};
    req->replied = on_replied;
    req->replied_arg = reply;
    rpc_reply(req);
}
