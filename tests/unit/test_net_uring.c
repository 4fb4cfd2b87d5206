/*
 * Calls over real sockets and threads: an acceptor on one loop, the net it hands connections to on
 * a second, the caller on a third.
 */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/pool.h"
#include "net/rpc.h"

enum { DEPTH = 32, CALLS = 4000, DATA_MAX = 200000 };

struct world;

struct tcall {
    struct rpc_call rpc;
    struct world *w;
    uint8_t body[64];
    uint8_t *data, *answer;
    struct iovec iov;
};

struct world {
    struct loop *control, *server, *client;
    pthread_t threads[3];
    struct net_acceptor *acceptor;
    struct net *server_net, *client_net;
    struct net_identity identity;
    struct loop_addr addr;
    struct loop_msg begin;
    struct tcall calls[DEPTH];
    bool in_process;
    bool hopeless;
    uint32_t started, ended, ok;
    int last_status;
};

static int on_resolve(void *arg, net_endpoint e, struct loop_addr *out)
{
    struct world *w = arg;

    (void)e;
    *out = w->addr;
    return 0;
}

static void on_request(void *arg, struct rpc_request *req)
{
    (void)arg;
    req->reply_body = req->body;
    if (req->data_len > 0) {
        void *data = rpc_reply_buffer(req, req->data_len);
        check(data != NULL);
        memcpy(data, req->data, req->data_len);
        req->reply_data = data;
        req->reply_data_len = req->data_len;
    }
    rpc_reply(req);
}

static struct net *on_route(void *arg, net_endpoint target)
{
    struct world *w = arg;

    return target == net_endpoint_make(NET_OSD, 1) ? w->server_net : NULL;
}

static void tcall_start(struct tcall *t)
{
    struct world *w = t->w;
    uint32_t n = w->started++;
    uint32_t len = n % 50 == 0 ? DATA_MAX - n : n % 3 == 0 ? 4096 : 0;

    for (uint32_t i = 0; i < len; i += 64)
        t->data[i] = (uint8_t)(n + i / 64);
    memset(t->body, (int)(n & 0xff), sizeof(t->body));
    t->iov = (struct iovec){t->data, len};
    t->rpc.to = net_endpoint_make(NET_OSD, 1);
    t->rpc.kind = 1;
    t->rpc.body = (struct slice){t->body, sizeof(t->body)};
    t->rpc.data = &t->iov;
    t->rpc.data_count = len > 0 ? 1 : 0;
    t->rpc.data_buf = t->answer;
    t->rpc.data_buf_size = DATA_MAX;
    t->rpc.deadline_ns = loop_now(w->client) + 30 * NS_PER_S;
    rpc_call_start(w->client_net, &t->rpc);
}

static void tcall_check(const struct tcall *t)
{
    const struct rpc_call *c = &t->rpc;
    size_t len = t->rpc.data_count > 0 ? t->iov.iov_len : 0;

    check(c->reply_body.len == sizeof(t->body));
    check(memcmp(c->reply_body.base, t->body, sizeof(t->body)) == 0);
    check(c->reply_data_len == len);
    check(len == 0 || memcmp(t->answer, t->data, len) == 0);
}

static void tcall_done(struct rpc_call *c)
{
    struct tcall *t = container_of(c, struct tcall, rpc);
    struct world *w = t->w;

    w->ended++;
    w->last_status = c->status;
    if (c->status == 0) {
        w->ok++;
        tcall_check(t);
    }
    if (w->started < CALLS && !w->hopeless)
        tcall_start(t);
    else if (w->ended == w->started)
        loop_stop(w->client);
}

static void on_begin(struct loop_msg *msg)
{
    struct world *w = container_of(msg, struct world, begin);

    if (w->in_process)
        net_link(w->client_net, net_endpoint_make(NET_OSD, 1), w->server_net);
    for (uint32_t i = 0; i < (w->hopeless ? 1 : DEPTH); i++)
        tcall_start(&w->calls[i]);
}

static void *run(void *arg)
{
    loop_run(arg);
    return NULL;
}

static void world_init(struct world *w)
{
    *w = (struct world){.identity = {.cluster = {1}, .secret = {2}}};
    assert_int_equal(loop_create(&w->control, LOOP_AUTO, 64), 0);
    assert_int_equal(loop_create(&w->server, LOOP_AUTO, 256), 0);
    assert_int_equal(loop_create(&w->client, LOOP_AUTO, 256), 0);
    struct net_config config = {
        .loop = w->server,
        .identity = w->identity,
        .self = net_endpoint_make(NET_OSD, 1),
        .incarnation = 3,
        .handle = on_request,
        .resolve = on_resolve,
        .arg = w,
    };
    assert_int_equal(net_create(&config, &w->server_net), 0);
    config.loop = w->client;
    config.self = net_endpoint_make(NET_CLIENT, 1);
    assert_int_equal(net_create(&config, &w->client_net), 0);
    struct net_acceptor_config acceptor = {
        .loop = w->control,
        .identity = w->identity,
        .route = on_route,
        .arg = w,
    };
    assert_true(loop_addr_parse("127.0.0.1:0", &acceptor.listen));
    assert_int_equal(net_acceptor_create(&acceptor, &w->addr, &w->acceptor), 0);
    for (int i = 0; i < DEPTH; i++) {
        w->calls[i].w = w;
        w->calls[i].data = mem_alloc_aligned(DATA_MAX, 4096);
        memset(w->calls[i].data, 0x77, DATA_MAX);
        w->calls[i].answer = mem_alloc_aligned(DATA_MAX, 4096);
        w->calls[i].rpc.done = tcall_done;
    }
}

/* Runs the client to its end, then everything down. */
static void world_run(struct world *w)
{
    w->begin.run = on_begin;
    loop_post(w->client, &w->begin);
    check(pthread_create(&w->threads[0], NULL, run, w->control) == 0);
    check(pthread_create(&w->threads[1], NULL, run, w->server) == 0);
    check(pthread_create(&w->threads[2], NULL, run, w->client) == 0);
    pthread_join(w->threads[2], NULL);
    loop_stop(w->control);
    loop_stop(w->server);
    pthread_join(w->threads[0], NULL);
    pthread_join(w->threads[1], NULL);
    loop_halt(w->control);
    loop_halt(w->server);
    loop_halt(w->client);
    net_acceptor_destroy(w->acceptor);
    net_destroy(w->server_net);
    net_destroy(w->client_net);
    loop_destroy(w->control);
    loop_destroy(w->server);
    loop_destroy(w->client);
    for (int i = 0; i < DEPTH; i++) {
        free(w->calls[i].data);
        free(w->calls[i].answer);
    }
}

static void calls_over_tcp_are_all_answered(void **state)
{
    static struct world w;

    (void)state;
    world_init(&w);
    world_run(&w);
    assert_int_equal(w.ok, CALLS);
    assert_int_equal(w.ended, CALLS);
}

static void calls_between_threads_are_all_answered(void **state)
{
    static struct world w;

    (void)state;
    world_init(&w);
    w.in_process = true;
    world_run(&w);
    assert_int_equal(w.ok, CALLS);
    assert_int_equal(w.ended, CALLS);
}

static void a_closed_listener_is_refused(void **state)
{
    static struct world w;

    (void)state;
    world_init(&w);
    w.hopeless = true;
    net_acceptor_close_listener(w.acceptor);
    world_run(&w);
    assert_int_equal(w.ended, 1);
    assert_int_equal(w.last_status, -ECONNREFUSED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_over_tcp_are_all_answered),
        cmocka_unit_test(calls_between_threads_are_all_answered),
        cmocka_unit_test(a_closed_listener_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
