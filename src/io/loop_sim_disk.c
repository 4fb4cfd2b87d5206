#include "io/loop_sim_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/pool.h"
#include "base/text.h"

/*
 * Files as a process has them, the operations on them, and what goes wrong on request. What a file
 * holds is in loop_sim_inode.c.
 *
 * An operation takes effect when its time is over, between start and done(): a write is in the
 * cache from then on, a flush makes durable what was done when it started. Until then a read of
 * the same bytes sees of each sector the old or the new, and a crash leaves any part.
 */

static const uint64_t FILE_MAGIC = 0x73696d2d66696c65ull;
static const uint64_t latency_ns_max = 3600 * NS_PER_S;

enum { POISON = 0xa5 }; /* what a buffer holds until a read has filled it */

static struct sim_file *file_of(const struct loop_file *f)
{
    struct sim_file *sf = container_of(f, struct sim_file, base);

    check(sf->magic == FILE_MAGIC);
    return sf;
}

void sim_disk_power_loss(struct sim_host *h)
{
    list_for_each (pos, &h->disk.inodes)
        sim_inode_power_loss(h, container_of(pos, struct sim_inode, in_disk));
    sim_names_power_loss(h);
}

void sim_disk_init(struct sim_host *h)
{
    list_init(&h->disk.inodes);
    list_init(&h->disk.faults);
    sim_names_init(h);
}

void sim_disk_deinit(struct sim_host *h)
{
    sim_disk_clear_faults(h);
    sim_names_deinit(h);
    check(list_empty(&h->disk.inodes));
}

/* ---- Faults ---- */

static void fault_add(struct sim_host *h, const char *prefix, const struct sim_fault *fault)
{
    struct sim_fault *f = mem_zalloc(sizeof(*f));

    *f = *fault;
    check(str_copy(f->prefix, sizeof(f->prefix), prefix + strspn(prefix, "/")));
    list_init(&f->link);
    list_push(&h->disk.faults, &f->link);
}

void sim_disk_fail(struct sim_host *h, const char *prefix, enum sim_disk_op op, uint64_t after,
                   int error, bool once)
{
    int fault = error < 0 ? error : -error;

    check(error != 0);
    fault_add(h, prefix,
              &(struct sim_fault){.op = op, .after = after, .fault = fault, .once = once});
}

void sim_disk_lie(struct sim_host *h, const char *prefix, enum sim_disk_lie lie, uint64_t after)
{
    bool writes = lie == SIM_LIE_WRITE_DROPPED || lie == SIM_LIE_WRITE_MISDIRECTED;
    enum sim_disk_op op = writes ? SIM_DISK_WRITE : SIM_DISK_READ;

    fault_add(h, prefix,
              &(struct sim_fault){.op = op, .after = after, .fault = (int)lie, .once = true});
}

void sim_disk_clear_faults(struct sim_host *h)
{
    for (struct list *link; (link = list_pop(&h->disk.faults)) != NULL;)
        free(container_of(link, struct sim_fault, link));
    h->disk.slow_num = 0;
}

void sim_disk_watch(struct sim_host *h, void (*watch)(void *arg, enum sim_disk_op op), void *arg)
{
    h->disk.watch = watch;
    h->disk.watch_arg = arg;
}

void sim_disk_set_slow(struct sim_host *h, uint32_t num, uint32_t den, uint64_t ns_max)
{
    check(den > 0);
    h->disk.slow_num = num;
    h->disk.slow_den = den;
    h->disk.slow_ns_max = ns_max < latency_ns_max ? ns_max : latency_ns_max;
}

static void disk_watched(struct sim_host *h, enum sim_disk_op op)
{
    if (h->disk.watch != NULL)
        h->disk.watch(h->disk.watch_arg, op);
}

/* Every fault that covers the call counts it; the first that is due decides. */
static int disk_fault(struct sim_host *h, const char *path, enum sim_disk_op op)
{
    int fault = 0;
    struct list *next;

    for (struct list *pos = h->disk.faults.next; pos != &h->disk.faults; pos = next) {
        struct sim_fault *f = container_of(pos, struct sim_fault, link);
        next = pos->next;
        if ((f->op != op && f->op != SIM_DISK_ANY) ||
            strncmp(path, f->prefix, strlen(f->prefix)) != 0)
            continue;
        if (f->after > 0) {
            f->after--;
            continue;
        }
        if (fault != 0)
            continue;
        fault = f->fault;
        if (f->once) {
            list_remove(&f->link);
            free(f);
        }
    }
    return fault;
}

/* Where an access of `len` bytes lands that went astray: as far into another page. */
static uint64_t disk_astray(struct sim_host *h, const struct sim_inode *n, uint64_t offset,
                            uint64_t len)
{
    uint64_t in_page = offset % SIM_PAGE_BYTES;

    if (n->size < in_page + len)
        return in_page;
    uint64_t places = (n->size - in_page - len) / SIM_PAGE_BYTES + 1;
    return in_page + prng_below(&h->sim->world, places) * SIM_PAGE_BYTES;
}

uint64_t sim_disk_latency(struct sim_host *h)
{
    struct sim *s = h->sim;
    uint64_t ns = sim_between(s, s->config.disk_ns_min, s->config.disk_ns_max);

    if (h->disk.slow_num > 0 && prng_chance(&s->world, h->disk.slow_num, h->disk.slow_den))
        ns += prng_below(&s->world, h->disk.slow_ns_max + 1);
    return ns;
}

void sim_disk_set_info(struct sim_host *h, const struct loop_file_info *info)
{
    h->disk.has_info = true;
    h->disk.info = *info;
}

static bool disk_is_volatile(const struct sim_host *h)
{
    return !h->disk.has_info || h->disk.info.is_volatile;
}

struct sim_inode *sim_disk_find(struct sim_host *h, const char *path)
{
    char normal[SIM_PATH_MAX];

    if (!sim_path_normalize(path, normal))
        return NULL;
    struct sim_inode *n = sim_name_find(h, normal);
    return n == NULL || n->is_dir ? NULL : n;
}

int sim_disk_flip(struct sim_host *h, const char *path, uint64_t bit)
{
    struct sim_inode *n = sim_disk_find(h, path);

    if (n == NULL)
        return -ENOENT;
    if (bit / 8 >= n->size)
        return -ERANGE;
    sim_inode_flip(h, n, bit);
    sim_trace(h->sim, SIM_DISK, n->number, bit);
    return 0;
}

int sim_disk_peek(struct sim_host *h, const char *path, uint64_t offset, void *buf, size_t len)
{
    const struct sim_inode *n = sim_disk_find(h, path);

    if (n == NULL)
        return -ENOENT;
    if (offset > n->size || len > n->size - offset)
        return -ERANGE;
    struct iovec iov = {buf, len};
    sim_inode_read(n, &iov, 1, offset, len);
    return 0;
}

/* ---- Files ---- */

static int file_lock(struct sim_file *f, struct sim_inode *n)
{
    if ((f->flags & LOOP_FILE_LOCK) == 0)
        return 0;
    if (n->locked_by != NULL)
        return -EWOULDBLOCK;
    n->locked_by = f;
    return 0;
}

static int file_find(struct sim_host *h, const char *path, unsigned flags, struct sim_inode **out)
{
    struct sim_inode *n = sim_name_find(h, path);

    if (n != NULL && (flags & LOOP_FILE_EXCLUSIVE) != 0)
        return -EEXIST;
    if (n != NULL && n->is_dir)
        return -EISDIR;
    if (n == NULL && (flags & LOOP_FILE_CREATE) == 0)
        return -ENOENT;
    *out = n;
    return n != NULL ? 0 : sim_name_create(h, path, false, out);
}

int sim_file_open(struct loop *l, const char *path, unsigned flags, struct loop_file **out)
{
    struct sim_loop *sl = sim_loop_of(l);
    struct sim_inode *n;
    struct sim_file *f = mem_zalloc(sizeof(*f));

    f->flags = flags;
    int r = sim_path_normalize(path, f->path) ? 0 : -ENAMETOOLONG;
    if (r == 0)
        r = file_find(sl->host, f->path, flags, &n);
    if (r == 0)
        r = file_lock(f, n);
    sim_block(l, sim_disk_latency(sl->host));
    if (r != 0) {
        free(f);
        return r;
    }
    n->refs++;
    f->base.loop = l;
    f->magic = FILE_MAGIC;
    f->loop = sl;
    f->inode = n;
    list_init(&f->in_loop);
    list_push(&sl->files, &f->in_loop);
    *out = &f->base;
    return 0;
}

static void file_release(struct sim_file *f)
{
    if (f->inode == NULL)
        return;
    if (f->inode->locked_by == f)
        f->inode->locked_by = NULL;
    sim_inode_put(f->loop->host, f->inode);
    f->inode = NULL;
}

static void file_free(struct sim_file *f)
{
    file_release(f);
    list_remove(&f->in_loop);
    memset(f, 0xdd, sizeof(*f));
    free(f);
}

void sim_file_close(struct loop_file *f)
{
    struct sim_file *sf = file_of(f);

    check(sf->ops_count == 0); /* no op on it may be in flight */
    file_free(sf);
}

/* The process is gone: the handles stay as empty shells until the loop is destroyed. */
void sim_files_release(struct sim_loop *l)
{
    list_for_each (pos, &l->files)
        file_release(container_of(pos, struct sim_file, in_loop));
}

void sim_files_free(struct sim_loop *l)
{
    while (!list_empty(&l->files))
        file_free(container_of(l->files.next, struct sim_file, in_loop));
}

uint64_t sim_file_size(const struct loop_file *f)
{
    const struct sim_file *sf = file_of(f);

    return sf->inode == NULL ? 0 : sf->inode->size;
}

void sim_file_info(const struct loop_file *f, struct loop_file_info *out)
{
    const struct sim_file *sf = file_of(f);
    const struct sim_disk *d = &sf->loop->host->disk;

    *out = d->has_info ? d->info
                       : (struct loop_file_info){.is_volatile = true,
                                                 .can_discard = true,
                                                 .is_sparse = sim_inode_is_sparse(sf->inode),
                                                 .io_align = SIM_PAGE_BYTES,
                                                 .discard_align = SIM_PAGE_BYTES};
}

int sim_file_resize(struct loop_file *f, uint64_t size, bool reserve)
{
    struct sim_file *sf = file_of(f);
    struct sim_host *h = sf->loop->host;

    check(sf->flags & LOOP_FILE_WRITE);
    sim_block(&sf->loop->base, sim_disk_latency(h));
    return sim_inode_resize(h, sf->inode, size, reserve);
}

/* What reads and writes do when their time is over; the same for blocking ones. */

static int64_t disk_read(struct sim_host *h, const struct sim_inode *n, const struct sim_content *c,
                         int fault)
{
    uint64_t offset = c->offset;

    if (fault < 0)
        return fault;
    uint64_t len = sim_inode_readable(n, offset, c->len);
    if (fault == SIM_LIE_READ_MISDIRECTED)
        offset = disk_astray(h, n, offset, len);
    sim_inode_read(n, c->iov, c->iov_count, offset, len);
    if (fault == SIM_LIE_READ_FLIPPED && len > 0) {
        uint64_t pos = prng_below(&h->sim->world, len);
        uint8_t byte;
        sim_iov_get(c->iov, c->iov_count, pos, &byte, 1);
        byte ^= (uint8_t)(1u << prng_below(&h->sim->world, 8));
        sim_iov_put(c->iov, c->iov_count, pos, &byte, 1);
    }
    return (int64_t)len;
}

/* What is needed to find the bytes is the size. */
static void disk_write_through(struct sim_host *h, struct sim_inode *n, const struct sim_content *c,
                               const struct sim_mark *mark, bool is_durable)
{
    if (!is_durable && disk_is_volatile(h))
        return;
    sim_inode_write_through(h, n, c, mark);
    if (is_durable)
        n->size_durable = n->size;
}

static int64_t disk_write(struct sim_host *h, struct sim_inode *n, const struct sim_content *c,
                          struct sim_mark *mark, int fault, bool is_durable)
{
    struct sim_content astray = *c;

    if (fault == -ENOSPC || fault == -EBADF)
        return fault;
    if (fault < 0) {
        sim_inode_write_part(h, n, c, mark);
        return fault;
    }
    if (fault == SIM_LIE_WRITE_DROPPED)
        return (int64_t)c->len;
    if (fault == SIM_LIE_WRITE_MISDIRECTED)
        astray.offset = disk_astray(h, n, c->offset, c->len);
    int r = sim_inode_write(h, n, &astray, mark);
    if (r != 0)
        return r;
    disk_write_through(h, n, &astray, mark, is_durable);
    return (int64_t)c->len;
}

/* ---- Operations ---- */

static struct sim_content content_of(const struct sim_op *o)
{
    return (struct sim_content){o->iov, o->iov_count, o->offset, o->len};
}

/* Where a read meets writes under way, each sector is as before or as after. */
static void read_mix(const struct sim_op *read, uint64_t len)
{
    struct sim *s = read->loop->sim;

    list_for_each (pos, &read->file->inode->writes) {
        struct sim_content w = content_of(container_of(pos, struct sim_op, in_inode));
        uint64_t from = w.offset > read->offset ? w.offset : read->offset;
        uint64_t to = w.offset + w.len;
        if (to > read->offset + len)
            to = read->offset + len;
        while (from < to) {
            uint8_t sector[SIM_SECTOR_BYTES];
            uint64_t part = SIM_SECTOR_BYTES - from % SIM_SECTOR_BYTES;
            if (part > to - from)
                part = to - from;
            if (prng_chance(&s->world, 1, 2)) {
                sim_iov_get(w.iov, w.iov_count, from - w.offset, sector, part);
                sim_iov_put(read->iov, read->iov_count, from - read->offset, sector, part);
            }
            from += part;
        }
    }
}

static int64_t op_read(struct sim_op *o)
{
    struct sim_content c = content_of(o);

    int64_t r = disk_read(o->loop->host, o->file->inode, &c, o->fault);
    if (r > 0 && o->fault == 0)
        read_mix(o, (uint64_t)r);
    return r;
}

static int64_t op_write(struct sim_op *o)
{
    struct sim_content c = content_of(o);

    list_remove(&o->in_inode);
    o->mark = sim_mark_new(UINT64_MAX);
    return disk_write(o->loop->host, o->file->inode, &c, o->mark, o->fault, o->is_durable);
}

/* One that is refused changes nothing; one that fails, any part. */
static void discard_apply(struct sim_op *o, bool is_part)
{
    o->mark = sim_mark_new(UINT64_MAX);
    if (o->fault != -EOPNOTSUPP && o->fault != -EBADF)
        sim_inode_discard(o->loop->host, o->file->inode, o->offset, o->len, o->mark, is_part);
}

static int64_t op_discard(struct sim_op *o)
{
    discard_apply(o, o->fault != 0);
    return o->fault;
}

static int64_t op_flush(struct sim_op *o)
{
    if (o->fault != 0)
        sim_inode_flush_fail(o->loop->host, o->file->inode, o->flush_seq);
    else
        sim_inode_flush(o->loop->host, o->file->inode, o->flush_seq);
    return o->fault;
}

static void op_fire(struct sim_event *e)
{
    struct sim_op *o = container_of(e, struct sim_op, event);
    uint64_t who = (uint64_t)o->loop->number << 32 | o->file->inode->number;
    int64_t result;

    if (o->kind == SIM_OP_READ)
        result = op_read(o);
    else if (o->kind == SIM_OP_WRITE)
        result = op_write(o);
    else if (o->kind == SIM_OP_DISCARD)
        result = op_discard(o);
    else
        result = op_flush(o);
    sim_trace(o->loop->sim, SIM_DISK, who, (uint64_t)result ^ o->offset << 8);
    sim_op_complete(o, result);
}

void sim_disk_op_done(struct sim_op *o)
{
    check(o->file->ops_count > 0);
    o->file->ops_count--;
    if (o->mark == NULL)
        return;

    /* The caller changed the bytes of a write that was in flight. */
    check(o->kind != SIM_OP_WRITE || sim_iov_crc(o->iov, o->iov_count) == o->crc);
    o->mark->seq = ++o->loop->host->disk.seq;
    sim_mark_put(o->mark);
}

/* Any part of a write that was under way stays in the cache. */
void sim_disk_op_killed(struct sim_op *o)
{
    struct sim_host *h = o->loop->host;

    o->file->ops_count--;
    if (o->mark == NULL && o->kind == SIM_OP_DISCARD) {
        discard_apply(o, true);
    } else if (o->mark == NULL && o->kind == SIM_OP_WRITE) {
        struct sim_content c = content_of(o);
        o->mark = sim_mark_new(UINT64_MAX);
        list_remove(&o->in_inode);
        sim_inode_write_part(h, o->file->inode, &c, o->mark);
    }
    if (o->mark == NULL)
        return;
    o->mark->seq = ++h->disk.seq;
    sim_mark_put(o->mark);
}

static void check_direct(const struct sim_file *f, const struct iovec *iov, int iov_count,
                         uint64_t offset)
{
    if ((f->flags & LOOP_FILE_DIRECT) == 0)
        return;
    check(offset % SIM_PAGE_BYTES == 0);
    for (int i = 0; i < iov_count; i++) {
        check((uintptr_t)iov[i].iov_base % SIM_PAGE_BYTES == 0);
        check(iov[i].iov_len % SIM_PAGE_BYTES == 0);
    }
}

static struct sim_op *op_start(struct loop *l, struct loop_op *op, struct loop_file *f,
                               enum sim_op_kind kind, enum sim_disk_op fault)
{
    struct sim_file *sf = file_of(f);

    disk_watched(sf->loop->host, fault);
    struct sim_op *o = sim_op_begin(l, op, kind);
    o->file = sf;
    sf->ops_count++;
    o->fault = disk_fault(sf->loop->host, sf->path, fault);
    o->event.fire = op_fire;
    sim_at(o->loop->sim, &o->event, o->loop->sim->now + sim_disk_latency(sf->loop->host));
    return o;
}

static void op_set_iov(struct sim_op *o, const struct iovec *iov, int iov_count, uint64_t offset)
{
    check_direct(o->file, iov, iov_count, offset);
    o->iov = iov;
    o->iov_count = iov_count;
    o->len = sim_iov_len(iov, iov_count);
    o->offset = offset;
    check(o->len > 0 && o->len <= INT64_MAX - offset);
}

void sim_file_readv(struct loop *l, struct loop_op *op, struct loop_file *f,
                    const struct iovec *iov, int iov_count, uint64_t offset)
{
    struct sim_op *o = op_start(l, op, f, SIM_OP_READ, SIM_DISK_READ);

    op_set_iov(o, iov, iov_count, offset);
    /* Whoever looks before done(), or past the bytes that were read, sees this. */
    for (int i = 0; i < iov_count; i++)
        memset(iov[i].iov_base, POISON, iov[i].iov_len);
}

void sim_file_writev(struct loop *l, struct loop_op *op, struct loop_file *f,
                     const struct iovec *iov, int iov_count, uint64_t offset, bool is_durable)
{
    struct sim_op *o = op_start(l, op, f, SIM_OP_WRITE, SIM_DISK_WRITE);

    o->is_durable = is_durable;
    if ((o->file->flags & LOOP_FILE_WRITE) == 0)
        o->fault = -EBADF;
    op_set_iov(o, iov, iov_count, offset);
    o->crc = sim_iov_crc(iov, iov_count);
    list_push(&o->file->inode->writes, &o->in_inode);
}

void sim_file_discard(struct loop *l, struct loop_op *op, struct loop_file *f, uint64_t offset,
                      uint64_t len)
{
    struct sim_op *o = op_start(l, op, f, SIM_OP_DISCARD, SIM_DISK_DISCARD);
    const struct sim_disk *d = &o->loop->host->disk;

    o->offset = offset;
    o->len = len;
    if ((o->file->flags & LOOP_FILE_WRITE) == 0)
        o->fault = -EBADF;
    else if (d->has_info && !d->info.can_discard)
        o->fault = -EOPNOTSUPP;
}

void sim_file_flush(struct loop *l, struct loop_op *op, struct loop_file *f)
{
    struct sim_op *o = op_start(l, op, f, SIM_OP_FLUSH, SIM_DISK_FLUSH);

    o->flush_seq = o->loop->host->disk.seq;
}

/* ---- Blocking calls ---- */

static int now_begin(struct sim_file *f, enum sim_disk_op op, uint64_t amount)
{
    struct sim_host *h = f->loop->host;

    disk_watched(h, op);
    sim_trace(h->sim, SIM_DISK, f->inode->number, amount);
    sim_block(&f->loop->base, sim_disk_latency(h));
    return disk_fault(h, f->path, op);
}

int64_t sim_file_read_now(struct loop_file *f, void *buf, size_t len, uint64_t offset)
{
    struct sim_file *sf = file_of(f);
    struct iovec iov = {buf, len};

    check_direct(sf, &iov, 1, offset);
    struct sim_content c = {&iov, 1, offset, len};
    int fault = now_begin(sf, SIM_DISK_READ, offset);
    memset(buf, POISON, len);
    return disk_read(sf->loop->host, sf->inode, &c, fault);
}

int64_t sim_file_write_now(struct loop_file *f, const void *buf, size_t len, uint64_t offset)
{
    struct sim_file *sf = file_of(f);
    struct sim_host *h = sf->loop->host;
    struct iovec iov = {(void *)(uintptr_t)buf, len};
    struct sim_content c = {&iov, 1, offset, len};

    check(len > 0);
    check_direct(sf, &iov, 1, offset);
    int fault = now_begin(sf, SIM_DISK_WRITE, offset);
    if ((sf->flags & LOOP_FILE_WRITE) == 0)
        fault = -EBADF;
    struct sim_mark *mark = sim_mark_new(++h->disk.seq);
    int64_t r = disk_write(h, sf->inode, &c, mark, fault, false);
    sim_mark_put(mark);
    return r;
}

int sim_file_flush_now(struct loop_file *f)
{
    struct sim_file *sf = file_of(f);
    struct sim_host *h = sf->loop->host;
    int r = now_begin(sf, SIM_DISK_FLUSH, 0);

    if (r != 0)
        sim_inode_flush_fail(h, sf->inode, h->disk.seq);
    else
        sim_inode_flush(h, sf->inode, h->disk.seq);
    return r;
}

int64_t sim_disk_free_bytes(struct loop *l, const char *path)
{
    const struct sim_host *h = sim_loop_of(l)->host;
    uint64_t limit = h->sim->config.host_disk_bytes;
    uint64_t used = h->disk.used_pages * SIM_PAGE_BYTES;

    (void)path;
    if (limit == 0)
        limit = (uint64_t)1 << 50;
    return used < limit ? (int64_t)(limit - used) : 0;
}
