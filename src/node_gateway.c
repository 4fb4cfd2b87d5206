#include "node_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static int gateway_resolve(void *arg, net_endpoint peer, struct loop_addr *out)
{
    struct node *n = arg;
    return n->client != NULL ? client_resolve(n->client, peer, out) : -ENOENT;
}

/* Nobody asks a gateway anything. */
static void gateway_handle(void *arg, struct rpc_request *req)
{
    (void)arg;
    rpc_reply_status(req, -EINVAL);
}

static void gateway_peer_lost(void *arg, net_endpoint peer, uint32_t incarnation, int why)
{
    struct node *n = arg;
    if (n->client != NULL)
        client_peer_lost(n->client, peer, incarnation, why);
}

static int gateway_net_on_loop(void *arg)
{
    struct node *n = arg;
    /* Any number will do that no other process of this cluster has: the node and its start. */
    uint64_t id = (uint64_t)n->identity.node << 24 | (n->incarnation & 0xffffff);
    struct net_config net = {.loop = n->gateway.loop,
                             .identity = n->net_identity,
                             .self = net_endpoint_make(NET_CLIENT, id),
                             .incarnation = n->incarnation,
                             .resolve = gateway_resolve,
                             .handle = gateway_handle,
                             .peer_lost = gateway_peer_lost,
                             .arg = n};
    return net_create(&net, &n->gateway_net);
}

static int gateway_client_on_loop(void *arg)
{
    struct node *n = arg;
    struct client_config client = {.loop = n->gateway.loop,
                                   .net = n->gateway_net,
                                   .meta = meta_access(n->meta),
                                   .node = n->identity.node};
    return client_open(&client, &n->client);
}

static int gateway_nbd_on_loop(void *arg)
{
    struct node *n = arg;
    nbd_client_backend_init(&n->nbd_backend, n->client);
    struct nbd_server_config nbd = {
        .loop = n->gateway.loop, .backend = &n->nbd_backend.base, .listen = n->conf.nbd};
    struct loop_addr bound;
    return nbd_server_create(&nbd, &n->nbd, &bound);
}

static int nbd_cannot_listen(struct node *n, int error, struct problem *p)
{
    char addr[LOOP_ADDR_STR];
    loop_addr_format(&n->conf.nbd, addr, sizeof(addr));
    problem_set(p, PROBLEM_FAILED, error == -EADDRINUSE ? "port_in_use" : "listen_failed",
                "cannot listen on %s for NBD clients", addr);
    problem_why(p, "%s",
                error == -EADDRINUSE      ? "another process listens there"
                : error == -EADDRNOTAVAIL ? "no network interface of this machine has that address"
                                          : strerror(-error));
    problem_action(p, "%schoose another address with --nbd ADDR",
                   error == -EADDRINUSE ? "stop that process, or " : "");
    return -1;
}

int node_gateway_start(struct node *n, struct problem *p)
{
    int result = node_thread_call(&n->gateway, gateway_net_on_loop, n);
    if (result == 0)
        result = node_thread_call(&n->gateway, gateway_client_on_loop, n);
    if (result < 0) {
        problem_set(p, PROBLEM_FAILED, "gateway_failed", "the gateway cannot be started");
        problem_why(p, "%s", strerror(-result));
        return -1;
    }
    if (!n->conf.nbd_off)
        result = node_thread_call(&n->gateway, gateway_nbd_on_loop, n);
    if (result == 0)
        return 0;

    return nbd_cannot_listen(n, result, p);
}

/* ---- Stopping ---- */

struct gateway_stop {
    struct node *node;
    struct loop_msg msg;
    sem_t done;
};

static void gateway_stopped_on_control(struct loop_msg *msg)
{
    struct gateway_stop *s = container_of(msg, struct gateway_stop, msg);
    sem_post(&s->done);
}

static int gateway_stop_on_loop(void *arg)
{
    struct gateway_stop *s = arg;
    s->msg.run = gateway_stopped_on_control;
    nbd_server_stop(s->node->nbd, s->node->control.loop, &s->msg);
    return 0;
}

void node_gateway_stop(struct node *n, uint32_t ms)
{
    /* Static: when time is up, the message may still come, until the loops are halted. */
    static struct gateway_stop s;
    if (n->nbd == NULL)
        return;
    s.node = n;
    sem_init(&s.done, 0, 0);
    node_thread_call(&n->gateway, gateway_stop_on_loop, &s);
    if (!node_sem_wait(&s.done, ms))
        log_warn("nbd", "requests were still in flight when time was up");
}

void node_gateway_free(struct node *n)
{
    if (n->nbd != NULL)
        nbd_server_close(n->nbd);
    if (n->client != NULL)
        client_close(n->client);
    if (n->gateway_net != NULL)
        net_destroy(n->gateway_net);
}
