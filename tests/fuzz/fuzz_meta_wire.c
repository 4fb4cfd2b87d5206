/*
 * What meta reads from others that is not an entry of the log: rows of snapshots and deltas,
 * results, requests and answers of joiners, answers to who follows, and every request that a
 * node's control endpoint takes. The first byte says which. Nothing may crash, leak, or believe a
 * length; what is accepted is written as what reads the same; a node answers each request once.
 *
 * The node is a real one, alone in the simulator, with a net that is ours.
 */

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"
#include "io/sim.h"
#include "meta/meta_impl.h"
#include "meta/meta_join.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- The net: calls go nowhere, or are answered by the input ---- */

static uint32_t answers;
static struct rpc_call *asked; /* the last call with an answer buffer */
static struct rpc_request *asking[64];
static uint32_t asking_count;

void rpc_call_start(struct net *n, struct rpc_call *c)
{
    (void)n;
    asked = c;
}

void rpc_call_cancel(struct net *n, struct rpc_call *c)
{
    (void)n, (void)c;
}

void rpc_send_start(struct net *n, struct rpc_call *c)
{
    (void)n, (void)c;
}

void net_kick(struct net *n)
{
    (void)n;
}

void net_want(struct net *n, net_endpoint peer, bool wanted)
{
    (void)n, (void)peer, (void)wanted;
}

void rpc_reply(struct rpc_request *req)
{
    bool found = false;

    for (uint32_t i = 0; i < asking_count && !found; i++) {
        found = asking[i] == req;
        if (found)
            asking[i] = asking[--asking_count];
    }
    check(found); /* once, and only what was asked */
    check(req->reply_body.len <= NET_BODY_MAX);
    answers++;
    if (req->replied != NULL)
        req->replied(req, req->replied_arg);
}

/* ---- Rows, results, joiners ---- */

static void try_rows(struct slice bytes)
{
    static uint8_t once[META_ROW_MAX], twice[META_ROW_MAX];
    struct meta_row row;
    struct unpack u, v;
    struct map *map, *next;
    struct pack p;

    unpack_init(&u, bytes);
    while (unpack_left(&u) > 0 && meta_row_get(&u, &row) == 0) {
        pack_init(&p, once, sizeof(once));
        meta_row_put(&p, &row);
        check(!p.failed); /* META_ROW_MAX is enough for each */
        size_t len = p.len;
        unpack_init(&v, (struct slice){once, len});
        check(meta_row_get(&v, &row) == 0 && unpack_left(&v) == 0);
        pack_init(&p, twice, sizeof(twice));
        meta_row_put(&p, &row);
        check(p.len == len && memcmp(once, twice, len) == 0);
    }
    bool whole = !u.failed && unpack_left(&u) == 0;
    int error = map_build(NULL, bytes, 1, &map);
    check(whole == (error == 0));
    if (error < 0)
        return;
    for (uint32_t i = 0; i < map->images_count; i++)
        check(map_image_by_name(map, map->images[i].name) != NULL);
    /* The first half of the rows again, on top. */
    if (map_build(map, (struct slice){bytes.base, bytes.len / 2}, 2, &next) == 0)
        map_unref(next);
    map_unref(map);
}

static void try_result(struct slice bytes)
{
    struct meta_result r, again;
    uint8_t buf[META_RESULT_MAX];
    struct pack p;

    if (meta_result_decode(bytes, &r) < 0)
        return;
    pack_init(&p, buf, sizeof(buf));
    meta_result_encode(&p, &r);
    check(!p.failed);
    check(meta_result_decode((struct slice){buf, p.len}, &again) == 0);
    check(again.code == r.code && again.id == r.id && again.revision == r.revision);
    check(strcmp(again.message, r.message) == 0);
}

static void try_joiner(struct slice bytes)
{
    struct meta_join_request request, request_again;
    struct meta_join_answer answer, answer_again;
    uint8_t buf[META_JOIN_ANSWER_MAX];

    if (meta_join_request_get(bytes, &request) == 0) {
        size_t len = meta_join_request_put(buf, META_JOIN_REQUEST_MAX, &request);
        check(len > 0);
        check(meta_join_request_get((struct slice){buf, len}, &request_again) == 0);
        check(memcmp(&request, &request_again, sizeof(request)) == 0);
    }
    if (meta_join_answer_get(bytes, &answer) == 0) {
        size_t len = meta_join_answer_put(buf, sizeof(buf), &answer);
        check(len > 0);
        check(meta_join_answer_get((struct slice){buf, len}, &answer_again) == 0);
        check(answer.node == answer_again.node);
        check(answer.contacts_count == answer_again.contacts_count);
    }
}

/* ---- Worlds ---- */

static struct sim *sim;
static struct sim_host *host;
static struct loop *loop;

static void world_open(void)
{
    sim = sim_create(&(struct sim_config){.seed = 1});
    host = sim_host_create(sim, 1);
    loop = sim_loop_create(host);
}

static void world_kill(void)
{
    sim_host_crash(host, false);
}

static void world_close(void)
{
    loop_destroy(loop);
    sim_destroy(sim);
}

static void pass_ms(uint64_t ms)
{
    sim_run_until(sim, sim_now(sim) + ms * NS_PER_MS);
}

/* ---- Who follows, and is answered by the input ---- */

struct viewer {
    struct map_feed feed;
    uint64_t revision;
};

static void on_map(struct map_feed *f, const struct map *map)
{
    struct viewer *v = container_of(f, struct viewer, feed);

    check(map->revision > v->revision);
    v->revision = map->revision;
}

static void give_answer(const uint8_t **data, size_t *size)
{
    struct rpc_call *c = asked;
    size_t len = (*data)[0] | (size_t)(*data)[1] << 8;

    *data += 2;
    *size -= 2;
    len = len > *size ? *size : len;
    len = len > c->body_buf_size ? c->body_buf_size : len;
    if (len > 0)
        memcpy(c->body_buf, *data, len);
    *data += len;
    *size -= len;
    asked = NULL;
    c->status = 0;
    c->answered = true;
    c->reply_body = (struct slice){c->body_buf, len};
    c->done(c);
    pass_ms(2);
}

static void try_follower(const uint8_t *data, size_t size)
{
    struct loop_addr contact = {.port = 7400};
    struct viewer viewer = {.feed = {.on_map = on_map}};
    struct meta_remote *remote;

    world_open();
    asked = NULL;
    struct meta_remote_config config = {
        .loop = loop, .net = (struct net *)&sim, .contacts = &contact, .contacts_count = 1};
    check(meta_remote_open(&config, &remote) == 0);
    viewer.feed.loop = loop;
    meta_remote_access(remote)->feed_add(meta_remote_access(remote), &viewer.feed);
    pass_ms(2);
    for (uint32_t turn = 0; turn < 32 && size >= 2; turn++) {
        if (asked == NULL)
            pass_ms(1100); /* it pauses after an answer it could not use */
        check(asked != NULL);
        give_answer(&data, &size);
    }
    world_kill();
    meta_remote_close(remote);
    world_close();
}

/* ---- A node that is asked ---- */

static void on_fatal(void *arg, const char *what, int error)
{
    (void)arg, (void)what, (void)error;
    never("a request stopped the node");
}

static struct meta *node_open(void)
{
    uint8_t cluster[16] = {7};
    struct meta_config config = {.loop = loop,
                                 .net = (struct net *)&sim,
                                 .dir = "/node",
                                 .node = 1,
                                 .node_incarnation = 1,
                                 .node_name = "a",
                                 .fatal = on_fatal};
    struct meta *m;

    check(loop_dir_create(loop, "/node") == 0);
    check(raft_core_bootstrap_sized(loop, "/node/raft", 1, 1 << 20) == 0);
    check(meta_open(&config, &m) == 0);
    meta_init_cluster(m, cluster, 1);
    pass_ms(300);
    check(meta_is_registered(m));
    return m;
}

static void ask(struct meta *m, struct rpc_request *req, const uint8_t **data, size_t *size)
{
    static const enum net_kind froms[] = {NET_CONTROL, NET_OSD, NET_CLIENT, NET_JOINER};
    static const uint16_t kinds[] = {META_RPC_SUBMIT, META_RPC_HEARTBEAT, META_RPC_REPORT,
                                     META_RPC_WATCH,  META_RPC_JOIN,      META_RPC_KIND_LAST};
    size_t len = (*data)[2];

    *req = (struct rpc_request){.from = net_endpoint_make(froms[(*data)[0] % 4], (*data)[0] / 4),
                                .kind = kinds[(*data)[1] % COUNT_OF(kinds)],
                                .from_advertise = {.port = (*data)[0]}};
    *data += 3;
    *size -= 3;
    len = len > *size ? *size : len;
    uint8_t *body = malloc(len + 1);
    check(body != NULL);
    if (len > 0)
        memcpy(body, *data, len);
    req->body = (struct slice){body, len};
    req->user = body;
    *data += len;
    *size -= len;
    asking[asking_count++] = req;
    meta_handle(m, req);
}

static void try_node(const uint8_t *data, size_t size)
{
    enum { REQUESTS_MAX = 24 };
    struct rpc_request *requests = mem_zalloc(REQUESTS_MAX * sizeof(*requests));
    uint32_t count = 0;

    world_open();
    struct meta *m = node_open();
    asking_count = answers = 0;
    while (size >= 3 && count < REQUESTS_MAX) {
        ask(m, &requests[count++], &data, &size);
        pass_ms(count % 4 == 0 ? 5 : 0);
    }
    pass_ms(12000); /* longer than any of them may wait */
    check(answers == count && asking_count == 0);
    world_kill();
    meta_close(m);
    world_close();
    for (uint32_t i = 0; i < count; i++)
        free(requests[i].user);
    free(requests);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    uint8_t *copy = malloc(size);
    check(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    struct slice rest = {copy, size - 1};
    switch (data[0] % 5) {
    case 0:
        try_rows(rest);
        break;
    case 1:
        try_result(rest);
        break;
    case 2:
        try_joiner(rest);
        break;
    case 3:
        try_follower(copy, size - 1);
        break;
    case 4:
        try_node(copy, size - 1);
        break;
    }
    free(copy);
    return 0;
}
