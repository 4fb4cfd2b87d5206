#include "meta/calls.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"
#include "meta/pack.h"

enum state { STATE_WAITING, STATE_QUEUED, STATE_PROPOSED, STATE_SENT, STATE_DONE };

#define CAN_MOVE_TO(state) (1u << (state))

static const uint32_t moves[] = {
    [STATE_WAITING] = CAN_MOVE_TO(STATE_QUEUED) | CAN_MOVE_TO(STATE_SENT) | CAN_MOVE_TO(STATE_DONE),
    [STATE_QUEUED] =
        CAN_MOVE_TO(STATE_PROPOSED) | CAN_MOVE_TO(STATE_WAITING) | CAN_MOVE_TO(STATE_DONE),
    [STATE_PROPOSED] = CAN_MOVE_TO(STATE_WAITING) | CAN_MOVE_TO(STATE_DONE),
    [STATE_SENT] = CAN_MOVE_TO(STATE_WAITING) | CAN_MOVE_TO(STATE_DONE),
    [STATE_DONE] = 0,
};

enum {
    RETRY_MS_MIN = 20,
    RETRY_MS_MAX = 500,
    SEND_MS_MAX = 3000, /* an answer later than this is asked for again */
    CALLS_EXPECTED = 1024,
};

static void call_move(struct meta_call *c, enum state next)
{
    check(moves[c->state] & CAN_MOVE_TO(next));
    c->state = next;
    check((next == STATE_QUEUED) == !list_empty(&c->queued));
}

static uint64_t request_key(const uint8_t id[16])
{
    return get_u64(id) ^ get_u64(id + 8);
}

/* An encoded command. In a list of ours, so that closing need not look at calls, whose owners may
 * be gone by then. */
struct buffer {
    struct list link;
    uint8_t bytes[];
};

static void buffer_new(struct calls *c, struct meta_call *call, struct slice command)
{
    struct buffer *b = mem_zalloc(sizeof(*b) + command.len);

    memcpy(b->bytes, command.base, command.len);
    list_init(&b->link);
    list_push(&c->buffers, &b->link);
    call->encoded = b->bytes;
    call->encoded_len = command.len;
}

static void buffer_free(struct meta_call *call)
{
    struct buffer *b = container_of(call->encoded, struct buffer, bytes);

    list_remove(&b->link);
    free(b);
    call->encoded = NULL;
}

void calls_init(struct calls *c)
{
    list_init(&c->all);
    list_init(&c->queue);
    list_init(&c->buffers);
    hash_init(&c->by_request, CALLS_EXPECTED);
    c->count = 0;
    c->arena = mem_zalloc(META_COMMAND_ARENA);
}

void calls_deinit(struct calls *c)
{
    struct list *link;

    while ((link = list_pop(&c->buffers)) != NULL)
        free(container_of(link, struct buffer, link));
    hash_deinit(&c->by_request);
    free(c->arena);
}

/* ---- The end ---- */

static void on_result(struct loop_msg *msg)
{
    struct meta_call *call = container_of(msg, struct meta_call, msg);
    call->done(call);
}

static void call_finish(struct calls *c, struct meta_call *call)
{
    list_remove(&call->queued);
    call_move(call, STATE_DONE);
    list_remove(&call->link);
    hash_remove(&c->by_request, &call->by_request);
    loop_timer_stop(c->loop, &call->timer);
    task_cancel(&call->task);
    buffer_free(call);
    c->count--;
    if (call->loop == c->loop) {
        call->done(call);
        return;
    }
    call->msg.run = on_result;
    loop_post(call->loop, &call->msg);
}

static void call_fail(struct calls *c, struct meta_call *call, int code, const char *why)
{
    memset(&call->result, 0, sizeof(call->result));
    meta_result_set(&call->result, code, "%s", why);
    call_finish(c, call);
}

/* ---- Sending ---- */

static void on_reply(struct rpc_call *rpc)
{
    struct meta_call *call = container_of(rpc, struct meta_call, rpc);
    struct calls *c = call->meta;

    call->sent = false;
    loop_wake(c->loop, &call->task);
}

static void call_send(struct calls *c, struct meta_call *call, net_endpoint to)
{
    uint64_t deadline = loop_now(c->loop) + SEND_MS_MAX * NS_PER_MS;

    if (call->deadline_ns != 0 && call->deadline_ns < deadline)
        deadline = call->deadline_ns;
    call->rpc = (struct rpc_call){
        .to = to,
        .kind = META_RPC_SUBMIT,
        .body = {call->encoded, call->encoded_len},
        .deadline_ns = deadline,
        .done = on_reply,
    };
    call->sent = true;
    call_move(call, STATE_SENT);
    rpc_call_start(c->net, &call->rpc);
}

static void call_wait(struct calls *c, struct meta_call *call)
{
    uint32_t shift = call->attempts < 5 ? call->attempts : 5;
    uint64_t pause_ms = (uint64_t)RETRY_MS_MIN << shift;
    uint64_t at =
        loop_now(c->loop) + (pause_ms < RETRY_MS_MAX ? pause_ms : RETRY_MS_MAX) * NS_PER_MS;

    if (call->deadline_ns != 0 && call->deadline_ns < at)
        at = call->deadline_ns;
    call->retry = false;
    call->attempts++;
    loop_timer_start(c->loop, &call->timer, at);
}

/* Does the answer end the call? Who was asked may only know who else leads. */
static bool call_take_reply(struct calls *c, struct meta_call *call)
{
    struct rpc_call *rpc = &call->rpc;
    struct unpack u;

    if (!rpc->answered)
        return false;
    unpack_init(&u, rpc->reply_body);
    unpack_array_exact(&u, 2);
    uint32_t leader = unpack_u32(&u);
    struct slice rest = {u.at, unpack_left(&u)};
    if (!u.failed && rpc->status == -EAGAIN)
        c->leader(c->arg, leader);
    if (rpc->status == 0 && !u.failed && meta_result_decode(rest, &call->result) == 0)
        return true;
    if (rpc->status != -EPROTO && rpc->status != -ENOTSUP)
        return false;
    memset(&call->result, 0, sizeof(call->result));
    meta_result_set(&call->result, rpc->status, "the leader does not understand this command");
    return true;
}

/* ---- The machine ---- */

/* In QUEUED and PROPOSED the end comes from elsewhere, so the timer only watches the deadline. */
static void call_watch_deadline(struct calls *c, struct meta_call *call)
{
    if (call->deadline_ns != 0)
        loop_timer_start(c->loop, &call->timer, call->deadline_ns);
}

static void call_try(struct calls *c, struct meta_call *call)
{
    net_endpoint to;

    if (!call->urgent && !c->may_send(c->arg)) {
        call_wait(c, call);
        return;
    }
    enum calls_route route = c->route(c->arg, call->attempts, &to);

    if (route == CALLS_HERE) {
        list_push(&c->queue, &call->queued);
        call_move(call, STATE_QUEUED);
        call_watch_deadline(c, call);
        c->queued(c->arg);
    } else if (call->here) {
        call->nowhere = true;
        call_fail(c, call, -EAGAIN, "this node does not lead");
    } else if (route == CALLS_THERE) {
        call_send(c, call, to);
    } else {
        call_wait(c, call);
    }
}

static void call_step(struct task *task)
{
    struct meta_call *call = container_of(task, struct meta_call, task);
    struct calls *c = call->meta;
    bool overdue = call->deadline_ns != 0 && loop_now(c->loop) >= call->deadline_ns;

    if (call->state == STATE_SENT && call->sent) {
        if (call->answered)
            rpc_call_cancel(c->net, &call->rpc);
        return; /* until the rpc is ours again */
    }
    if (call->answered) {
        call_finish(c, call);
        return;
    }
    if (call->state == STATE_SENT && call_take_reply(c, call)) {
        call_finish(c, call);
        return;
    }
    if (overdue) {
        call_fail(c, call, -ETIMEDOUT,
                  "no answer in time: perhaps no majority of the voters can be reached; it may "
                  "have been executed or not");
        return;
    }
    switch ((enum state)call->state) {
    case STATE_WAITING:
        if (call->retry)
            call_try(c, call);
        else
            call_wait(c, call);
        break;
    case STATE_SENT:
        call_move(call, STATE_WAITING);
        call_wait(c, call);
        break;
    case STATE_QUEUED:
    case STATE_PROPOSED:
        break;
    case STATE_DONE:
        never("a finished command was woken");
    }
    /* call_try() may have ended it: look at nothing after this. */
}

static void on_timer(struct loop_timer *t)
{
    struct meta_call *call = container_of(t, struct meta_call, timer);
    struct calls *c = call->meta;

    call->retry = true;
    loop_wake(c->loop, &call->task);
}

/* ---- The beginning ---- */

static void call_begin(struct calls *c, struct meta_call *call, const uint8_t request_id[16])
{
    call->meta = c;
    call->state = STATE_WAITING;
    call->attempts = 0;
    call->batch = 0;
    call->answered = call->sent = call->nowhere = false;
    call->retry = true;
    memset(&call->result, 0, sizeof(call->result));
    list_init(&call->link);
    list_init(&call->queued);
    task_init(&call->task, call_step);
    loop_timer_init(&call->timer, on_timer);
    list_push(&c->all, &call->link);
    hash_insert(&c->by_request, &call->by_request, request_key(request_id));
    c->count++;
    loop_wake(c->loop, &call->task);
}

static bool is_zero(const uint8_t id[16])
{
    static const uint8_t zero[16];
    return memcmp(id, zero, 16) == 0;
}

/* Nothing may get into the log that apply could not read: names of any length come from users. */
static void call_judge(struct calls *c, struct meta_call *call)
{
    struct meta_arena arena = {c->arena, META_COMMAND_ARENA, 0};
    struct meta_command read;
    struct unpack u;

    unpack_init(&u, (struct slice){call->encoded, call->encoded_len});
    if (call->encoded_len <= META_COMMAND_MAX && meta_command_decode(&u, &arena, &read) == 0 &&
        unpack_left(&u) == 0)
        return;
    meta_result_set(&call->result, -EINVAL, "a name is too long");
    call->answered = true;
}

void calls_start(struct calls *c, struct meta_call *call, bool urgent)
{
    struct pack p;

    check(call->loop != NULL && call->done != NULL);
    if (is_zero(call->command.request_id))
        loop_random(c->loop, call->command.request_id, sizeof(call->command.request_id));
    call->command.time_ms = loop_wall_ms(c->loop);
    pack_init_growing(&p);
    meta_command_encode(&p, &call->command);
    buffer_new(c, call, (struct slice){p.base, p.len});
    pack_deinit(&p);
    call->here = false;
    call->urgent = urgent;
    call_begin(c, call, call->command.request_id);
    call_judge(c, call);
}

static void on_submit(struct loop_msg *msg)
{
    struct meta_call *call = container_of(msg, struct meta_call, msg);
    calls_start(call->meta, call, false);
}

void calls_submit(struct calls *c, struct meta_call *call)
{
    call->meta = c;
    call->encoded = NULL;
    call->msg.run = on_submit;
    loop_post(c->loop, &call->msg);
}

void calls_start_encoded(struct calls *c, struct meta_call *call, struct slice command, bool here)
{
    buffer_new(c, call, command);
    call->here = here;
    call->urgent = true;
    call_begin(c, call, call->command.request_id);
}

/* ---- News ---- */

void calls_kick(struct calls *c)
{
    list_for_each (pos, &c->all) {
        struct meta_call *call = container_of(pos, struct meta_call, link);
        if (call->state != STATE_WAITING)
            continue;
        call->retry = true;
        loop_wake(c->loop, &call->task);
    }
}

void calls_applied(struct calls *c, const uint8_t request_id[16], const struct meta_result *r)
{
    struct hash_link *l = hash_find(&c->by_request, request_key(request_id));

    for (; l != NULL; l = hash_next(l)) {
        struct meta_call *call = container_of(l, struct meta_call, by_request);
        if (call->answered || memcmp(call->command.request_id, request_id, 16) != 0)
            continue;
        call->result = *r;
        call->answered = true;
        loop_wake(c->loop, &call->task);
    }
}

/* ---- Entries ---- */

uint32_t calls_take_batch(struct calls *c, struct pack *entry, uint32_t batch)
{
    uint32_t count = 0;

    meta_entry_begin(entry);
    while (!list_empty(&c->queue) && count < META_BATCH_MAX) {
        struct meta_call *call = container_of(c->queue.next, struct meta_call, queued);
        if (entry->len + call->encoded_len + 8 > entry->size)
            break;
        pack_raw(entry, call->encoded, call->encoded_len);
        list_remove(&call->queued);
        call->batch = batch;
        call_move(call, STATE_PROPOSED);
        count++;
    }
    if (count > 0)
        meta_entry_end(entry, count);
    check(!entry->failed);
    return count;
}

void calls_batch_done(struct calls *c, uint32_t batch, int result)
{
    list_for_each (pos, &c->all) {
        struct meta_call *call = container_of(pos, struct meta_call, link);
        if (call->state != STATE_PROPOSED || call->batch != batch || call->answered)
            continue;
        call_move(call, STATE_WAITING);
        /* At once, but once: a leader that hands over goes on refusing for a while. */
        call->retry = result == -EAGAIN && call->attempts == 0;
        call->attempts += call->retry;
        loop_wake(c->loop, &call->task);
    }
}

void calls_unqueue(struct calls *c)
{
    struct list *link;

    while ((link = list_pop(&c->queue)) != NULL) {
        struct meta_call *call = container_of(link, struct meta_call, queued);
        call_move(call, STATE_WAITING);
        call->retry = true;
        loop_wake(c->loop, &call->task);
    }
}

size_t calls_answer_put(void *buf, size_t size, uint32_t leader, const struct meta_result *r)
{
    struct pack p;

    pack_init(&p, buf, size);
    pack_array(&p, 2);
    pack_u64(&p, leader);
    if (r != NULL)
        meta_result_encode(&p, r);
    else
        pack_nil(&p);
    check(!p.failed);
    return p.len;
}
