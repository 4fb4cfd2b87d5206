#include "io/uring.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/pool.h"

/* O_DIRECT moves whole sectors; so a transfer that ends inside one ended at the end of the file. */
enum { SECTOR = 512 };

static struct uring_file *file_of(struct loop_file *f)
{
    return (struct uring_file *)f;
}

/* ---- Opening ---- */

/*
 * O_NONBLOCK: a FIFO in the place of a file must not hang the caller. O_EXCL on a device: not while
 * it is mounted or part of another one.
 */
static int open_flags(const char *path, unsigned flags)
{
    struct stat st;
    int oflags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

    oflags |= flags & LOOP_FILE_WRITE ? O_RDWR : O_RDONLY;
    if (flags & LOOP_FILE_CREATE)
        oflags |= O_CREAT;
    if (flags & LOOP_FILE_EXCLUSIVE)
        oflags |= O_EXCL;
    if ((flags & LOOP_FILE_LOCK) && (flags & LOOP_FILE_WRITE) && stat(path, &st) == 0 &&
        S_ISBLK(st.st_mode))
        oflags |= O_EXCL;
    return oflags;
}

/* What kind of thing it is, its size, its lock; O_DIRECT where the file system has it. */
static int file_setup(struct uring_file *f, unsigned flags)
{
    struct stat st;

    if (fstat(f->fd, &st) != 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return -EINVAL;
    f->is_device = S_ISBLK(st.st_mode);
    if (f->is_device && ioctl(f->fd, BLKGETSIZE64, &f->size) != 0)
        return -errno;
    if ((flags & LOOP_FILE_LOCK) && flock(f->fd, LOCK_EX | LOCK_NB) != 0)
        return -errno;

    f->is_direct = (flags & LOOP_FILE_DIRECT) && fcntl(f->fd, F_SETFL, O_DIRECT) == 0;
    if (!f->is_direct && fcntl(f->fd, F_SETFL, 0) != 0)
        return -errno;
    return 0;
}

int uring_file_open(struct loop *l, const char *path, unsigned flags, struct loop_file **out)
{
    int fd = open(path, open_flags(path, flags), 0600);
    if (fd < 0)
        return -errno;

    struct uring_file *f = mem_zalloc(sizeof(*f));
    f->base.loop = l;
    f->fd = fd;
    list_init(&f->link);
    int err = file_setup(f, flags);
    if (err != 0) {
        close(fd);
        free(f);
        return err;
    }
    list_push(&uring_loop(l)->files, &f->link);
    *out = &f->base;
    return 0;
}

void uring_file_close(struct loop_file *base)
{
    struct uring_file *f = file_of(base);

    check(f->ops_count == 0);
    close(f->fd);
    list_remove(&f->link);
    free(f);
}

void uring_file_close_all(struct uring_loop *l)
{
    list_for_each (pos, &l->files) {
        struct uring_file *f = container_of(pos, struct uring_file, link);
        f->size = uring_file_size(&f->base);
        close(f->fd);
        f->fd = -1;
    }
}

void uring_file_free_all(struct uring_loop *l)
{
    for (struct list *pos = list_pop(&l->files); pos != NULL; pos = list_pop(&l->files))
        free(container_of(pos, struct uring_file, link));
}

uint64_t uring_file_size(const struct loop_file *base)
{
    const struct uring_file *f = (const struct uring_file *)base;
    struct stat st;

    if (f->is_device || f->fd < 0)
        return f->size;
    check(fstat(f->fd, &st) == 0);
    return (uint64_t)st.st_size;
}

/* All or nothing: what a failed reservation took is given back. */
int uring_file_resize(struct loop_file *base, uint64_t size, bool reserve)
{
    struct uring_file *f = file_of(base);

    if (f->is_device)
        return -EINVAL;
    if (reserve && size > 0) {
        uint64_t old_size = uring_file_size(base);
        int err;
        do /* on some file systems a signal, also one that stops and continues us, ends it early */
            err = posix_fallocate(f->fd, 0, (off_t)size);
        while (err == EINTR);
        if (err != 0 && old_size < size && ftruncate(f->fd, (off_t)old_size) != 0)
            return -errno;
        if (err != 0)
            return -err;
    }
    return ftruncate(f->fd, (off_t)size) == 0 ? 0 : -errno;
}

/* ---- Operations ---- */

/*
 * The iovecs are the caller's and constant. What is left over of one that was done in part goes
 * alone, the whole ones after it together.
 */
void uring_file_prepare(struct io_uring_sqe *sqe, struct uring_state *s)
{
    if (s->kind == URING_FLUSH) {
        io_uring_prep_fsync(sqe, s->fd, IORING_FSYNC_DATASYNC);
        return;
    }

    const struct iovec *iov = s->iov + s->iov_at;
    uint32_t count = s->iov_count - s->iov_at;
    uint64_t offset = s->offset + s->moved;
    if (s->skip > 0 || count == 1) {
        void *at = (char *)iov->iov_base + s->skip;
        uint64_t len = iov->iov_len - s->skip;
        unsigned part = len > 1u << 30 ? 1u << 30 : (unsigned)len;
        if (s->kind == URING_READ)
            io_uring_prep_read(sqe, s->fd, at, part, offset);
        else
            io_uring_prep_write(sqe, s->fd, at, part, offset);
    } else if (s->kind == URING_READ) {
        io_uring_prep_readv(sqe, s->fd, iov, count, offset);
    } else {
        io_uring_prep_writev(sqe, s->fd, iov, count, offset);
    }
}

static void file_finish(struct uring_loop *l, struct loop_op *op, int64_t result)
{
    uring_state(op)->file->ops_count--;
    uring_finish(l, op, result);
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
    bool is_all = uring_advance(s, (uint64_t)res);
    bool is_end =
        s->kind == URING_READ && (res == 0 || (s->file->is_direct && (unsigned)res % SECTOR != 0));
    if (is_all || is_end)
        file_finish(l, op, (int64_t)s->moved);
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
    s->file = file_of(f);
    s->fd = s->file->fd;
    s->file->ops_count++;
    uring_start(uring_loop(l), op);
}

void uring_readv(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                 int iov_count, uint64_t offset)
{
    uring_state_set_iov(uring_state(op), iov, iov_count);
    uring_state(op)->offset = offset;
    file_start(l, op, f, URING_READ);
}

void uring_writev(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                  int iov_count, uint64_t offset)
{
    uring_state_set_iov(uring_state(op), iov, iov_count);
    uring_state(op)->offset = offset;
    file_start(l, op, f, URING_WRITE);
}

void uring_flush(struct loop *l, struct loop_op *op, struct loop_file *f)
{
    file_start(l, op, f, URING_FLUSH);
}

/* ---- Now ---- */

int64_t uring_read_now(struct loop_file *base, void *buf, size_t len, uint64_t offset)
{
    struct uring_file *f = file_of(base);
    size_t got = 0;

    while (got < len) {
        ssize_t n = pread(f->fd, (char *)buf + got, len - got, (off_t)(offset + got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        got += (size_t)n;
        if (n == 0 || (f->is_direct && n % SECTOR != 0))
            break;
    }
    return (int64_t)got;
}

int64_t uring_write_now(struct loop_file *base, const void *buf, size_t len, uint64_t offset)
{
    struct uring_file *f = file_of(base);
    size_t put = 0;

    while (put < len) {
        ssize_t n = pwrite(f->fd, (const char *)buf + put, len - put, (off_t)(offset + put));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO;
        put += (size_t)n;
    }
    return (int64_t)put;
}

int uring_flush_now(struct loop_file *base)
{
    return fdatasync(file_of(base)->fd) == 0 ? 0 : -errno;
}

/* ---- Names ---- */

int uring_dir_create(struct loop *l, const char *path)
{
    struct stat st;

    (void)l;
    if (mkdir(path, 0700) == 0)
        return 0;
    if (errno != EEXIST)
        return -errno;
    if (stat(path, &st) != 0)
        return -errno;
    return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int uring_dir_sync(struct loop *l, const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    (void)l;
    if (fd < 0)
        return -errno;
    int err = fsync(fd) == 0 ? 0 : -errno;
    close(fd);
    return err;
}

int uring_dir_list(struct loop *l, const char *path, void (*each)(void *arg, const char *name),
                   void *arg)
{
    DIR *dir = opendir(path);

    (void)l;
    if (dir == NULL)
        return -errno;
    errno = 0;
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            each(arg, e->d_name);
        errno = 0;
    }
    int err = -errno;
    closedir(dir);
    return err;
}

int uring_rename(struct loop *l, const char *from, const char *to)
{
    (void)l;
    return rename(from, to) == 0 ? 0 : -errno;
}

int uring_unlink(struct loop *l, const char *path)
{
    (void)l;
    return unlink(path) == 0 ? 0 : -errno;
}

int64_t uring_disk_free(struct loop *l, const char *path)
{
    struct statvfs st;

    (void)l;
    if (statvfs(path, &st) != 0)
        return -errno;
    return (int64_t)(st.f_bavail * st.f_frsize);
}
