#include "node_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <unistd.h>

#include "base/log.h"
#include "base/pool.h"
#include "base/text.h"
#include "cli/setup.h"

/* ---- The net of an OSD: on its loop ---- */

static int osd_net_resolve(void *arg, net_endpoint peer, struct loop_addr *out)
{
    struct node_osd *o = arg;
    return o->osd != NULL ? osd_resolve(o->osd, peer, out) : -ENOENT;
}

static void osd_net_handle(void *arg, struct rpc_request *req)
{
    struct node_osd *o = arg;
    if (o->osd != NULL)
        osd_handle(o->osd, req);
    else
        rpc_reply_status(req, -EAGAIN);
}

static void osd_net_peer_lost(void *arg, net_endpoint peer, uint32_t incarnation, int why)
{
    struct node_osd *o = arg;
    if (o->osd != NULL)
        osd_peer_lost(o->osd, peer, incarnation, why);
}

/* ---- What becomes of it ---- */

static void osd_on_cluster_told(struct meta_call *c)
{
    struct node_osd *o = container_of(c, struct node_osd, call_failed);
    if (c->result.code != 0)
        log_warn("node", "the cluster was not told that the device of osd.%u failed: %s", o->id,
                 c->result.message);
}

/* A device that lost a write is not believed again, whatever it says after a restart. One that had
 * no room is: its file system may get some. */
static void osd_tell_cluster(struct node_osd *o)
{
    struct meta_access *access = meta_access(o->node->meta);
    o->call_failed = (struct meta_call){
        .loop = o->node->control.loop,
        .command = {.kind = META_OSD_FAILED, .osd = o->id, .incarnation = o->incarnation},
        .done = osd_on_cluster_told,
    };
    access->submit(access, &o->call_failed);
}

static void osd_told_on_control(struct loop_msg *msg)
{
    struct node_osd_told *told = container_of(msg, struct node_osd_told, msg);
    struct node_osd *o = told->osd;
    bool first = o->outcome == NODE_OSD_STARTING;
    if (told->outcome == NODE_OSD_SERVING)
        o->incarnation = told->incarnation;
    o->outcome = told->outcome;
    meta_serve_osd(o->node->meta, o->id, o->incarnation, o->outcome == NODE_OSD_SERVING);
    if (told->outcome == NODE_OSD_FAILED && told->error == -EIO && o->incarnation != 0)
        osd_tell_cluster(o);
    if (first)
        sem_post(&o->settled);
}

static void osd_tell(struct node_osd *o, struct node_osd_told *told, enum node_osd_outcome outcome,
                     uint32_t incarnation)
{
    told->osd = o;
    told->outcome = outcome;
    told->incarnation = incarnation;
    told->msg.run = osd_told_on_control;
    loop_post(o->node->control.loop, &told->msg);
}

static void osd_on_serving(void *arg, uint32_t id, uint32_t incarnation)
{
    struct node_osd *o = arg;
    char sub[24];
    snprintf(sub, sizeof(sub), "osd.%u", id);
    log_info(sub, "serving path=%s incarnation=%u", o->path, incarnation);
    osd_tell(o, &o->told_serving, NODE_OSD_SERVING, incarnation);
}

static void osd_on_failed(void *arg, uint32_t id, int error, const char *why)
{
    struct node_osd *o = arg;
    char sub[24];
    snprintf(sub, sizeof(sub), "osd.%u", id);
    log_error(sub, "%s: %s path=%s", why, strerror(-error), o->path);
    snprintf(o->why, sizeof(o->why), "%s: %s", why, strerror(-error));
    o->told_failed.error = error;
    osd_tell(o, &o->told_failed, NODE_OSD_FAILED, 0);
}

/* ---- Starting ---- */

static int osd_open_on_loop(void *arg)
{
    struct node_osd *o = arg;
    struct node *n = o->node;
    struct net_config net = {.loop = o->thread.loop,
                             .identity = n->net_identity,
                             .self = net_endpoint_make(NET_OSD, o->id),
                             .resolve = osd_net_resolve,
                             .handle = osd_net_handle,
                             .peer_lost = osd_net_peer_lost,
                             .arg = o};
    int result = net_create(&net, &o->net);
    if (result < 0)
        return result;

    struct osd_config config = {.loop = o->thread.loop,
                                .net = o->net,
                                .meta = meta_access(n->meta),
                                .id = o->id,
                                .node = n->identity.node,
                                .path = o->path,
                                .scrub_period_s = n->conf.scrub_period_s,
                                .scrub_rate = n->conf.scrub_rate,
                                .discard = n->conf.discard,
                                .serving = osd_on_serving,
                                .failed = osd_on_failed,
                                .arg = o};
    memcpy(config.cluster, n->identity.cluster, sizeof(config.cluster));
    return osd_open(&config, &o->osd);
}

struct osd_link {
    struct net *from, *to;
    net_endpoint peer;
};

static int osd_link_on_loop(void *arg)
{
    struct osd_link *l = arg;
    net_link(l->from, l->peer, l->to);
    return 0;
}

static void osd_link(struct node_thread *thread, struct net *from, net_endpoint peer,
                     struct net *to)
{
    struct osd_link l = {.from = from, .to = to, .peer = peer};
    node_thread_call(thread, osd_link_on_loop, &l);
}

/* Every two nets of the process know each other, so no request to a neighbour needs a socket. */
static void osd_link_all(struct node_osd *o)
{
    struct node *n = o->node;
    net_endpoint self = net_endpoint_make(NET_OSD, o->id);

    osd_link(&n->gateway, n->gateway_net, self, o->net);
    osd_link(&n->control, n->control_net, self, o->net);
    osd_link(&o->thread, o->net, net_endpoint_make(NET_CONTROL, n->identity.node), n->control_net);
    for (uint32_t i = 0; i < n->osds_count; i++) {
        struct node_osd *other = n->osds[i];
        if (other == o)
            continue;
        osd_link(&other->thread, other->net, self, o->net);
        osd_link(&o->thread, o->net, net_endpoint_make(NET_OSD, other->id), other->net);
    }
}

static int osd_enter_on_control(void *arg)
{
    struct node_osd *o = arg;
    o->node->osds[o->node->osds_count++] = o;
    return 0;
}

int node_osd_too_many(struct problem *p)
{
    problem_set(p, PROBLEM_FAILED, "too_many_disks", "a node serves at most %d disks",
                NODE_OSDS_MAX);
    problem_action(p, "add the disk to another node");
    return -1;
}

int node_osd_start(struct node *n, uint32_t id, const char *path, struct node_osd **out,
                   struct problem *p)
{
    char name[16];
    if (n->osds_count == NODE_OSDS_MAX)
        return node_osd_too_many(p);
    struct node_osd *o = mem_zalloc(sizeof(*o));
    o->node = n;
    o->id = id;
    str_copy(o->path, sizeof(o->path), path);
    sem_init(&o->settled, 0, 0);
    sem_init(&o->stopped, 0, 0);
    snprintf(name, sizeof(name), "osd.%u", id);

    int result = node_thread_start(&o->thread, n->conf.io, 1024, name);
    if (result < 0) {
        free(o);
        return setup_no_loop(n->conf.io, result, p);
    }
    result = node_thread_call(&o->thread, osd_open_on_loop, o);
    if (result < 0) {
        node_thread_stop(&o->thread);
        if (o->net != NULL)
            net_destroy(o->net);
        node_thread_destroy(&o->thread);
        free(o);
        problem_set(p, PROBLEM_FAILED, "osd_failed", "osd.%u cannot be started", id);
        problem_why(p, "%s", strerror(-result));
        return -1;
    }
    node_thread_call(&n->control, osd_enter_on_control, o);
    osd_link_all(o);
    if (out != NULL)
        *out = o;
    return 0;
}

static int osd_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

int node_osds_start_all(struct node *n, struct problem *p)
{
    char dir[NODEDIR_PATH_MAX], path[NODEDIR_PATH_MAX + 24], real[NODEDIR_PATH_MAX];
    uint64_t ids[NODE_OSDS_MAX];
    uint32_t count = 0;
    nodedir_path(n->conf.dir, "osd", dir, sizeof(dir));
    DIR *d = opendir(dir);
    if (d == NULL) {
        problem_set(p, PROBLEM_FAILED, "directory_failed", "cannot read %.200s", dir);
        problem_why(p, "%s", strerror(errno));
        return -1;
    }
    for (struct dirent *e; (e = readdir(d)) != NULL && count < NODE_OSDS_MAX;)
        if (str_to_u64(e->d_name, &ids[count]) && ids[count] > 0 && ids[count] <= UINT32_MAX)
            count++;
    closedir(d);
    qsort(ids, count, sizeof(ids[0]), osd_compare);

    for (uint32_t i = 0; i < count; i++) {
        struct problem one;
        snprintf(path, sizeof(path), "%s/%u", dir, (uint32_t)ids[i]);
        ssize_t len = readlink(path, real, sizeof(real) - 1);
        real[len > 0 ? len : 0] = '\0';
        if (node_osd_start(n, (uint32_t)ids[i], len > 0 ? real : path, NULL, &one) < 0)
            log_error("node", "%s: %s", one.message, one.why);
    }
    return 0;
}

/* ---- Stopping ---- */

static void osd_stopped_on_control(struct loop_msg *msg)
{
    struct node_osd *o = container_of(msg, struct node_osd, msg_stopped);
    sem_post(&o->stopped);
}

static int osd_stop_on_loop(void *arg)
{
    struct node_osd *o = arg;
    o->msg_stopped.run = osd_stopped_on_control;
    osd_stop(o->osd, o->node->control.loop, &o->msg_stopped);
    return 0;
}

static int osd_unserve_on_control(void *arg)
{
    struct node_osd *o = arg;
    if (o->outcome == NODE_OSD_SERVING)
        meta_serve_osd(o->node->meta, o->id, o->incarnation, false);
    return 0;
}

/* The cluster need not wait for leases of an OSD that says itself that it has stopped. */
static void osds_tell_down(struct node *n)
{
    struct meta_osd_state states[NODE_OSDS_MAX];
    struct meta_command command = {.kind = META_OSD_DOWN, .osds = states};
    struct meta_result result;
    for (uint32_t i = 0; i < n->osds_count; i++)
        if (n->osds[i]->outcome == NODE_OSD_SERVING)
            states[command.list_count++] = (struct meta_osd_state){
                .osd = n->osds[i]->id, .incarnation = n->osds[i]->incarnation, .dead = true};
    if (command.list_count > 0)
        node_command(n, &command, NODE_STOP_COMMAND_MS, &result);
}

void node_osds_stop(struct node *n, uint32_t ms)
{
    bool all = true;
    for (uint32_t i = 0; i < n->osds_count; i++)
        node_thread_call(&n->osds[i]->thread, osd_stop_on_loop, n->osds[i]);
    for (uint32_t i = 0; i < n->osds_count; i++) {
        all = node_sem_wait(&n->osds[i]->stopped, ms) && all;
        node_thread_call(&n->control, osd_unserve_on_control, n->osds[i]);
    }
    if (all)
        osds_tell_down(n);
    else
        log_warn("node", "an OSD still had work in flight when time was up");
}

void node_osds_halt(struct node *n)
{
    for (uint32_t i = 0; i < n->osds_count; i++)
        node_thread_stop(&n->osds[i]->thread);
}

/* ---- On the control loop ---- */

struct net *node_osd_route(struct node *n, uint32_t id)
{
    for (uint32_t i = 0; i < n->osds_count; i++)
        if (n->osds[i]->id == id)
            return n->osds[i]->net;
    return NULL;
}

/*
 * Asking all OSD loops: one message to each, which comes back with its row; or the second is over.
 * A message that comes back too late frees itself: the query counts who still holds it.
 */
struct osds_query {
    struct node *node;
    struct list link;     /* in node->queries */
    struct admin_osds *q; /* NULL once answered */
    struct loop_timer timer;
    struct task task;
    uint32_t left; /* rows on their way */
    bool time_up;
    struct osd_query_row {
        struct osds_query *query;
        struct node_osd *osd;
        struct loop_msg msg;
        struct admin_osd_row row;
    } rows[];
};

static void query_step(struct task *task)
{
    struct osds_query *s = container_of(task, struct osds_query, task);
    if (s->q != NULL && (s->left == 0 || s->time_up)) {
        struct admin_osds *q = s->q;
        s->q = NULL;
        loop_timer_stop(s->node->control.loop, &s->timer);
        q->done(q);
    }
    if (s->q == NULL && s->left == 0) {
        list_remove(&s->link);
        free(s);
    }
}

static void query_on_timer(struct loop_timer *t)
{
    struct osds_query *s = container_of(t, struct osds_query, timer);
    s->time_up = true;
    loop_wake(s->node->control.loop, &s->task);
}

static void query_on_row(struct loop_msg *msg)
{
    struct osd_query_row *r = container_of(msg, struct osd_query_row, msg);
    struct osds_query *s = r->query;
    if (s->q != NULL)
        s->q->rows[s->q->count++] = r->row;
    s->left--;
    loop_wake(s->node->control.loop, &s->task);
}

static void query_on_osd(struct loop_msg *msg)
{
    struct osd_query_row *r = container_of(msg, struct osd_query_row, msg);
    struct osd_status status;
    osd_status(r->osd->osd, &status);
    r->row = (struct admin_osd_row){.id = r->osd->id,
                                    .registered = status.registered,
                                    .failed = status.failed,
                                    .full = status.full,
                                    .pgs_primary = status.pgs_primary,
                                    .pgs_active = status.pgs_active,
                                    .pgs_recovering = status.pgs_recovering,
                                    .recovery_objects_left = status.recovery_objects_left,
                                    .used_bytes = status.store.used_bytes,
                                    .data_bytes = status.store.data_bytes,
                                    .free_bytes = status.store.free_bytes,
                                    .objects = status.store.objects,
                                    .crc_errors = status.store.crc_errors_total,
                                    .repaired_objects = status.repaired_objects_total,
                                    .scrub_bad_blocks = status.store.scrub_bad_total,
                                    .scrub_permille = status.store.scrub_permille,
                                    .scrub_started_s = status.store.scrub_started_s,
                                    .scrub_finished_s = status.store.scrub_finished_s,
                                    .scrub_late = status.store.scrub_late,
                                    .discarded_bytes = status.store.discarded_bytes_total};
    msg->run = query_on_row;
    loop_post(r->query->node->control.loop, msg);
}

void node_osds_query(void *node, struct admin_osds *q)
{
    struct node *n = node;
    struct osds_query *s = mem_zalloc(sizeof(*s) + n->osds_count * sizeof(s->rows[0]));
    s->node = n;
    s->q = q;
    s->left = n->osds_count;
    list_init(&s->link);
    list_push(&n->queries, &s->link);
    q->count = 0;
    task_init(&s->task, query_step);
    loop_timer_init(&s->timer, query_on_timer);
    loop_timer_start(n->control.loop, &s->timer, loop_now(n->control.loop) + NS_PER_S);
    for (uint32_t i = 0; i < n->osds_count; i++) {
        struct osd_query_row *r = &s->rows[i];
        r->query = s;
        r->osd = n->osds[i];
        r->msg.run = query_on_osd;
        loop_post(n->osds[i]->thread.loop, &r->msg);
    }
    loop_wake(n->control.loop, &s->task);
}

/* ---- The end ---- */

void node_osds_free(struct node *n)
{
    for (uint32_t i = 0; i < n->osds_count; i++) {
        struct node_osd *o = n->osds[i];
        osd_close(o->osd);
        net_destroy(o->net);
    }
    for (uint32_t i = 0; i < n->osds_count; i++) {
        struct node_osd *o = n->osds[i];
        node_thread_destroy(&o->thread);
        sem_destroy(&o->settled);
        sem_destroy(&o->stopped);
        free(o);
    }
    n->osds_count = 0;
    struct list *link;
    while ((link = list_pop(&n->queries)) != NULL)
        free(container_of(link, struct osds_query, link));
}
