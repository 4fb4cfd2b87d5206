#include <errno.h>

#include "gw/nbd_internal.h"

/*
 * A request takes all the memory it will ever have when it starts: between one
 * piece and NBD_WINDOW of them. A longer request uses the same pieces again and
 * again. So no request that holds memory ever waits for more of it, and every one ends
 * when the backend answers and its client takes the reply: nothing can lock up.
 */

static bool request_has_data(const struct nbd_request *r)
{
    return r->cmd.type == NBD_READ || r->cmd.type == NBD_WRITE;
}

static enum nbd_memory request_memory(const struct nbd_command *cmd)
{
    if (cmd->type != NBD_READ && cmd->type != NBD_WRITE)
        return NBD_MEMORY_NONE;
    return cmd->len <= NBD_SMALL_SIZE ? NBD_MEMORY_SMALL : NBD_MEMORY_LARGE;
}

/*
 * Bytes of the piece that begins `cut` bytes into the request. Large pieces end where the
 * image has a multiple of their size, so that aligned ones are whole objects.
 */
static uint32_t request_piece_len(const struct nbd_request *r)
{
    const uint64_t left = r->cmd.len - r->cut;
    uint64_t len = NBD_ZERO_SIZE;

    if (r->memory == NBD_MEMORY_SMALL)
        len = NBD_SMALL_SIZE;
    if (r->memory == NBD_MEMORY_LARGE)
        len = NBD_LARGE_SIZE - (r->cmd.offset + r->cut) % NBD_LARGE_SIZE;
    return (uint32_t)(len < left ? len : left);
}

static uint32_t request_window(const struct nbd_request *r)
{
    if (r->memory != NBD_MEMORY_LARGE)
        return 1;

    uint64_t end = r->cmd.offset % NBD_LARGE_SIZE + r->cmd.len;
    uint64_t pieces = (end + NBD_LARGE_SIZE - 1) / NBD_LARGE_SIZE;
    return pieces < NBD_WINDOW ? (uint32_t)pieces : NBD_WINDOW;
}

/* As many pieces as there are, up to the window. False: not even one. */
static bool request_take_pieces(struct nbd_request *r)
{
    for (uint32_t i = request_window(r); i > 0; i--) {
        struct nbd_piece *p = nbd_piece_get(r->conn, r->memory);
        if (p == NULL)
            break;
        p->request = r;
        list_push(&r->idle, &p->link);
    }
    return !list_empty(&r->idle);
}

/* ---- Pieces and the backend ---- */

/* A completion: it records and wakes. */
static void request_on_op(struct client_op *op)
{
    struct nbd_piece *p = container_of(op, struct nbd_piece, op);
    struct nbd_conn *c = p->request->conn;

    list_push(&c->finished, &p->finished_link);
    loop_wake(c->server->loop, &c->task);
}

static enum client_op_kind request_op_kind(const struct nbd_request *r)
{
    switch (r->cmd.type) {
    case NBD_READ:
        return CLIENT_READ;
    case NBD_WRITE:
        return CLIENT_WRITE;
    case NBD_FLUSH:
        return CLIENT_FLUSH;
    default:
        return CLIENT_ZERO;
    }
}

static struct nbd_piece *request_cut(struct nbd_request *r)
{
    struct nbd_piece *p = container_of(list_pop(&r->idle), struct nbd_piece, link);

    p->op.kind = request_op_kind(r);
    p->op.image = r->conn->image;
    p->op.offset = r->cmd.offset + r->cut;
    p->op.buf = p->buf;
    p->op.done = request_on_op;
    p->len = request_piece_len(r);
    p->op.len = p->len;
    p->filled = 0;
    r->cut += p->len;
    list_push(&r->pieces, &p->link);
    return p;
}

static void request_submit(struct nbd_request *r, struct nbd_piece *p)
{
    struct nbd_server *s = r->conn->server;

    p->state = NBD_PIECE_BUSY;
    r->busy++;
    r->conn->ops_count++;
    s->backend->submit(s->backend, &p->op);
}

static void request_put_idle(struct nbd_request *r, struct nbd_piece *p)
{
    list_remove(&p->link);
    p->state = NBD_PIECE_IDLE;
    list_push(&r->idle, &p->link);
}

/* Everything but a WRITE, whose pieces the socket fills first. Nothing is begun for a lost client.
 */
static void request_pump(struct nbd_request *r)
{
    if (r->conn->state == NBD_CONN_CLOSING)
        return;
    while (r->error == NBD_OK && r->cut < r->cmd.len && !list_empty(&r->idle))
        request_submit(r, request_cut(r));
}

/* ---- Answering ---- */

/*
 * A READ longer than its window is answered when the first window is there: what
 * goes wrong later can only be told by dropping the connection.
 */
static bool request_is_ready(const struct nbd_request *r)
{
    if (r->busy > 0)
        return false;
    if (r->cmd.type == NBD_WRITE)
        return r->received == r->cmd.len;
    return r->error != NBD_OK || r->cmd.type == NBD_READ || r->cut == r->cmd.len;
}

static void request_answer_if_ready(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;
    struct nbd_server *s = c->server;

    if (r->answered || !request_is_ready(r))
        return;
    r->answered = true;
    nbd_reply_put(r->header, r->cmd.cookie, r->error);
    list_push(&c->replies, &r->reply_link);
    if (r->error != NBD_OK)
        s->status.errors_total++;
    else if (r->cmd.type == NBD_READ)
        s->status.read_bytes_total += r->cmd.len;
    else if (r->cmd.type == NBD_WRITE)
        s->status.written_bytes_total += r->cmd.len;
}

/* ---- The life of a request ---- */

void nbd_request_free(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;
    struct list *link;

    check(r->busy == 0);
    while ((link = list_pop(&r->pieces)) != NULL)
        nbd_piece_put(c, container_of(link, struct nbd_piece, link));
    while ((link = list_pop(&r->idle)) != NULL)
        nbd_piece_put(c, container_of(link, struct nbd_piece, link));
    list_remove(&r->link);
    list_remove(&r->reply_link);
    c->requests_count--;
    c->server->status.requests_in_flight--;
    pool_put(&c->server->requests_pool, r);
}

struct nbd_request *nbd_request_start(struct nbd_conn *c, const struct nbd_command *cmd,
                                      enum nbd_error error)
{
    struct nbd_server *s = c->server;
    struct nbd_request *r = pool_get(&s->requests_pool);

    check(r != NULL); /* there is room for NBD_DEPTH_MAX for each connection */
    *r = (struct nbd_request){.conn = c, .cmd = *cmd, .error = error};
    r->memory = request_memory(cmd);
    list_init(&r->link);
    list_init(&r->reply_link);
    list_init(&r->pieces);
    list_init(&r->idle);
    list_push(&c->requests, &r->link);
    c->requests_count++;
    s->status.requests_in_flight++;

    bool needs_piece = cmd->type == NBD_WRITE ? cmd->len > 0 : error == NBD_OK;
    if (needs_piece && !request_take_pieces(r)) {
        nbd_memory_wait(c, r->memory);
        nbd_request_free(r);
        return NULL;
    }
    nbd_memory_stop_waiting(c);
    s->status.requests_total++;
    if (cmd->type == NBD_FLUSH && error == NBD_OK) {
        r->cmd.len = 0;
        request_submit(r, request_cut(r));
    } else if (cmd->type != NBD_WRITE) {
        request_pump(r);
    }
    request_answer_if_ready(r);
    return r;
}

struct nbd_piece *nbd_request_next_piece(struct nbd_request *r)
{
    if (list_empty(&r->idle))
        return NULL;

    struct nbd_piece *p = request_cut(r);
    p->state = NBD_PIECE_FILLING;
    return p;
}

/* The data of a request that failed has to be read all the same: the next request follows it. */
void nbd_request_piece_is_filled(struct nbd_request *r, struct nbd_piece *p)
{
    check(p->filled == p->len);

    r->received += p->len;
    if (r->error == NBD_OK)
        request_submit(r, p);
    else
        request_put_idle(r, p);
    request_answer_if_ready(r);
}

/*
 * A fenced client and one that is being closed say nothing about the write: only
 * an end of the connection says that to NBD. All else is the image's trouble.
 */
static bool request_take_error(struct nbd_request *r, int result)
{
    if (result == -EPERM || result == -ECANCELED)
        return false;
    if (r->answered)
        return false; /* the header said that all is well */
    if (r->error != NBD_OK)
        return true;
    if (result == -ENOSPC)
        r->error = NBD_ENOSPC;
    else if (result == -EINVAL)
        r->error = NBD_EINVAL;
    else
        r->error = NBD_EIO;
    return true;
}

bool nbd_request_take_result(struct nbd_request *r, struct nbd_piece *p)
{
    check(p->state == NBD_PIECE_BUSY && r->busy > 0);

    r->busy--;
    r->conn->ops_count--;
    p->state = NBD_PIECE_DONE;
    if (p->op.result != 0 && !request_take_error(r, p->op.result))
        return false;
    if (r->cmd.type != NBD_READ)
        request_put_idle(r, p);
    if (!request_has_data(r))
        request_pump(r);
    request_answer_if_ready(r);
    return true;
}

void nbd_request_piece_is_sent(struct nbd_request *r, struct nbd_piece *p)
{
    check(p->state == NBD_PIECE_SENDING);

    r->sent += p->len;
    request_put_idle(r, p);
    request_pump(r);
}

bool nbd_request_is_sent(const struct nbd_request *r)
{
    if (!r->header_is_sent)
        return false;
    return r->cmd.type != NBD_READ || r->error != NBD_OK || r->sent == r->cmd.len;
}
