#include "io/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>

/* Of Linux 6.12, <linux/blkdev.h>; in a number space of its own. */
enum { BLOCK_CMD_DISCARD = _IO(0x12, 0) };

/*
 * Both may block, and so the kernel does them on threads of its own. A device has a command for it
 * since Linux 6.12. Before that, and where the command is refused, a hole stands for it: that
 * serves devices that can write zeros by unmapping.
 */
static void discard_prepare(const struct uring_loop *l, struct io_uring_sqe *sqe,
                            struct uring_state *s)
{
    s->is_discard_cmd = s->file->is_device && l->has_uring_cmd && !s->file->has_no_discard_cmd;
    if (s->is_discard_cmd) {
        io_uring_prep_rw(IORING_OP_URING_CMD, sqe, s->fd, NULL, 0, BLOCK_CMD_DISCARD);
        sqe->addr = s->discard_from;
        sqe->addr3 = s->discard_len;
    } else {
        io_uring_prep_fallocate(sqe, s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                (off_t)s->discard_from, (off_t)s->discard_len);
    }
}

/* From and to registered memory the kernel need not look up and hold the pages each time. */
static void one_prepare(const struct uring_loop *l, struct io_uring_sqe *sqe,
                        const struct uring_state *s, const struct iovec *iov, uint64_t offset)
{
    unsigned len = iov->iov_len > 1u << 30 ? 1u << 30 : (unsigned)iov->iov_len;
    int region = uring_region_find(l, iov->iov_base, len);

    if (region >= 0 && s->kind == URING_READ)
        io_uring_prep_read_fixed(sqe, s->fd, iov->iov_base, len, offset, region);
    else if (region >= 0)
        io_uring_prep_write_fixed(sqe, s->fd, iov->iov_base, len, offset, region);
    else if (s->kind == URING_READ)
        io_uring_prep_read(sqe, s->fd, iov->iov_base, len, offset);
    else
        io_uring_prep_write(sqe, s->fd, iov->iov_base, len, offset);
}

void uring_file_prepare(struct uring_loop *l, struct io_uring_sqe *sqe, struct uring_state *s)
{
    if (s->kind == URING_FLUSH) {
        io_uring_prep_fsync(sqe, s->fd, IORING_FSYNC_DATASYNC);
        return;
    }
    if (s->kind == URING_DISCARD) {
        discard_prepare(l, sqe, s);
        return;
    }

    struct iovec part;
    int count;
    const struct iovec *iov = os_iov_next(&s->v, &part, &count);
    uint64_t offset = s->offset + s->v.moved;
    if (count == 1)
        one_prepare(l, sqe, s, iov, offset);
    else if (s->kind == URING_READ)
        io_uring_prep_readv(sqe, s->fd, iov, (unsigned)count, offset);
    else
        io_uring_prep_writev(sqe, s->fd, iov, (unsigned)count, offset);
    if (s->kind == URING_WRITE_DURABLE)
        sqe->rw_flags = RWF_DSYNC;
}

static void file_finish(struct uring_loop *l, struct loop_op *op, int64_t result)
{
    uring_state(op)->file->ops_count--;
    os_finish(&l->os, op, result);
}

void uring_file_complete(struct uring_loop *l, struct loop_op *op, int res)
{
    struct uring_state *s = uring_state(op);

    if (s->kind == URING_DISCARD && s->is_discard_cmd && res == -EOPNOTSUPP) {
        s->file->has_no_discard_cmd = true;
        uring_resume(l, op);
        return;
    }

    /* Not done, for a signal or for lack of a moment's memory: no word about the device. */
    if (s->kind != URING_FLUSH && (res == -EINTR || res == -EAGAIN)) {
        uring_resume(l, op);
        return;
    }
    if (res < 0 || s->kind == URING_FLUSH || s->kind == URING_DISCARD) {
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
                  int iov_count, uint64_t offset, bool is_durable)
{
    os_iov_init(&uring_state(op)->v, iov, iov_count);
    uring_state(op)->offset = offset;
    file_start(l, op, f, is_durable ? URING_WRITE_DURABLE : URING_WRITE);
}

void uring_discard(struct loop *l, struct loop_op *op, struct loop_file *f, uint64_t offset,
                   uint64_t len)
{
    struct uring_state *s = uring_state(op);

    if (!uring_loop(l)->has_fallocate) {
        os_finish(&uring_loop(l)->os, op, -EOPNOTSUPP);
        return;
    }
    s->discard_from = offset;
    s->discard_len = len;
    file_start(l, op, f, URING_DISCARD);
}

void uring_flush(struct loop *l, struct loop_op *op, struct loop_file *f)
{
    file_start(l, op, f, URING_FLUSH);
}

void uring_file_info(const struct loop_file *f, struct loop_file_info *out)
{
    os_file_info(f, out);
    if (!uring_loop(f->loop)->has_fallocate)
        out->can_discard = false;
}
