#include "io/loop_sim_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/pool.h"

/*
 * Virtual time, hosts, and the turns of their loops.
 *
 * One heap of events moves true time on. A loop has one event there, its next
 * turn: as soon as it has something to do, but never before the turn it made
 * last has used up its processor time. A turn hands out messages, completed
 * operations, timers that are due and ready tasks, in this order; it takes no
 * time on the clock while it runs, so nothing a loop sends or promises in it
 * carries a time later than the moment it leaves.
 */

enum {
    TURN_NS_MIN = 1000,
    TURN_NS_MAX = 20000,
    POST_NS_MIN = 500,
    POST_NS_MAX = 5000,
    CLOCK_PPM_MAX = 9900, /* io/loop.h promises less than 1 % */
    WALL_SKEW_MS_MAX = 2000
};

static const uint64_t wall_ms_start = 1767225600000ull; /* 2026-01-01 */
static const uint64_t boot_ns_max = 1000000 * NS_PER_S;
static const uint64_t never_ns = 1ull << 60;

/* ---- Events ---- */

void sim_trace(struct sim *s, enum sim_kind kind, uint64_t who, uint64_t amount)
{
    uint64_t h = s->hash;

    h = mix64(h ^ s->now) + kind;
    h = mix64(h ^ who);
    s->hash = mix64(h + amount);
}

void sim_at(struct sim *s, struct sim_event *e, uint64_t at)
{
    check(e->fire != NULL);
    heap_remove(&s->events, &e->node);
    heap_insert(&s->events, &e->node, at < s->now ? s->now : at);
}

uint64_t sim_between(struct sim *s, uint64_t min, uint64_t max)
{
    return max <= min ? min : min + prng_below(&s->world, max - min + 1);
}

static bool sim_step(struct sim *s, uint64_t limit_ns)
{
    struct heap_node *n = heap_min(&s->events);

    if (n == NULL || n->key > limit_ns)
        return false;
    heap_remove(&s->events, n);
    check(n->key >= s->now);
    s->now = n->key;
    s->events_count++;
    struct sim_event *e = container_of(n, struct sim_event, node);
    e->fire(e);
    return true;
}

bool sim_run_until(struct sim *s, uint64_t ns)
{
    check(!s->running);
    s->running = true;
    while (sim_step(s, ns))
        ;
    if (s->now < ns)
        s->now = ns;
    s->running = false;
    return heap_min(&s->events) != NULL;
}

bool sim_run_until_true(struct sim *s, bool (*cond)(void *arg), void *arg, uint64_t limit_ns)
{
    check(!s->running);
    while (!cond(arg)) {
        s->running = true;
        bool more = sim_step(s, limit_ns);
        s->running = false;
        if (!more) {
            if (s->now < limit_ns)
                s->now = limit_ns;
            return false;
        }
    }
    return true;
}

uint64_t sim_now(const struct sim *s)
{
    return s->now;
}

uint64_t sim_events_count(const struct sim *s)
{
    return s->events_count;
}

struct prng *sim_prng(struct sim *s)
{
    return &s->test;
}

uint64_t sim_trace_hash(const struct sim *s)
{
    return s->hash;
}

void sim_trace_note(struct sim *s, uint64_t value)
{
    sim_trace(s, SIM_NOTE, 0, value);
}

/* ---- The clock of a host ---- */

/* How far it is ahead after `true_ns`. */
static uint64_t clock_drift(const struct sim_host *h, uint64_t true_ns)
{
    int64_t whole = (int64_t)(true_ns / 1000000) * h->clock_ppm;
    int64_t rest = (int64_t)(true_ns % 1000000) * h->clock_ppm / 1000000;

    return (uint64_t)(whole + rest);
}

static uint64_t clock_show(const struct sim_host *h, uint64_t true_ns)
{
    return h->clock_offset + true_ns + clock_drift(h, true_ns);
}

/* The first moment, not before now, at which the clock shows `local` or more. */
static uint64_t clock_when(const struct sim_host *h, uint64_t local)
{
    uint64_t now = h->sim->now;
    uint64_t shown = clock_show(h, now);

    if (local <= shown)
        return now;
    if (local - shown >= never_ns)
        return UINT64_MAX;

    uint64_t rate = (uint64_t)(1000000 + h->clock_ppm);
    uint64_t wait = local - shown;
    uint64_t at = now + wait / rate * 1000000 + wait % rate * 1000000 / rate;
    while (at > now && clock_show(h, at - 1) - h->clock_offset >= local - h->clock_offset)
        at--;
    while (clock_show(h, at) - h->clock_offset < local - h->clock_offset)
        at++;
    return at;
}

/* Power on: the clock counts from about zero. */
static void clock_boot(struct sim_host *h, uint64_t uptime_ns_max)
{
    struct sim *s = h->sim;
    uint64_t uptime = sim_between(s, NS_PER_S, uptime_ns_max);

    h->clock_offset = uptime - (s->now + clock_drift(h, s->now));
}

static uint64_t simloop_now(struct loop *l)
{
    struct sim_loop *sl = sim_loop_of(l);

    return clock_show(sl->host, sl->sim->now);
}

static uint64_t simloop_wall_ms(struct loop *l)
{
    const struct sim_host *h = sim_loop_of(l)->host;
    uint64_t ns = h->sim->now + clock_drift(h, h->sim->now);

    return wall_ms_start + ns / NS_PER_MS + (uint64_t)h->wall_skew_ms;
}

static void simloop_random(struct loop *l, void *buf, size_t len)
{
    struct sim *s = sim_loop_of(l)->sim;

    for (size_t i = 0; i < len; i += sizeof(uint64_t)) {
        uint64_t x = prng_next(&s->world);
        size_t n = len - i < sizeof(x) ? len - i : sizeof(x);
        memcpy((uint8_t *)buf + i, &x, n);
    }
}

/* ---- Turns ---- */

static uint64_t turn_earliest(const struct sim_loop *l)
{
    uint64_t at = l->sim->now;

    if (at < l->busy_until)
        at = l->busy_until;
    return at < l->host->paused_until ? l->host->paused_until : at;
}

/* See to it that the loop turns no later than `at`. */
static void turn_schedule(struct sim_loop *l, uint64_t at)
{
    if (l->base.dead || l->stopped || l->in_turn)
        return;

    uint64_t earliest = turn_earliest(l);
    if (at < earliest)
        at = earliest;
    if (!heap_has(&l->turn.node) || l->turn.node.key > at)
        sim_at(l->sim, &l->turn, at);
}

static bool turn_has_work(const struct sim_loop *l)
{
    return l->inbox_count > 0 || l->completed_count > 0 || !list_empty(&l->base.runq.ready);
}

static void turn_schedule_next(struct sim_loop *l)
{
    if (turn_has_work(l)) {
        turn_schedule(l, 0);
        return;
    }
    uint64_t local = loop_timers_next(&l->base);
    if (local == UINT64_MAX)
        return;
    uint64_t at = clock_when(l->host, local);
    if (at != UINT64_MAX)
        turn_schedule(l, at);
}

static void simloop_woken(struct loop *l)
{
    turn_schedule_next(sim_loop_of(l));
}

static void turn_run_messages(struct sim_loop *l)
{
    for (uint64_t left = l->inbox_count; left > 0 && !l->base.dead; left--) {
        struct loop_msg *msg = l->inbox_first;
        l->inbox_first = msg->next;
        l->inbox_count--;
        if (l->inbox_first == NULL)
            l->inbox_last = NULL;
        msg->next = NULL;
        msg->run(msg);
    }
}

static void op_forget(struct sim_op *o)
{
    struct sim *s = o->loop->sim;

    check(!heap_has(&o->event.node));
    check(list_empty(&o->in_inode));
    hash_remove(&s->ops_flying, &o->flying);
    list_remove(&o->completed);
    list_remove(&o->in_loop);
    memset(o, 0xdd, sizeof(*o));
    list_init(&o->in_loop);
    list_push(&s->ops_free, &o->in_loop);
}

static void op_hand_back(struct sim_op *o)
{
    struct loop_op *op = o->op;
    struct sim_loop *l = o->loop;

    /* With the checksum of what was written or sent: bytes no seed decided show in the hash. */
    sim_trace(l->sim, SIM_DONE, (uint64_t)l->number << 8 | o->kind,
              (uint64_t)o->result ^ (uint64_t)o->crc << 32);
    op->result = o->result;
    l->completed_count--;
    if (o->file != NULL)
        sim_disk_op_done(o);
    else
        sim_net_op_done(o);
    op_forget(o);
    op->done(op);
}

static void turn_run_completed(struct sim_loop *l)
{
    for (uint64_t left = l->completed_count; left > 0 && !l->base.dead; left--)
        op_hand_back(container_of(l->completed.next, struct sim_op, completed));
}

static void turn_run(struct sim_event *e)
{
    struct sim_loop *l = container_of(e, struct sim_loop, turn);
    struct sim *s = l->sim;

    if (turn_earliest(l) > s->now) {
        turn_schedule_next(l);
        return;
    }
    uint64_t local = clock_show(l->host, s->now);
    if (!turn_has_work(l) && loop_timers_next(&l->base) > local) {
        turn_schedule_next(l);
        return;
    }

    sim_trace(s, SIM_TURN, l->number, l->inbox_count << 32 | l->completed_count);
    l->in_turn = true;
    turn_run_messages(l);
    turn_run_completed(l);
    if (!l->base.dead)
        loop_timers_fire(&l->base, local);
    for (int i = 0; i < SIM_TURN_TASKS_MAX && !l->base.dead; i++) {
        if (!runq_run_one(&l->base.runq))
            break;
    }
    l->in_turn = false;
    if (l->base.dead)
        return;
    l->busy_until = s->now + sim_between(s, TURN_NS_MIN, TURN_NS_MAX) + l->debt_ns;
    l->debt_ns = 0;
    turn_schedule_next(l);
}

/* The next turn comes later by so much; the clock stands still within a turn. */
void sim_block(struct loop *l, uint64_t ns)
{
    struct sim_loop *sl = sim_loop_of(l);

    if (sl->in_turn) {
        sl->debt_ns += ns;
        return;
    }
    if (sl->busy_until < sl->sim->now)
        sl->busy_until = sl->sim->now;
    sl->busy_until += ns;
}

static void simloop_run(struct loop *l)
{
    (void)l;
    never("a simulated loop is run by sim_run_until()");
}

/* The process ends of its own will: no more turns, until its owner crashes the host or destroys the
 * loop. */
static void simloop_stop(struct loop *l)
{
    struct sim_loop *sl = sim_loop_of(l);

    sl->stopped = true;
    heap_remove(&sl->sim->events, &sl->turn.node);
}

bool sim_loop_is_stopped(const struct loop *l)
{
    return sim_loop_of(l)->stopped;
}

static void simloop_post(struct loop *to, struct loop_msg *msg)
{
    struct sim_loop *l = sim_loop_of(to);

    if (to->dead)
        return;
    msg->next = NULL;
    if (l->inbox_last == NULL)
        l->inbox_first = msg;
    else
        l->inbox_last->next = msg;
    check(l->inbox_last != msg);
    l->inbox_last = msg;
    l->inbox_count++;
    sim_trace(l->sim, SIM_POST, l->number, l->inbox_count);
    turn_schedule(l, l->sim->now + sim_between(l->sim, POST_NS_MIN, POST_NS_MAX));
}

/* ---- Operations ---- */

struct sim_op *sim_op_begin(struct loop *l, struct loop_op *op, enum sim_op_kind kind)
{
    struct sim_loop *sl = sim_loop_of(l);
    struct sim *s = sl->sim;

    /* An op that is in flight may not be started again. */
    check(hash_find(&s->ops_flying, (uintptr_t)op) == NULL);

    struct list *link = list_pop(&s->ops_free);
    struct sim_op *o =
        link == NULL ? mem_zalloc(sizeof(*o)) : container_of(link, struct sim_op, in_loop);
    *o = (struct sim_op){.loop = sl, .op = op, .kind = kind};
    list_init(&o->in_loop);
    list_init(&o->completed);
    list_init(&o->in_inode);
    list_push(&sl->ops, &o->in_loop);
    hash_insert(&s->ops_flying, &o->flying, (uintptr_t)op);
    return o;
}

/* done() will run in the loop's next turn. */
void sim_op_complete(struct sim_op *o, int64_t result)
{
    check(!o->is_complete);
    o->is_complete = true;
    o->result = result;
    list_remove(&o->completed);
    list_push(&o->loop->completed, &o->completed);
    o->loop->completed_count++;
    turn_schedule(o->loop, o->loop->sim->now);
}

size_t sim_iov_len(const struct iovec *iov, int iov_count)
{
    size_t len = 0;

    for (int i = 0; i < iov_count; i++)
        len += iov[i].iov_len;
    return len;
}

uint32_t sim_iov_crc(const struct iovec *iov, int iov_count)
{
    uint32_t crc = 0;

    for (int i = 0; i < iov_count; i++) {
        if (iov[i].iov_len > 0)
            crc = crc32c(crc, iov[i].iov_base, iov[i].iov_len);
    }
    return crc;
}

/* Bytes pos .. pos + len - 1 of what the iovecs name, out to dst or in from src. */
void sim_iov_get(const struct iovec *iov, int iov_count, uint64_t pos, void *dst, size_t len)
{
    uint8_t *to = dst;

    for (int i = 0; i < iov_count && len > 0; i++) {
        if (pos >= iov[i].iov_len) {
            pos -= iov[i].iov_len;
            continue;
        }
        size_t n = iov[i].iov_len - pos < len ? iov[i].iov_len - pos : len;
        memcpy(to, (const uint8_t *)iov[i].iov_base + pos, n);
        to += n;
        len -= n;
        pos = 0;
    }
    check(len == 0);
}

void sim_iov_put(const struct iovec *iov, int iov_count, uint64_t pos, const void *src, size_t len)
{
    const uint8_t *from = src;

    for (int i = 0; i < iov_count && len > 0; i++) {
        if (pos >= iov[i].iov_len) {
            pos -= iov[i].iov_len;
            continue;
        }
        size_t n = iov[i].iov_len - pos < len ? iov[i].iov_len - pos : len;
        memcpy((uint8_t *)iov[i].iov_base + pos, from, n);
        from += n;
        len -= n;
        pos = 0;
    }
    check(len == 0);
}

/* ---- A loop's life ---- */

/* The kernel takes back what the process had. Nobody is called. */
static void loop_kill(struct sim_loop *l)
{
    struct sim *s = l->sim;

    heap_remove(&s->events, &l->turn.node);
    l->inbox_first = NULL;
    l->inbox_last = NULL;
    l->inbox_count = 0;
    while (!list_empty(&l->ops)) {
        struct sim_op *o = container_of(l->ops.next, struct sim_op, in_loop);
        heap_remove(&s->events, &o->event.node);
        if (o->file != NULL)
            sim_disk_op_killed(o);
        else
            sim_net_op_killed(o);
        op_forget(o);
    }
    l->completed_count = 0;
    sim_net_release(l);
    sim_files_release(l);
    list_remove(&l->in_host);
    list_push(&s->loops_dead, &l->in_host);
}

static void simloop_halt(struct loop *l)
{
    struct sim_loop *sl = sim_loop_of(l);

    sim_trace(sl->sim, SIM_CRASH, sl->number, 2);
    loop_kill(sl);
}

static void simloop_destroy(struct loop *l)
{
    struct sim_loop *sl = sim_loop_of(l);

    check(l->dead);
    check(!sl->in_turn);
    list_remove(&sl->in_host);
    sim_net_free(sl);
    sim_files_free(sl);
    loop_base_deinit(l);
    memset(sl, 0xdd, sizeof(*sl));
    free(sl);
}

/* An advice without effect. */
static int simloop_buffers_register(struct loop *l, void *base, size_t len)
{
    (void)l;
    (void)base;
    (void)len;
    return 0;
}

static int simloop_buffers_unregister(struct loop *l, void *base)
{
    (void)l;
    (void)base;
    return 0;
}

static const struct loop_backend sim_backend = {
    .name = "sim",
    .run = simloop_run,
    .stop = simloop_stop,
    .halt = simloop_halt,
    .destroy = simloop_destroy,
    .woken = simloop_woken,
    .now = simloop_now,
    .wall_ms = simloop_wall_ms,
    .random = simloop_random,
    .post = simloop_post,
    .file_open = sim_file_open,
    .file_close = sim_file_close,
    .file_size = sim_file_size,
    .file_info = sim_file_info,
    .file_resize = sim_file_resize,
    .readv = sim_file_readv,
    .writev = sim_file_writev,
    .discard = sim_file_discard,
    .flush = sim_file_flush,
    .read_now = sim_file_read_now,
    .write_now = sim_file_write_now,
    .flush_now = sim_file_flush_now,
    .buffers_register = simloop_buffers_register,
    .buffers_unregister = simloop_buffers_unregister,
    .dir_create = sim_dir_create,
    .dir_sync = sim_dir_sync,
    .dir_list = sim_dir_list,
    .rename = sim_name_rename,
    .unlink = sim_name_unlink,
    .disk_free = sim_disk_free_bytes,
    .listen = sim_net_listen,
    .listen_unix = sim_net_listen_unix,
    .listener_close = sim_net_listener_close,
    .accept = sim_net_accept,
    .connect = sim_net_connect,
    .recv = sim_net_recv,
    .send = sim_net_send,
    .conn_close = sim_net_conn_close,
    .conn_peer = sim_net_conn_peer,
    .conn_move = sim_net_conn_move,
};

struct loop *sim_loop_create(struct sim_host *h)
{
    struct sim_loop *l = mem_zalloc(sizeof(*l));

    loop_base_init(&l->base, &sim_backend);
    l->host = h;
    l->sim = h->sim;
    l->number = ++h->sim->loop_last;
    l->turn.fire = turn_run;
    list_init(&l->in_host);
    list_push(&h->loops, &l->in_host);
    list_init(&l->ops);
    list_init(&l->completed);
    list_init(&l->files);
    list_init(&l->listeners);
    list_init(&l->conns);
    return &l->base;
}

bool sim_loop_is_dead(const struct loop *l)
{
    return l->dead;
}

/* ---- Hosts ---- */

static int64_t clock_ppm_pick(struct sim *s)
{
    if (prng_chance(&s->world, 1, 4))
        return prng_chance(&s->world, 1, 2) ? CLOCK_PPM_MAX : -CLOCK_PPM_MAX;
    return (int64_t)prng_below(&s->world, 2 * CLOCK_PPM_MAX + 1) - CLOCK_PPM_MAX;
}

struct sim_host *sim_host_create(struct sim *s, uint32_t number)
{
    check(number < 1u << 24); /* it is the tail of an address in 10.0.0.0/8 */
    check(sim_host_find(s, number) == NULL);

    struct sim_host *h = mem_zalloc(sizeof(*h));
    h->sim = s;
    h->number = number;
    h->clock_ppm = clock_ppm_pick(s);
    h->wall_skew_ms = (int64_t)prng_below(&s->world, 2 * WALL_SKEW_MS_MAX) - WALL_SKEW_MS_MAX;
    clock_boot(h, boot_ns_max);
    list_init(&h->loops);
    list_init(&h->listeners);
    list_init(&h->in_sim);
    list_push(&s->hosts, &h->in_sim);
    hash_insert(&s->hosts_by_number, &h->link, number);
    sim_disk_init(h);
    return h;
}

struct sim_host *sim_host_find(struct sim *s, uint32_t number)
{
    struct hash_link *l = hash_find(&s->hosts_by_number, number);

    return l == NULL ? NULL : container_of(l, struct sim_host, link);
}

void sim_host_crash(struct sim_host *h, bool power_loss)
{
    sim_trace(h->sim, SIM_CRASH, h->number, power_loss);
    while (!list_empty(&h->loops)) {
        struct sim_loop *l = container_of(h->loops.next, struct sim_loop, in_host);
        loop_base_kill(&l->base);
        loop_kill(l);
    }
    check(list_empty(&h->listeners));
    if (power_loss) {
        sim_disk_power_loss(h);
        clock_boot(h, 1000 * NS_PER_S);
        h->paused_until = 0;
    }
}

void sim_host_pause(struct sim_host *h, uint64_t ns)
{
    uint64_t until = h->sim->now + ns;

    sim_trace(h->sim, SIM_PAUSE, h->number, ns);
    if (until > h->paused_until)
        h->paused_until = until;
}

static void host_free(struct sim_host *h)
{
    check(list_empty(&h->loops));
    sim_disk_deinit(h);
    list_remove(&h->in_sim);
    hash_remove(&h->sim->hosts_by_number, &h->link);
    free(h);
}

/* ---- The world ---- */

static void config_default(uint64_t *min, uint64_t *max, uint64_t min_default, uint64_t max_default)
{
    if (*max == 0)
        *max = *min > max_default ? *min : max_default;
    if (*min == 0)
        *min = min_default < *max ? min_default : *max;
    check(*min <= *max);
}

struct sim *sim_create(const struct sim_config *config)
{
    struct sim *s = mem_zalloc(sizeof(*s));

    s->config = *config;
    config_default(&s->config.disk_ns_min, &s->config.disk_ns_max, 20000, 300000);
    config_default(&s->config.net_ns_min, &s->config.net_ns_max, 20000, 1000000);
    prng_init(&s->world, config->seed);
    prng_init(&s->test, mix64(config->seed ^ 0x7465737473ull));
    s->hash = mix64(config->seed);
    heap_init(&s->events);
    list_init(&s->hosts);
    list_init(&s->loops_dead);
    list_init(&s->ops_free);
    list_init(&s->stalled);
    list_init(&s->links);
    hash_init(&s->hosts_by_number, 64);
    hash_init(&s->ops_flying, 4096);
    hash_init(&s->cuts, 64);
    return s;
}

void sim_destroy(struct sim *s)
{
    check(!s->running);
    list_for_each (pos, &s->hosts)
        check(list_empty(&container_of(pos, struct sim_host, in_sim)->loops));
    while (!list_empty(&s->loops_dead))
        simloop_destroy(&container_of(s->loops_dead.next, struct sim_loop, in_host)->base);
    while (!list_empty(&s->hosts))
        host_free(container_of(s->hosts.next, struct sim_host, in_sim));
    sim_net_deinit(s);
    sim_versions_free(s);
    for (struct list *link; (link = list_pop(&s->ops_free)) != NULL;)
        free(container_of(link, struct sim_op, in_loop));
    check(s->ops_flying.count == 0);
    hash_deinit(&s->ops_flying);
    hash_deinit(&s->hosts_by_number);
    heap_deinit(&s->events);
    free(s);
}
