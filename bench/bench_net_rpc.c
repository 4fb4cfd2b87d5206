/*
 * Round trips of calls that carry 4 KiB of data and a short body, over 127.0.0.1 and in memory; two
 * loops on two threads. The last line is JSON.
 *
 *   bench_net_rpc [SECONDS per case]
 */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "base/pool.h"
#include "net/rpc.h"

enum { DEPTH_MAX = 32, DATA = 4096, BODY = 60 };

struct world;

struct slot {
    struct rpc_call rpc;
    struct world *w;
    uint8_t body[BODY];
    struct iovec iov;
};

struct world {
    struct loop *server, *client;
    struct net_acceptor *acceptor;
    struct net *server_net, *client_net;
    struct loop_addr addr;
    struct loop_msg begin;
    struct loop_timer end;
    uint32_t depth;
    bool in_process, stopping;
    uint64_t duration_ns, started_ns, ended_ns;
    uint64_t calls;
    uint32_t open;
    struct slot slots[DEPTH_MAX];
};

struct result {
    double per_second, cpu_us, latency_us;
};

static int on_resolve(void *arg, net_endpoint e, struct loop_addr *out)
{
    (void)e;
    *out = ((struct world *)arg)->addr;
    return 0;
}

/* What a write does: data in, a small answer back. */
static void on_request(void *arg, struct rpc_request *req)
{
    (void)arg;
    check(req->data_len == DATA);
    rpc_reply_status(req, 0);
}

static struct net *on_route(void *arg, net_endpoint target)
{
    (void)target;
    return ((struct world *)arg)->server_net;
}

static void slot_start(struct slot *s)
{
    s->rpc.deadline_ns = loop_now(s->w->client) + 10 * NS_PER_S;
    rpc_call_start(s->w->client_net, &s->rpc);
}

static void slot_done(struct rpc_call *c)
{
    struct slot *s = container_of(c, struct slot, rpc);
    struct world *w = s->w;

    check(c->status == 0);
    w->calls++;
    if (!w->stopping) {
        slot_start(s);
        return;
    }
    if (--w->open == 0) {
        w->ended_ns = loop_now(w->client);
        loop_stop(w->client);
    }
}

static void on_end(struct loop_timer *t)
{
    container_of(t, struct world, end)->stopping = true;
}

static void on_begin(struct loop_msg *msg)
{
    struct world *w = container_of(msg, struct world, begin);

    if (w->in_process)
        net_link(w->client_net, net_endpoint_make(NET_OSD, 1), w->server_net);
    w->started_ns = loop_now(w->client);
    loop_timer_init(&w->end, on_end);
    loop_timer_start(w->client, &w->end, w->started_ns + w->duration_ns);
    w->open = w->depth;
    for (uint32_t i = 0; i < w->depth; i++)
        slot_start(&w->slots[i]);
}

static void *run(void *arg)
{
    loop_run(arg);
    return NULL;
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void world_create(struct world *w)
{
    struct net_identity identity = {.cluster = {1}, .secret = {2}};
    struct net_config config = {
        .identity = identity,
        .self = net_endpoint_make(NET_OSD, 1),
        .incarnation = 1,
        .handle = on_request,
        .resolve = on_resolve,
        .arg = w,
    };
    struct net_acceptor_config acceptor = {.identity = identity, .route = on_route, .arg = w};

    check(loop_create(&w->server, LOOP_AUTO, 256) == 0 &&
          loop_create(&w->client, LOOP_AUTO, 256) == 0);
    config.loop = w->server;
    check(net_create(&config, &w->server_net) == 0);
    config.loop = w->client;
    config.self = net_endpoint_make(NET_CLIENT, 1);
    check(net_create(&config, &w->client_net) == 0);
    acceptor.loop = w->server;
    check(loop_addr_parse("127.0.0.1:0", &acceptor.listen));
    check(net_acceptor_create(&acceptor, &w->addr, &w->acceptor) == 0);
}

static struct result measure(uint32_t depth, bool in_process, uint64_t duration_ns)
{
    struct world *w = mem_zalloc(sizeof(*w));
    uint8_t *data = mem_alloc_aligned(DATA, 4096);
    pthread_t server, client;

    memset(data, 1, DATA);
    w->depth = depth;
    w->in_process = in_process;
    w->duration_ns = duration_ns;
    world_create(w);
    for (uint32_t i = 0; i < depth; i++) {
        struct slot *s = &w->slots[i];
        s->w = w;
        s->iov = (struct iovec){data, DATA};
        s->rpc.to = net_endpoint_make(NET_OSD, 1);
        s->rpc.body = (struct slice){s->body, BODY};
        s->rpc.data = &s->iov;
        s->rpc.data_count = 1;
        s->rpc.done = slot_done;
    }
    uint64_t cpu = cpu_ns();
    w->begin.run = on_begin;
    loop_post(w->client, &w->begin);
    check(pthread_create(&server, NULL, run, w->server) == 0);
    check(pthread_create(&client, NULL, run, w->client) == 0);
    pthread_join(client, NULL);
    cpu = cpu_ns() - cpu;
    loop_stop(w->server);
    pthread_join(server, NULL);

    double seconds = (double)(w->ended_ns - w->started_ns) / 1e9;
    struct result r = {
        .per_second = (double)w->calls / seconds,
        .cpu_us = (double)cpu / 1e3 / (double)w->calls,
        .latency_us = seconds * 1e6 * depth / (double)w->calls,
    };
    loop_halt(w->server);
    loop_halt(w->client);
    net_acceptor_destroy(w->acceptor);
    net_destroy(w->server_net);
    net_destroy(w->client_net);
    loop_destroy(w->server);
    loop_destroy(w->client);
    free(data);
    free(w);
    return r;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        uint32_t depth;
        bool in_process;
    } cases[] = {
        {"tcp_depth_1", 1, false},
        {"tcp_depth_32", 32, false},
        {"local_depth_1", 1, true},
        {"local_depth_32", 32, true},
    };
    uint64_t seconds = argc > 1 ? strtoull(argv[1], NULL, 10) : 2;
    struct result results[COUNT_OF(cases)];

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        results[i] = measure(cases[i].depth, cases[i].in_process, seconds * NS_PER_S);
        printf("%-16s %9.0f calls/s  %6.2f us CPU each  %7.1f us round trip\n", cases[i].name,
               results[i].per_second, results[i].cpu_us, results[i].latency_us);
    }
    printf("{\"bench\": \"net_rpc\", \"data_bytes\": %d", DATA);
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        printf(", \"%s\": {\"calls_per_second\": %.0f, \"cpu_us\": %.2f, \"latency_us\": %.1f}",
               cases[i].name, results[i].per_second, results[i].cpu_us, results[i].latency_us);
    printf("}\n");
    return 0;
}
