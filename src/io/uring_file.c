#include "io/uring.h"

#include <errno.h>

void uring_file_prepare(struct io_uring_sqe *sqe, struct uring_state *s)
{
    if (s->kind == URING_FLUSH) {
        io_uring_prep_fsync(sqe, s->fd, IORING_FSYNC_DATASYNC);
        return;
    }

    struct iovec part;
    int count;
    const struct iovec *iov = os_iov_next(&s->v, &part, &count);
    uint64_t offset = s->offset + s->v.moved;
    if (count == 1) {
        unsigned len = iov->iov_len > 1u << 30 ? 1u << 30 : (unsigned)iov->iov_len;
        if (s->kind == URING_READ)
            io_uring_prep_read(sqe, s->fd, iov->iov_base, len, offset);
        else
            io_uring_prep_write(sqe, s->fd, iov->iov_base, len, offset);
    } else if (s->kind == URING_READ) {
        io_uring_prep_readv(sqe, s->fd, iov, (unsigned)count, offset);
    } else {
        io_uring_prep_writev(sqe, s->fd, iov, (unsigned)count, offset);
    }
}

static void file_finish(struct uring_loop *l, struct loop_op *op, int64_t result)
{
    uring_state(op)->file->ops_count--;
    os_finish(&l->os, op, result);
}

void uring_file_complete(struct uring_loop *l, struct loop_op *op, int res)
{
    struct uring_state *s = uring_state(op);

    /* Not done, for a signal or for lack of a moment's memory: no word about the device. */
    if (s->kind != URING_FLUSH && (res == -EINTR || res == -EAGAIN)) {
        uring_resume(l, op);
        return;
    }
    if (res < 0 || s->kind == URING_FLUSH) {
        file_finish(l, op, res);
        return;
    }
    bool is_all = os_iov_advance(&s->v, (uint64_t)res);
    bool is_end = s->kind == URING_READ &&
                  (res == 0 || (s->file->is_direct && (unsigned)res % OS_SECTOR != 0));
    if (is_all || is_end)
        file_finish(l, op, (int64_t)s->v.moved);
    else if (res == 0)
        file_finish(l, op, -EIO); /* a write that writes nothing and names no error */
    else
        uring_resume(l, op);
}

static void file_start(struct loop *l, struct loop_op *op, struct loop_file *f,
                       enum uring_kind kind)
{
    struct uring_state *s = uring_state(op);

    s->kind = kind;
    s->file = os_file(f);
    s->fd = s->file->fd;
    s->file->ops_count++;
    uring_start(uring_loop(l), op);
}

void uring_readv(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                 int iov_count, uint64_t offset)
{
    os_iov_init(&uring_state(op)->v, iov, iov_count);
    uring_state(op)->offset = offset;
    file_start(l, op, f, URING_READ);
}

void uring_writev(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                  int iov_count, uint64_t offset)
{
    os_iov_init(&uring_state(op)->v, iov, iov_count);
    uring_state(op)->offset = offset;
    file_start(l, op, f, URING_WRITE);
}

void uring_flush(struct loop *l, struct loop_op *op, struct loop_file *f)
{
    file_start(l, op, f, URING_FLUSH);
}
