#include "io/os.h"

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
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/pool.h"

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
        S_ISBLK(st.st_mode)) {
        if ((flags & LOOP_FILE_EXCLUSIVE) == 0)
            oflags &= ~O_CREAT; /* with it, O_EXCL means that there must be none */
        oflags |= O_EXCL;
    }
    return oflags;
}

/* What kind of thing it is, its size, its lock; O_DIRECT where the file system has it. */
static int file_setup(struct os_file *f, unsigned flags)
{
    struct stat st;

    if (fstat(f->fd, &st) != 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return -EINVAL;
    f->is_device = S_ISBLK(st.st_mode);
    f->device = st.st_rdev;
    if (f->is_device && ioctl(f->fd, BLKGETSIZE64, &f->size) != 0)
        return -errno;
    if ((flags & LOOP_FILE_LOCK) && flock(f->fd, LOCK_EX | LOCK_NB) != 0)
        return -errno;

    f->is_direct = (flags & LOOP_FILE_DIRECT) && fcntl(f->fd, F_SETFL, O_DIRECT) == 0;
    if (!f->is_direct && fcntl(f->fd, F_SETFL, 0) != 0)
        return -errno;
    return 0;
}

int os_file_open(struct loop *l, const char *path, unsigned flags, struct loop_file **out)
{
    int fd = open(path, open_flags(path, flags), 0600);
    if (fd < 0)
        return -errno;

    struct os_file *f = mem_zalloc(sizeof(*f));
    f->base.loop = l;
    f->fd = fd;
    list_init(&f->link);
    int err = file_setup(f, flags);
    if (err != 0) {
        close(fd);
        free(f);
        return err;
    }
    list_push(&os_loop(l)->files, &f->link);
    *out = &f->base;
    return 0;
}

void os_file_close(struct loop_file *base)
{
    struct os_file *f = os_file(base);

    check(f->ops_count == 0);
    close(f->fd);
    list_remove(&f->link);
    free(f);
}

uint64_t os_file_size(const struct loop_file *base)
{
    const struct os_file *f = (const struct os_file *)base;
    struct stat st;

    if (f->is_device || f->fd < 0)
        return f->size;
    check(fstat(f->fd, &st) == 0);
    return (uint64_t)st.st_size;
}

/* A multiple of all that a direct transfer must be a multiple of. */
static uint32_t file_io_align(const struct os_file *f)
{
    struct statx sx;

    if (!f->is_direct)
        return 1;
    if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) != 0 ||
        (sx.stx_mask & STATX_DIOALIGN) == 0 || sx.stx_dio_offset_align == 0)
        return OS_BLOCK; /* a kernel before 6.1 */
    return sx.stx_dio_offset_align > sx.stx_dio_mem_align ? sx.stx_dio_offset_align
                                                          : sx.stx_dio_mem_align;
}

void os_file_info(const struct loop_file *base, struct loop_file_info *out)
{
    const struct os_file *f = (const struct os_file *)base;
    char dir[64];
    struct stat st;

    if (f->is_device) {
        snprintf(dir, sizeof(dir), "/sys/dev/block/%u:%u", major(f->device), minor(f->device));
        os_device_info(dir, out);
        out->is_device = true;
        return;
    }
    check(fstat(f->fd, &st) == 0);
    *out = (struct loop_file_info){
        .is_volatile = true,
        .can_discard = true,
        .is_sparse = st.st_blocks * 512 < st.st_size,
        .io_align = file_io_align(f),
        .discard_align = (uint64_t)st.st_blksize,
    };
}

/* All or nothing: what a failed reservation took is given back. */
int os_file_resize(struct loop_file *base, uint64_t size, bool reserve)
{
    struct os_file *f = os_file(base);

    if (f->is_device)
        return -EINVAL;
    if (reserve && size > 0) {
        uint64_t old_size = os_file_size(base);
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

/* ---- Transfers ---- */

void os_iov_init(struct os_iov *v, const struct iovec *iov, int iov_count)
{
    *v = (struct os_iov){.iov = iov, .count = (uint32_t)iov_count};
    for (int i = 0; i < iov_count; i++)
        v->total += iov[i].iov_len;
}

bool os_iov_advance(struct os_iov *v, uint64_t len)
{
    check(len <= v->total - v->moved);

    v->moved += len;
    v->skip += len;
    while (v->at < v->count && v->skip >= v->iov[v->at].iov_len) {
        v->skip -= v->iov[v->at].iov_len;
        v->at++;
    }
    return v->moved == v->total;
}

const struct iovec *os_iov_next(const struct os_iov *v, struct iovec *part, int *count)
{
    const struct iovec *iov = v->iov + v->at;

    check(v->at < v->count);
    *count = (int)(v->count - v->at);
    if (v->skip == 0)
        return iov;
    *part = (struct iovec){(char *)iov->iov_base + v->skip, iov->iov_len - v->skip};
    *count = 1;
    return part;
}

int64_t os_file_read(const struct os_file *f, struct os_iov *v, uint64_t offset)
{
    while (v->moved < v->total) {
        struct iovec part;
        int count;
        const struct iovec *iov = os_iov_next(v, &part, &count);
        ssize_t n = preadv(f->fd, iov, count, (off_t)(offset + v->moved));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        os_iov_advance(v, (uint64_t)n);
        if (n == 0 || (f->is_direct && n % OS_SECTOR != 0))
            break;
    }
    return (int64_t)v->moved;
}

int64_t os_file_write(const struct os_file *f, struct os_iov *v, uint64_t offset, bool is_durable)
{
    int flags = is_durable ? RWF_DSYNC : 0;

    while (v->moved < v->total) {
        struct iovec part;
        int count;
        const struct iovec *iov = os_iov_next(v, &part, &count);
        ssize_t n = pwritev2(f->fd, iov, count, (off_t)(offset + v->moved), flags);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO; /* a write that writes nothing and names no error */
        os_iov_advance(v, (uint64_t)n);
    }
    return (int64_t)v->moved;
}

int os_file_discard(const struct os_file *f, uint64_t offset, uint64_t len)
{
    uint64_t range[2] = {offset, len};
    int r;

    do
        r = f->is_device ? ioctl(f->fd, BLKDISCARD, range)
                         : fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                     (off_t)offset, (off_t)len);
    while (r != 0 && errno == EINTR);
    return r == 0 ? 0 : -errno;
}

int64_t os_read_now(struct loop_file *f, void *buf, size_t len, uint64_t offset)
{
    struct iovec iov = {buf, len};
    struct os_iov v;

    os_iov_init(&v, &iov, 1);
    return os_file_read(os_file(f), &v, offset);
}

int64_t os_write_now(struct loop_file *f, const void *buf, size_t len, uint64_t offset)
{
    struct iovec iov = {(void *)(uintptr_t)buf, len};
    struct os_iov v;

    os_iov_init(&v, &iov, 1);
    return os_file_write(os_file(f), &v, offset, false);
}

int os_flush_now(struct loop_file *f)
{
    return fdatasync(os_file(f)->fd) == 0 ? 0 : -errno;
}

/* ---- Names ---- */

int os_dir_create(struct loop *l, const char *path)
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

int os_dir_sync(struct loop *l, const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    (void)l;
    if (fd < 0)
        return -errno;
    int err = fsync(fd) == 0 ? 0 : -errno;
    close(fd);
    return err;
}

int os_dir_list(struct loop *l, const char *path, void (*each)(void *arg, const char *name),
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

int os_rename(struct loop *l, const char *from, const char *to)
{
    (void)l;
    return rename(from, to) == 0 ? 0 : -errno;
}

int os_unlink(struct loop *l, const char *path)
{
    (void)l;
    return unlink(path) == 0 ? 0 : -errno;
}

int64_t os_disk_free(struct loop *l, const char *path)
{
    struct statvfs st;

    (void)l;
    if (statvfs(path, &st) != 0)
        return -errno;
    return (int64_t)(st.f_bavail * st.f_frsize);
}
