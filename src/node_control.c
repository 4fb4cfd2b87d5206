#include "node_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"

/* ---- The control net: on its loop ---- */

static int control_resolve(void *arg, net_endpoint peer, struct loop_addr *out)
{
    struct node *n = arg;
    return n->meta != NULL ? meta_resolve(n->meta, peer, out) : -ENOENT;
}

static void control_handle(void *arg, struct rpc_request *req)
{
    struct node *n = arg;
    if (n->meta != NULL)
        meta_handle(n->meta, req);
    else
        rpc_reply_status(req, -EAGAIN);
}

static void control_peer_up(void *arg, net_endpoint e, uint32_t incarnation)
{
    struct node *n = arg;
    if (n->meta != NULL)
        meta_peer_up(n->meta, e, incarnation);
}

static void control_peer_lost(void *arg, net_endpoint e, uint32_t incarnation, int why)
{
    struct node *n = arg;
    if (n->meta != NULL)
        meta_peer_lost(n->meta, e, incarnation, why);
}

static struct net *control_route(void *arg, net_endpoint target)
{
    struct node *n = arg;
    if (meta_endpoint_is_control_of(target, n->identity.node))
        return n->control_net;
    if (net_endpoint_kind(target) == NET_OSD)
        return node_osd_route(n, (uint32_t)net_endpoint_id(target));
    return NULL;
}

static bool control_node_is_up(void *arg, uint32_t node)
{
    struct node *n = arg;
    return node == n->identity.node || meta_node_is_up(n->meta, node);
}

/* Storage of the log failed, or the state differs: what this node would say counts no more. */
static void control_fatal(void *arg, const char *what, int error)
{
    (void)arg;
    log_error("node", "%s: this node stops error=%d (%s)", what, -error, strerror(-error));
    _exit(1);
}

/* ---- Starting ---- */

static int control_start_meta(struct node *n)
{
    struct net_config net = {.loop = n->control.loop,
                             .identity = n->net_identity,
                             .self = net_endpoint_make(NET_CONTROL, n->identity.node),
                             .incarnation = n->incarnation,
                             .resolve = control_resolve,
                             .handle = control_handle,
                             .peer_up = control_peer_up,
                             .peer_lost = control_peer_lost,
                             .arg = n};
    int result = net_create(&net, &n->control_net);
    if (result < 0)
        return result;

    struct meta_config meta = {.loop = n->control.loop,
                               .net = n->control_net,
                               .dir = n->conf.dir,
                               .node = n->identity.node,
                               .node_incarnation = n->incarnation,
                               .node_name = n->conf.name,
                               .location = n->conf.location,
                               .advertise = n->conf.advertise,
                               .fatal = control_fatal,
                               .arg = n};
    if (!n->identity.founder)
        memcpy(meta.join_id, n->identity.join_id, sizeof(meta.join_id));
    result = meta_open(&meta, &n->meta);
    if (result < 0)
        return result;
    for (uint32_t i = 0; i < n->identity.contacts_count; i++)
        if (n->identity.contacts[i].node != n->identity.node)
            meta_add_contact(n->meta, &n->identity.contacts[i].addr, n->identity.contacts[i].node);

    if (n->identity.founder)
        meta_init_cluster(n->meta, n->identity.cluster, n->identity.replicas);
    return 0;
}

static int control_start_on_loop(void *arg)
{
    struct node *n = arg;
    return control_start_meta(n);
}

static int control_listen_on_loop(void *arg)
{
    struct node *n = arg;
    struct loop_addr bound;
    struct net_acceptor_config acceptor = {.loop = n->control.loop,
                                           .identity = n->net_identity,
                                           .incarnation = n->incarnation,
                                           .listen = n->conf.listen,
                                           .route = control_route,
                                           .arg = n};
    return net_acceptor_create(&acceptor, &bound, &n->acceptor);
}

static int control_cannot_listen(struct node *n, int error, struct problem *p)
{
    char addr[LOOP_ADDR_STR];
    loop_addr_format(&n->conf.listen, addr, sizeof(addr));
    problem_set(p, PROBLEM_FAILED, error == -EADDRINUSE ? "port_in_use" : "listen_failed",
                "cannot listen on %s for the other nodes", addr);
    problem_why(p, "%s",
                error == -EADDRINUSE      ? "another process listens there"
                : error == -EADDRNOTAVAIL ? "no network interface of this machine has that address"
                                          : strerror(-error));
    problem_action(p, "%schoose another address with --listen ADDR",
                   error == -EADDRINUSE ? "stop that process, or " : "");
    return -1;
}

int node_control_start(struct node *n, struct problem *p)
{
    int result = node_thread_call(&n->control, control_listen_on_loop, n);
    if (result < 0)
        return control_cannot_listen(n, result, p);
    result = node_thread_call(&n->control, control_start_on_loop, n);
    if (result == 0)
        return 0;
    problem_set(p, PROBLEM_FAILED, result == -EBADMSG ? "log_corrupt" : "log_failed",
                "the cluster state in %.200s/raft cannot be loaded", n->conf.dir);
    problem_why(p, "%s",
                result == -EBADMSG ? "it is damaged in a way that cannot be mended here"
                                   : strerror(-result));
    problem_action(p, "see the log above; a node whose log is lost is wiped and joins anew");
    return -1;
}

static int admin_open_on_loop(void *arg)
{
    struct node *n = arg;
    struct admin_config config = {.loop = n->control.loop,
                                  .meta = n->meta,
                                  .unix_path = n->conf.admin,
                                  .node = n->identity.node,
                                  .node_name = n->conf.name,
                                  .cluster = n->identity.cluster,
                                  .nbd = n->conf.nbd_off ? NULL : n->nbd_url,
                                  .disk_add = node_disk_add,
                                  .osds = node_osds_query,
                                  .node_is_up = control_node_is_up,
                                  .arg = n};
    return admin_open(&config, &n->admin);
}

int node_admin_start(struct node *n, struct problem *p)
{
    int result = node_thread_call(&n->control, admin_open_on_loop, n);
    if (result == 0)
        return 0;
    problem_set(p, result == -ENAMETOOLONG ? PROBLEM_USAGE : PROBLEM_FAILED,
                result == -EADDRINUSE     ? "socket_in_use"
                : result == -ENAMETOOLONG ? "path_too_long"
                                          : "listen_failed",
                "cannot listen on the admin socket %.200s", n->conf.admin);
    problem_why(p, "%s",
                result == -EADDRINUSE     ? "another node answers there"
                : result == -ENAMETOOLONG ? "the path of a socket has at most 107 bytes"
                                          : strerror(-result));
    problem_action(p, "choose another path with --admin PATH");
    return -1;
}

/* ---- Commands from plain threads ---- */

struct control_command {
    struct node *node;
    struct meta_call call;
    uint32_t ms;
    sem_t done;
};

static void command_on_done(struct meta_call *c)
{
    struct control_command *command = container_of(c, struct control_command, call);
    sem_post(&command->done);
}

static int command_on_loop(void *arg)
{
    struct control_command *c = arg;
    struct meta_access *access = meta_access(c->node->meta);
    c->call.loop = c->node->control.loop;
    c->call.deadline_ns = loop_now(c->call.loop) + c->ms * NS_PER_MS;
    c->call.done = command_on_done;
    access->submit(access, &c->call);
    return 0;
}

void node_command(struct node *n, const struct meta_command *command, uint32_t ms,
                  struct meta_result *result)
{
    struct control_command c = {.node = n, .call = {.command = *command}, .ms = ms};
    sem_init(&c.done, 0, 0);
    node_thread_call(&n->control, command_on_loop, &c);
    while (!node_sem_wait(&c.done, 1000)) /* its deadline ends it */
        ;
    *result = c.call.result;
    sem_destroy(&c.done);
}

/* ---- The end ---- */

void node_control_free(struct node *n)
{
    if (n->admin != NULL)
        admin_close(n->admin);
    if (n->meta != NULL)
        meta_close(n->meta);
    if (n->acceptor != NULL)
        net_acceptor_destroy(n->acceptor);
    if (n->control_net != NULL)
        net_destroy(n->control_net);
}
