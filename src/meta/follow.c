#include "meta/follow.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/pool.h"

enum {
    ANSWER_MAX = WATCH_ROWS_MAX + 4096,
    DEADLINE_MS = WATCH_WAIT_MS + 1500,
    PAUSE_MS_MIN = 20,
    PAUSE_MS_MAX = 1000,
};

static const size_t rows_max = 1ull << 30; /* of one state in the making */

/* A pass from what we have now. */
static void pass_begin(struct follow *f, bool whole)
{
    const struct map *base = f->base(f->arg);

    f->whole = whole || base == NULL;
    f->since = f->whole ? 0 : base->revision;
    f->first = 0;
    f->table = 0;
    f->key = 0;
    f->rows.len = 0;
}

static void on_reply(struct rpc_call *rpc)
{
    struct follow *f = container_of(rpc, struct follow, rpc);

    f->sent = false;
    loop_wake(f->loop, &f->task);
}

static void send_request(struct follow *f, net_endpoint to)
{
    struct pack p;

    pack_init(&p, f->body, sizeof(f->body));
    pack_array(&p, 4);
    pack_u64(&p, f->since);
    pack_bool(&p, f->whole && f->since == 0);
    pack_u64(&p, f->table);
    pack_u64(&p, f->key);
    check(!p.failed);
    f->rpc = (struct rpc_call){
        .to = to,
        .kind = META_RPC_WATCH,
        .body = {p.base, p.len},
        .deadline_ns = loop_now(f->loop) + DEADLINE_MS * NS_PER_MS,
        .body_buf = f->buf,
        .body_buf_size = ANSWER_MAX,
        .done = on_reply,
    };
    f->sent = true;
    rpc_call_start(f->net, &f->rpc);
}

static void pause_then_retry(struct follow *f)
{
    uint32_t shift = f->attempt < 6 ? f->attempt : 6;
    uint64_t ms = (uint64_t)PAUSE_MS_MIN << shift;

    f->attempt++;
    if (ms > PAUSE_MS_MAX)
        ms = PAUSE_MS_MAX;
    loop_timer_start(f->loop, &f->timer, loop_now(f->loop) + ms * NS_PER_MS);
}

/* The rows gathered are a state: hand them on. */
static bool pass_end(struct follow *f, uint64_t revision)
{
    const struct map *base = f->base(f->arg);
    const struct map *old = f->whole ? NULL : base;
    struct slice rows = {f->rows.base, f->rows.len};
    struct map *map;

    if (base == NULL || revision > base->revision) {
        if (map_build(old, rows, revision, &map) < 0)
            return false;
        f->on_map(f->arg, map, rows, f->whole);
    }
    pass_begin(f, false);
    return true;
}

/* What an answer says; false: nothing to be used, ask somebody else. */
static bool take_answer(struct follow *f)
{
    struct unpack u;

    if (f->rpc.status != 0)
        return false;
    unpack_init(&u, f->rpc.reply_body);
    unpack_array_exact(&u, 6);
    uint32_t leader = unpack_u32(&u);
    uint64_t revision = unpack_u64(&u, UINT64_MAX);
    bool reset = unpack_bool(&u), more = unpack_bool(&u);
    uint32_t table = (uint32_t)unpack_u64(&u, META_TABLE_LAST);
    uint64_t key = unpack_u64(&u, UINT64_MAX);
    if (u.failed)
        return false;
    f->leader(f->arg, leader);
    if (reset) {
        bool again = f->whole;
        pass_begin(f, true);
        return !again;
    }
    if (revision == 0 || revision < f->since || revision < f->first)
        return false; /* it knows less than we do */
    if (f->rows.len + unpack_left(&u) > rows_max)
        return false;
    pack_raw(&f->rows, u.at, unpack_left(&u));
    if (f->first == 0)
        f->first = revision;
    if (more) {
        f->table = table;
        f->key = key;
        return true;
    }
    if (revision == f->first)
        return pass_end(f, revision);
    f->since = f->first;
    f->first = 0;
    f->table = 0;
    f->key = 0;
    return true;
}

/* WAITING for an answer: sent. Pausing: the timer runs. Else a request can go out. */
static void follow_step(struct task *task)
{
    struct follow *f = container_of(task, struct follow, task);
    net_endpoint to;

    if (f->sent || loop_timer_is_running(&f->timer))
        return;
    if (f->rpc.done != NULL) {
        bool good = take_answer(f);
        f->rpc.done = NULL;
        if (good) {
            f->attempt = 0;
        } else {
            pass_begin(f, false);
            pause_then_retry(f);
            return;
        }
    }
    if (!f->running)
        return;
    if (!f->upstream(f->arg, f->attempt, &to)) {
        pause_then_retry(f);
        return;
    }
    send_request(f, to);
}

static void on_timer(struct loop_timer *t)
{
    struct follow *f = container_of(t, struct follow, timer);
    loop_wake(f->loop, &f->task);
}

void follow_run(struct follow *f, bool run)
{
    if (run == f->running)
        return;
    f->running = run;
    if (run && !f->sent)
        pass_begin(f, false);
    loop_wake(f->loop, &f->task);
}

void follow_kick(struct follow *f)
{
    loop_timer_stop(f->loop, &f->timer);
    loop_wake(f->loop, &f->task);
}

void follow_init(struct follow *f)
{
    f->buf = mem_zalloc(ANSWER_MAX);
    pack_init_growing(&f->rows);
    f->rpc.done = NULL;
    loop_timer_init(&f->timer, on_timer);
    task_init(&f->task, follow_step);
}

void follow_deinit(struct follow *f)
{
    free(f->buf);
    pack_deinit(&f->rows);
}
