#include <errno.h>

#include "store/impl.h"

/*
 * Data on its way to and from the device, one io per run of slots. The pool is the limit: who
 * finds it empty waits in store.starved or .reads_starved.
 */

struct io *io_get(struct store *s)
{
    struct io *io = pool_get(&s->ios_pool);

    if (io != NULL)
        *io = (struct io){.store = s};
    return io;
}

static void io_put(struct io *io)
{
    pool_put(&io->store->ios_pool, io);
}

void io_write_done(struct loop_op *op)
{
    struct io *io = container_of(op, struct io, op);
    struct store *s = io->store;
    struct store_write *w = io->write;

    io_put(io);
    w->data_ops--;
    if (op->result < 0)
        store_fail(s, (int)op->result, "write of data");
    else if (w->data_ops == 0 && w->data_next == w->data_blocks)
        write_data_done(w);
    store_wake(s);
}

void io_read_done(struct loop_op *op)
{
    struct io *io = container_of(op, struct io, op);
    struct store *s = io->store;
    struct store_read *r = io->read;

    io_put(io);
    r->ops_left--;
    if (op->result < 0)
        r->result = -EIO;
    if (r->ops_left == 0)
        loop_wake(s->loop, &r->task);
    if (!list_empty(&s->reads_starved) || !list_empty(&s->starved))
        store_wake(s);
}
