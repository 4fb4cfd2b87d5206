#include "io/loop_sim_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/pool.h"

/*
 * Connections between hosts.
 *
 * A connection is a link with two ends and a pipe in each direction. A send puts
 * bytes into the pipe's socket buffer; from there they leave in segments, cut
 * anywhere, each arriving some time after the one before it. What is under way
 * is a packet: it arrives when its event fires, unless its direction is cut;
 * then it waits, and is sent again some time after the direction was healed.
 *
 *     connect: request ->, then <- answer; refused when nobody listens
 *     close:   the end of the stream follows the bytes; if some of those received were not read,
 *              or more arrive, the answer is a reset
 *     crash:   a reset overtakes whatever the dead process had under way
 *
 * A link is freed when both of its ends are closed.
 */

static const uint64_t CONN_MAGIC = 0x73696d2d636f6e6eull;
static const uint64_t LISTENER_MAGIC = 0x73696d2d6c697374ull;

/* What Linux waits before it gives up a connect, and how long a retransmission may take. */
static const uint64_t connect_timeout_ns = 127 * NS_PER_S;
static const uint64_t resend_ns_max = 200 * NS_PER_MS;
static const uint64_t slow_ns_limit = 3600 * NS_PER_S;

enum { PORT_EPHEMERAL = 32768 };

static const uint8_t host_ip[13] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10};

static struct sim_conn *conn_of(const struct loop_conn *c)
{
    struct sim_conn *sc = container_of(c, struct sim_conn, base);

    check(sc->magic == CONN_MAGIC);
    check(!sc->closed);
    return sc;
}

static struct sim_listener *listener_of(const struct loop_listener *s)
{
    struct sim_listener *sl = container_of(s, struct sim_listener, base);

    check(sl->magic == LISTENER_MAGIC);
    check(!sl->closed);
    return sl;
}

/* ---- Addresses: host n is 10.x.y.z ---- */

void sim_host_addr(const struct sim_host *h, uint16_t port, struct loop_addr *out)
{
    *out = (struct loop_addr){.port = port};
    memcpy(out->ip, host_ip, sizeof(host_ip));
    out->ip[13] = (uint8_t)(h->number >> 16);
    out->ip[14] = (uint8_t)(h->number >> 8);
    out->ip[15] = (uint8_t)h->number;
}

static bool addr_is_any(const struct loop_addr *a)
{
    static const uint8_t v6_any[16];
    static const uint8_t v4_any[16] = {[10] = 0xff, [11] = 0xff};

    return memcmp(a->ip, v6_any, 16) == 0 || memcmp(a->ip, v4_any, 16) == 0;
}

/* False: no host of this world. */
static bool addr_host(const struct sim_host *self, const struct loop_addr *a, uint32_t *number)
{
    if (addr_is_any(a) || loop_addr_is_loopback(a)) {
        *number = self->number;
        return true;
    }
    *number = (uint32_t)a->ip[13] << 16 | (uint32_t)a->ip[14] << 8 | a->ip[15];
    return memcmp(a->ip, host_ip, sizeof(host_ip)) == 0;
}

/* ---- Packets and cuts ---- */

static uint64_t cut_key(uint32_t from, uint32_t to)
{
    return (uint64_t)from << 32 | to;
}

static bool net_is_cut(const struct sim *s, uint32_t from, uint32_t to)
{
    return s->cuts.count > 0 && from != to && hash_find(&s->cuts, cut_key(from, to)) != NULL;
}

static void packet_fire(struct sim_event *e)
{
    struct sim_packet *p = container_of(e, struct sim_packet, event);

    if (net_is_cut(p->sim, p->from, p->to))
        list_push(&p->sim->stalled, &p->stalled);
    else
        p->arrive(p);
}

static void packet_init(struct sim_packet *p, struct sim *s, uint32_t from, uint32_t to,
                        void (*arrive)(struct sim_packet *p))
{
    *p = (struct sim_packet){.sim = s, .from = from, .to = to, .arrive = arrive};
    p->event.fire = packet_fire;
    list_init(&p->stalled);
}

static bool packet_is_under_way(const struct sim_packet *p)
{
    return heap_has(&p->event.node) || !list_empty(&p->stalled);
}

static void packet_cancel(struct sim_packet *p)
{
    heap_remove(&p->sim->events, &p->event.node);
    list_remove(&p->stalled);
}

static uint64_t net_delay(struct sim *s)
{
    uint64_t ns = sim_between(s, s->config.net_ns_min, s->config.net_ns_max);

    if (s->net_slow_num > 0 && prng_chance(&s->world, s->net_slow_num, s->net_slow_den))
        ns += prng_below(&s->world, s->net_slow_ns_max + 1);
    return ns;
}

static void packet_send(struct sim_packet *p)
{
    sim_at(p->sim, &p->event, p->sim->now + net_delay(p->sim));
}

static void pipe_acknowledge(struct sim_pipe *p);

/* What had been waiting goes on its way again, at its own time each. */
static void net_resume(struct sim *s)
{
    struct list *next;

    for (struct list *pos = s->stalled.next; pos != &s->stalled; pos = next) {
        struct sim_packet *p = container_of(pos, struct sim_packet, stalled);
        next = pos->next;
        if (net_is_cut(s, p->from, p->to))
            continue;
        list_remove(pos);
        sim_at(s, &p->event, s->now + net_delay(s) + prng_below(&s->world, resend_ns_max));
    }
    list_for_each (pos, &s->links) {
        struct sim_link *link = container_of(pos, struct sim_link, in_sim);
        pipe_acknowledge(&link->pipes[0]);
        pipe_acknowledge(&link->pipes[1]);
    }
}

void sim_net_cut(struct sim *s, uint32_t from, uint32_t to, bool cut)
{
    struct hash_link *l = hash_find(&s->cuts, cut_key(from, to));

    sim_trace(s, SIM_CUT, cut_key(from, to), cut);
    if (cut && l == NULL) {
        struct sim_cut *c = mem_zalloc(sizeof(*c));
        hash_insert(&s->cuts, &c->link, cut_key(from, to));
    } else if (!cut && l != NULL) {
        hash_remove(&s->cuts, l);
        free(container_of(l, struct sim_cut, link));
        net_resume(s);
    }
}

static void cuts_free(struct sim *s)
{
    for (uint64_t i = 0; i <= s->cuts.mask; i++) {
        while (s->cuts.buckets[i] != NULL) {
            struct hash_link *l = s->cuts.buckets[i];
            hash_remove(&s->cuts, l);
            free(container_of(l, struct sim_cut, link));
        }
    }
}

void sim_net_heal_all(struct sim *s)
{
    sim_trace(s, SIM_CUT, 0, 2);
    cuts_free(s);
    net_resume(s);
}

void sim_net_set_slow(struct sim *s, uint32_t num, uint32_t den, uint64_t ns_max)
{
    check(den > 0);
    s->net_slow_num = num;
    s->net_slow_den = den;
    s->net_slow_ns_max = ns_max < slow_ns_limit ? ns_max : slow_ns_limit;
}

/* ---- Connections as their loops hold them ---- */

static struct sim_conn *conn_new(struct sim_loop *l, struct sim_link *link, uint32_t end)
{
    struct sim_conn *c = mem_zalloc(sizeof(*c));

    c->base.loop = &l->base;
    c->magic = CONN_MAGIC;
    c->loop = l;
    c->link = link;
    c->end = end;
    list_init(&c->in_backlog);
    list_init(&c->in_loop);
    list_push(&l->conns, &c->in_loop);
    link->ends[end] = c;
    return c;
}

static void conn_free(struct sim_conn *c)
{
    check(c->link == NULL);
    check(list_empty(&c->in_backlog));
    list_remove(&c->in_loop);
    memset(c, 0xdd, sizeof(*c));
    free(c);
}

static struct sim_pipe *conn_in(const struct sim_conn *c)
{
    return &c->link->pipes[1 - c->end];
}

static struct sim_pipe *conn_out(const struct sim_conn *c)
{
    return &c->link->pipes[c->end];
}

static void conn_recv_step(struct sim_conn *c);
static void conn_send_step(struct sim_conn *c);

/* ---- Links ---- */

static void reset_arrive(struct sim_packet *p);
static void pipe_arrive(struct sim_packet *p);

static struct sim_link *link_new(struct sim *s, uint32_t host0, uint32_t host1)
{
    struct sim_link *link = mem_zalloc(sizeof(*link));
    uint32_t hosts[2] = {host0, host1};

    link->sim = s;
    link->number = ++s->link_last;
    list_init(&link->in_sim);
    list_push(&s->links, &link->in_sim);
    for (uint32_t i = 0; i < 2; i++) {
        packet_init(&link->resets[i].packet, s, hosts[1 - i], hosts[i], reset_arrive);
        link->resets[i].link = link;
        link->resets[i].end = i;
        packet_init(&link->pipes[i].packet, s, hosts[i], hosts[1 - i], pipe_arrive);
        link->pipes[i].link = link;
        link->pipes[i].from_end = i;
    }
    return link;
}

static void link_free(struct sim_link *link)
{
    for (int i = 0; i < 2; i++) {
        packet_cancel(&link->resets[i].packet);
        packet_cancel(&link->pipes[i].packet);
        free(link->pipes[i].ring);
    }
    list_remove(&link->in_sim);
    free(link);
}

/* Tell end `end` that the connection is no more. It overtakes the bytes under way. */
static void link_reset(struct sim_link *link, uint32_t end)
{
    struct sim_packet *p = &link->resets[end].packet;

    if (link->ends[end] != NULL && !link->is_reset[end] && !packet_is_under_way(p))
        packet_send(p);
}

static void pipe_drop(struct sim_pipe *p)
{
    packet_cancel(&p->packet);
    p->segments_count = 0;
}

static void reset_arrive(struct sim_packet *p)
{
    struct sim_reset *r = container_of(p, struct sim_reset, packet);
    struct sim_conn *c = r->link->ends[r->end];

    sim_trace(p->sim, SIM_RESET, r->link->number, r->end);
    check(c != NULL);
    r->link->is_reset[r->end] = true;
    pipe_drop(&r->link->pipes[0]);
    pipe_drop(&r->link->pipes[1]);
    conn_recv_step(c);
    conn_send_step(c);
}

/* Its end is closed: the other one learns by `how`, now or when it sends. */
enum conn_end { CONN_FINISH, CONN_ABORT };

static void pipe_push(struct sim_pipe *p, bool fin);

static void conn_detach(struct sim_conn *c, enum conn_end how)
{
    struct sim_link *link = c->link;
    uint32_t other = 1 - c->end;

    if (link == NULL)
        return;
    bool unread = conn_in(c)->arrived > conn_in(c)->consumed;
    if (how == CONN_ABORT || unread)
        link_reset(link, other);
    else if (!link->is_reset[c->end])
        pipe_push(conn_out(c), true);
    packet_cancel(&link->resets[c->end].packet);
    link->ends[c->end] = NULL;
    c->link = NULL;
    if (link->ends[other] == NULL)
        link_free(link);
}

/* ---- Pipes ---- */

static struct sim_segment *pipe_segment(struct sim_pipe *p, uint32_t i)
{
    return &p->segments[(p->segments_first + i) % SIM_SEGMENTS_MAX];
}

/* What was sent since the last segment becomes one; in order, so never before the one before it. */
static void pipe_push_segment(struct sim_pipe *p, uint64_t end, bool fin)
{
    struct sim *s = p->link->sim;
    struct sim_segment *last =
        p->segments_count == 0 ? NULL : pipe_segment(p, p->segments_count - 1);

    if (p->segments_count == SIM_SEGMENTS_MAX) {
        last->end = end;
        last->fin = last->fin || fin;
        return;
    }
    uint64_t at = s->now + net_delay(s);
    if (last != NULL && at < last->at)
        at = last->at;
    p->segments_count++;
    *pipe_segment(p, p->segments_count - 1) = (struct sim_segment){at, end, fin};
    if (!packet_is_under_way(&p->packet))
        sim_at(s, &p->packet.event, pipe_segment(p, 0)->at);
}

static void pipe_push(struct sim_pipe *p, bool fin)
{
    pipe_push_segment(p, p->sent, fin);
}

/* Bytes from `from` on leave, mostly in one piece. */
static void pipe_cut_segments(struct sim_pipe *p, uint64_t from)
{
    struct prng *world = &p->link->sim->world;

    while (p->sent - from > 1 && prng_chance(world, 1, 6)) {
        from += 1 + prng_below(world, p->sent - from - 1);
        pipe_push_segment(p, from, false);
    }
    pipe_push_segment(p, p->sent, false);
}

static void pipe_grow(struct sim_pipe *p, uint64_t needed)
{
    uint64_t size = p->ring_size == 0 ? 4096 : p->ring_size;

    if (needed <= p->ring_size)
        return;
    while (size < needed)
        size *= 2;
    uint8_t *ring = mem_zalloc(size);
    for (uint64_t pos = p->consumed; pos < p->sent; pos++)
        ring[pos % size] = p->ring[pos % p->ring_size];
    free(p->ring);
    p->ring = ring;
    p->ring_size = size;
}

/* The part of the ring that holds position `pos`, up to its end. */
static uint64_t pipe_run(const struct sim_pipe *p, uint64_t pos, uint64_t len)
{
    uint64_t run = p->ring_size - pos % p->ring_size;

    return run < len ? run : len;
}

static void pipe_write(struct sim_pipe *p, struct sim_op *o, uint64_t len)
{
    uint64_t from = p->sent;

    pipe_grow(p, p->sent - p->consumed + len);
    while (len > 0) {
        uint64_t run = pipe_run(p, p->sent, len);
        uint8_t *at = p->ring + p->sent % p->ring_size;
        sim_iov_get(o->iov, o->iov_count, o->progress, at, run);
        o->crc_copied = crc32c(o->crc_copied, at, run);
        o->progress += run;
        p->sent += run;
        len -= run;
    }
    pipe_cut_segments(p, from);
}

static void pipe_read(struct sim_pipe *p, const struct iovec *iov, int iov_count, uint64_t len)
{
    for (uint64_t done = 0; done < len;) {
        uint64_t run = pipe_run(p, p->consumed, len - done);
        sim_iov_put(iov, iov_count, done, p->ring + p->consumed % p->ring_size, run);
        p->consumed += run;
        done += run;
    }
}

/* The sender hears what was read, unless the way back is cut. */
static void pipe_acknowledge(struct sim_pipe *p)
{
    struct sim_conn *sender = p->link->ends[p->from_end];

    if (p->acked == p->consumed || net_is_cut(p->link->sim, p->packet.to, p->packet.from))
        return;
    p->acked = p->consumed;
    if (sender != NULL)
        conn_send_step(sender);
}

static void pipe_arrive(struct sim_packet *packet)
{
    struct sim_pipe *p = container_of(packet, struct sim_pipe, packet);
    struct sim_link *link = p->link;
    struct sim_conn *receiver = link->ends[1 - p->from_end];

    check(p->segments_count > 0);
    struct sim_segment segment = *pipe_segment(p, 0);
    p->segments_first = (p->segments_first + 1) % SIM_SEGMENTS_MAX;
    p->segments_count--;
    bool has_bytes = segment.end > p->arrived;
    sim_trace(packet->sim, SIM_SEGMENT, (uint64_t)link->number << 1 | p->from_end, segment.end);
    p->arrived = segment.end;
    p->fin_arrived = p->fin_arrived || segment.fin;
    if (p->segments_count > 0)
        sim_at(packet->sim, &packet->event, pipe_segment(p, 0)->at);
    if (receiver != NULL) {
        conn_recv_step(receiver);
        return;
    }
    p->consumed = p->arrived; /* nobody will read it */
    if (has_bytes)
        link_reset(link, p->from_end);
    pipe_acknowledge(p);
}

/* ---- Send and receive ---- */

static void conn_recv_step(struct sim_conn *c)
{
    struct sim_op *o = c->recv;

    if (o == NULL || o->is_complete)
        return;

    struct sim_pipe *in = conn_in(c);
    struct prng *world = &c->link->sim->world;
    uint64_t len = in->arrived - in->consumed;
    if (len > 0) {
        if (len > o->len)
            len = o->len;
        if (prng_chance(world, 1, 16))
            len = 1 + prng_below(world, len);
        pipe_read(in, o->iov, o->iov_count, len);
        sim_op_complete(o, (int64_t)len);
        pipe_acknowledge(in);
    } else if (c->link->is_reset[c->end]) {
        sim_op_complete(o, -ECONNRESET);
    } else if (in->fin_arrived) {
        sim_op_complete(o, 0);
    }
}

static void conn_send_step(struct sim_conn *c)
{
    struct sim_op *o = c->send;

    if (o == NULL || o->is_complete)
        return;
    if (c->link->is_reset[c->end]) {
        sim_op_complete(o, o->progress > 0 ? -ECONNRESET : -EPIPE);
        return;
    }
    struct sim_pipe *out = conn_out(c);
    uint64_t room = SIM_SOCKET_BYTES - (out->sent - out->acked);
    uint64_t len = o->len - o->progress < room ? o->len - o->progress : room;
    if (len > 0)
        pipe_write(out, o, len);
    if (o->progress < o->len)
        return;
    check(o->crc_copied == o->crc); /* the caller changed the bytes of a send that was in flight */
    sim_op_complete(o, (int64_t)o->len);
}

static struct sim_op *conn_op(struct loop *l, struct loop_op *op, struct sim_conn *c,
                              enum sim_op_kind kind)
{
    struct sim_op *o = sim_op_begin(l, op, kind);

    o->conn = c;
    c->ops_count++;
    return o;
}

void sim_net_recv(struct loop *l, struct loop_op *op, struct loop_conn *c, void *buf, size_t len)
{
    struct sim_conn *sc = conn_of(c);

    check(sc->recv == NULL); /* at most one at a time */
    sc->recv = conn_op(l, op, sc, SIM_OP_RECV);
    sc->recv->buffer = (struct iovec){buf, len};
    sc->recv->iov = &sc->recv->buffer;
    sc->recv->iov_count = 1;
    sc->recv->len = len;
    conn_recv_step(sc);
}

void sim_net_send(struct loop *l, struct loop_op *op, struct loop_conn *c, const struct iovec *iov,
                  int iov_count)
{
    struct sim_conn *sc = conn_of(c);

    check(sc->send == NULL); /* at most one at a time */
    sc->send = conn_op(l, op, sc, SIM_OP_SEND);
    sc->send->iov = iov;
    sc->send->iov_count = iov_count;
    sc->send->len = sim_iov_len(iov, iov_count);
    sc->send->crc = sim_iov_crc(iov, iov_count);
    check(sc->send->len > 0);
    conn_send_step(sc);
}

void sim_net_conn_close(struct loop_conn *c)
{
    struct sim_conn *sc = conn_of(c);

    conn_detach(sc, CONN_FINISH);
    sc->closed = true;
    if (sc->recv != NULL && !sc->recv->is_complete)
        sim_op_complete(sc->recv, -ECANCELED);
    if (sc->send != NULL && !sc->send->is_complete)
        sim_op_complete(sc->send, -ECANCELED);
    if (sc->ops_count == 0)
        conn_free(sc);
}

void sim_net_conn_peer(const struct loop_conn *c, struct loop_addr *out)
{
    *out = conn_of(c)->peer;
}

void sim_net_conn_move(struct loop_conn *c, struct loop *to)
{
    struct sim_conn *sc = conn_of(c);
    struct sim_loop *sl = sim_loop_of(to);

    check(sc->ops_count == 0);
    check(sl->host == sc->loop->host); /* a connection never leaves its process */
    check(!to->dead);
    list_remove(&sc->in_loop);
    list_push(&sl->conns, &sc->in_loop);
    sc->loop = sl;
    sc->base.loop = to;
}

/* ---- Listeners ---- */

static struct sim_listener *listener_find(const struct sim_host *h, uint16_t port)
{
    list_for_each (pos, &h->listeners) {
        struct sim_listener *s = container_of(pos, struct sim_listener, in_host);
        if (s->port == port)
            return s;
    }
    return NULL;
}

static uint16_t port_pick(struct sim_host *h)
{
    do {
        h->port_last = h->port_last < PORT_EPHEMERAL || h->port_last == UINT16_MAX
                           ? PORT_EPHEMERAL
                           : (uint16_t)(h->port_last + 1);
    } while (listener_find(h, h->port_last) != NULL);
    return h->port_last;
}

int sim_net_listen(struct loop *l, const struct loop_addr *addr, struct loop_listener **out,
                   struct loop_addr *bound)
{
    struct sim_loop *sl = sim_loop_of(l);
    struct sim_host *h = sl->host;
    uint16_t port = addr->port;
    uint32_t number;

    if (!addr_host(h, addr, &number) || number != h->number)
        return -EADDRNOTAVAIL;
    if (port != 0 && listener_find(h, port) != NULL)
        return -EADDRINUSE;
    if (port == 0)
        port = port_pick(h);

    struct sim_listener *s = mem_zalloc(sizeof(*s));
    s->base.loop = l;
    s->magic = LISTENER_MAGIC;
    s->loop = sl;
    s->port = port;
    list_init(&s->backlog);
    list_init(&s->accepts);
    list_init(&s->in_loop);
    list_init(&s->in_host);
    list_push(&sl->listeners, &s->in_loop);
    list_push(&h->listeners, &s->in_host);
    if (bound != NULL) {
        *bound = *addr;
        bound->port = port;
        if (addr_is_any(addr))
            sim_host_addr(h, port, bound);
    }
    *out = &s->base;
    return 0;
}

int sim_net_listen_unix(struct loop *l, const char *path, struct loop_listener **out)
{
    (void)l;
    (void)path;
    (void)out;
    return -EOPNOTSUPP;
}

static void listener_free(struct sim_listener *s)
{
    list_remove(&s->in_loop);
    list_remove(&s->in_host);
    memset(s, 0xdd, sizeof(*s));
    free(s);
}

static struct sim_conn *listener_pop(struct sim_listener *s)
{
    struct list *link = list_pop(&s->backlog);

    if (link == NULL)
        return NULL;
    s->backlog_count--;
    return container_of(link, struct sim_conn, in_backlog);
}

void sim_net_listener_close(struct loop_listener *s)
{
    struct sim_listener *sl = listener_of(s);
    struct sim_conn *c;

    while (!list_empty(&sl->accepts))
        sim_op_complete(container_of(sl->accepts.next, struct sim_op, completed), -ECANCELED);
    while ((c = listener_pop(sl)) != NULL) {
        conn_detach(c, CONN_ABORT);
        conn_free(c);
    }
    list_remove(&sl->in_host);
    sl->closed = true;
    if (sl->ops_count == 0)
        listener_free(sl);
}

/* Bring waiting connections and waiting accepts together. */
static void listener_step(struct sim_listener *s)
{
    while (!list_empty(&s->accepts) && !list_empty(&s->backlog)) {
        struct sim_op *o = container_of(s->accepts.next, struct sim_op, completed);
        o->conn = listener_pop(s);
        sim_op_complete(o, 0);
    }
}

void sim_net_accept(struct loop *l, struct loop_op *op, struct loop_listener *s)
{
    struct sim_listener *sl = listener_of(s);
    struct sim_op *o = sim_op_begin(l, op, SIM_OP_ACCEPT);

    o->listener = sl;
    sl->ops_count++;
    list_push(&sl->accepts, &o->completed);
    listener_step(sl);
}

/* ---- Connect ---- */

static void connect_free(struct sim_connect *k)
{
    packet_cancel(&k->packet);
    heap_remove(&k->packet.sim->events, &k->timeout.node);
    free(k);
}

static void connect_finish(struct sim_connect *k, int result)
{
    packet_cancel(&k->packet);
    heap_remove(&k->packet.sim->events, &k->timeout.node);
    sim_trace(k->packet.sim, SIM_CONNECT, k->op->loop->number, (uint64_t)(int64_t)result);
    k->op->conn = k->conn;
    sim_op_complete(k->op, result);
}

static void connect_arrive_answer(struct sim_packet *p)
{
    struct sim_connect *k = container_of(p, struct sim_connect, packet);

    connect_finish(k, k->result);
}

static void connect_timed_out(struct sim_event *e)
{
    struct sim_connect *k = container_of(e, struct sim_connect, timeout);

    if (k->conn != NULL) {
        conn_detach(k->conn, CONN_ABORT);
        conn_free(k->conn);
        k->conn = NULL;
    }
    connect_finish(k, -ETIMEDOUT);
}

static void connect_answer(struct sim_connect *k, int result)
{
    struct sim_packet *p = &k->packet;
    uint32_t from = p->from;

    k->result = result;
    p->from = p->to;
    p->to = from;
    p->arrive = connect_arrive_answer;
    packet_send(p);
}

static void connect_make_link(struct sim_connect *k, struct sim_listener *s)
{
    struct sim_host *self = k->op->loop->host;
    struct sim_link *link = link_new(self->sim, k->packet.from, k->packet.to);

    k->conn = conn_new(k->op->loop, link, 0);
    k->conn->peer = k->addr;
    struct sim_conn *other = conn_new(s->loop, link, 1);
    sim_host_addr(self, port_pick(self), &other->peer);
    list_push(&s->backlog, &other->in_backlog);
    s->backlog_count++;
    listener_step(s);
}

/* Both ways must be open for a connection to be made. */
static void connect_arrive_request(struct sim_packet *p)
{
    struct sim_connect *k = container_of(p, struct sim_connect, packet);

    if (net_is_cut(p->sim, p->to, p->from)) {
        list_push(&p->sim->stalled, &p->stalled);
        return;
    }
    struct sim_listener *s = listener_find(sim_host_find(p->sim, p->to), k->addr.port);
    if (s == NULL) {
        connect_answer(k, -ECONNREFUSED);
    } else if (s->backlog_count >= SIM_BACKLOG_MAX) {
        sim_at(p->sim, &p->event, p->sim->now + NS_PER_S);
    } else {
        connect_make_link(k, s);
        connect_answer(k, 0);
    }
}

void sim_net_connect(struct loop *l, struct loop_op *op, const struct loop_addr *addr)
{
    struct sim_op *o = sim_op_begin(l, op, SIM_OP_CONNECT);
    struct sim *s = o->loop->sim;
    struct sim_host *self = o->loop->host;
    struct sim_connect *k = mem_zalloc(sizeof(*k));
    uint32_t number;

    o->connect = k;
    k->op = o;
    k->addr = *addr;
    k->timeout.fire = connect_timed_out;
    sim_at(s, &k->timeout, s->now + connect_timeout_ns);
    bool known = addr_host(self, addr, &number) && sim_host_find(s, number) != NULL;
    packet_init(&k->packet, s, self->number, number, connect_arrive_request);
    if (known)
        packet_send(&k->packet); /* else nobody answers, ever */
}

/* ---- Ends of operations, of loops, of the world ---- */

static void conn_op_end(struct sim_op *o)
{
    struct sim_conn *c = o->conn;

    check(c->ops_count > 0);
    c->ops_count--;
    if (o->kind == SIM_OP_RECV)
        c->recv = NULL;
    else
        c->send = NULL;
}

static void listener_op_end(struct sim_listener *s)
{
    check(s->ops_count > 0);
    s->ops_count--;
    if (s->closed && s->ops_count == 0)
        listener_free(s);
}

void sim_net_op_done(struct sim_op *o)
{
    if (o->kind == SIM_OP_RECV || o->kind == SIM_OP_SEND) {
        conn_op_end(o);
        if (o->conn->closed && o->conn->ops_count == 0)
            conn_free(o->conn);
        return;
    }
    if (o->result == 0)
        o->op->conn = &o->conn->base;
    if (o->kind == SIM_OP_ACCEPT)
        listener_op_end(o->listener);
    else
        connect_free(o->connect);
}

void sim_net_op_killed(struct sim_op *o)
{
    if (o->kind == SIM_OP_RECV || o->kind == SIM_OP_SEND)
        conn_op_end(o);
    else if (o->kind == SIM_OP_ACCEPT)
        listener_op_end(o->listener);
    else
        connect_free(o->connect);
}

/* The process is gone: its listeners too, and its peers get resets. */
void sim_net_release(struct sim_loop *l)
{
    list_for_each (pos, &l->listeners)
        list_remove(&container_of(pos, struct sim_listener, in_loop)->in_host);
    list_for_each (pos, &l->conns) {
        struct sim_conn *c = container_of(pos, struct sim_conn, in_loop);
        list_remove(&c->in_backlog);
        conn_detach(c, CONN_ABORT);
    }
}

void sim_net_free(struct sim_loop *l)
{
    while (!list_empty(&l->conns))
        conn_free(container_of(l->conns.next, struct sim_conn, in_loop));
    while (!list_empty(&l->listeners))
        listener_free(container_of(l->listeners.next, struct sim_listener, in_loop));
}

void sim_net_deinit(struct sim *s)
{
    check(list_empty(&s->links));
    cuts_free(s);
    hash_deinit(&s->cuts);
}
