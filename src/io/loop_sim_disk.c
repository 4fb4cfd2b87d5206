#include "io/loop_sim_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/pool.h"
#include "base/text.h"

/*
 * What files hold, and how it gets lost.
 *
 * A page of a file has one durable content and a chain of versions, oldest to
 * newest: each write that was carried out and not flushed yet added one, made
 * of the version before it and the bytes written. A read sees the newest. A
 * version counts for a flush when its write was done, that is when done() had
 * run, before the flush was started; the flush makes the newest such version
 * durable and forgets those before it. Power loss picks for each page one of
 * the contents there were, or of each sector one.
 *
 * A write takes effect when its time is over. Until then a read of the same
 * bytes sees of each sector the old or the new, and a crash leaves any part.
 */

static const uint64_t FILE_MAGIC = 0x73696d2d66696c65ull;
static const uint64_t latency_ns_max = 3600 * NS_PER_S;
static const uint8_t zeros[SIM_PAGE_BYTES];

enum { SECTORS_ALL = (1 << SIM_PAGE_SECTORS) - 1, POISON = 0xa5 };

static struct sim_file *file_of(const struct loop_file *f)
{
    struct sim_file *sf = container_of(f, struct sim_file, base);

    check(sf->magic == FILE_MAGIC);
    return sf;
}

static uint64_t pages_of(uint64_t bytes)
{
    return bytes / SIM_PAGE_BYTES + (bytes % SIM_PAGE_BYTES != 0);
}

/* ---- Versions ---- */

static struct sim_version *version_new(struct sim *s, const uint8_t *content)
{
    struct sim_version *v = s->versions_free;

    if (v != NULL)
        s->versions_free = v->next;
    else
        v = mem_zalloc(sizeof(*v));
    v->next = NULL;
    v->mark = NULL;
    v->lost = false;
    memcpy(v->data, content, SIM_PAGE_BYTES);
    return v;
}

static struct sim_mark *mark_new(uint64_t seq)
{
    struct sim_mark *m = mem_zalloc(sizeof(*m));

    *m = (struct sim_mark){.seq = seq, .refs = 1};
    return m;
}

static void mark_put(struct sim_mark *m)
{
    if (m != NULL && --m->refs == 0)
        free(m);
}

static void version_free(struct sim *s, struct sim_version *v)
{
    if (v == NULL)
        return;
    mark_put(v->mark);
    v->mark = NULL;
    v->next = s->versions_free;
    s->versions_free = v;
}

void sim_versions_free(struct sim *s)
{
    while (s->versions_free != NULL) {
        struct sim_version *v = s->versions_free;
        s->versions_free = v->next;
        free(v);
    }
}

/* ---- Pages ---- */

static struct sim_page *page_find(const struct sim_inode *n, uint64_t index)
{
    struct hash_link *l = hash_find(&n->pages, index);

    return l == NULL ? NULL : container_of(l, struct sim_page, link);
}

static struct sim_page *page_get(struct sim_host *h, struct sim_inode *n, uint64_t index)
{
    struct sim_page *p = page_find(n, index);

    if (p != NULL)
        return p;
    p = mem_zalloc(sizeof(*p));
    list_init(&p->dirty);
    hash_insert(&n->pages, &p->link, index);
    if (index >= n->reserved_pages) {
        n->charged_pages++;
        h->disk.used_pages++;
    }
    return p;
}

static const uint8_t *page_content(const struct sim_page *p)
{
    if (p == NULL)
        return zeros;
    if (p->newest != NULL)
        return p->newest->data;
    return p->durable != NULL ? p->durable->data : zeros;
}

static void page_free(struct sim_host *h, struct sim_inode *n, struct sim_page *p)
{
    while (p->oldest != NULL) {
        struct sim_version *v = p->oldest;
        p->oldest = v->next;
        version_free(h->sim, v);
    }
    version_free(h->sim, p->durable);
    if (p->link.key >= n->reserved_pages) {
        n->charged_pages--;
        h->disk.used_pages--;
    }
    list_remove(&p->dirty);
    hash_remove(&n->pages, &p->link);
    free(p);
}

/* Version `v` of the chain reaches the medium; the ones before it are of no more use. */
static void page_make_durable(struct sim_host *h, struct sim_page *p, struct sim_version *v)
{
    while (p->oldest != v) {
        struct sim_version *old = p->oldest;
        p->oldest = old->next;
        p->versions_count--;
        version_free(h->sim, old);
    }
    p->oldest = v->next;
    p->versions_count--;
    if (p->oldest == NULL) {
        p->newest = NULL;
        list_remove(&p->dirty);
    }
    version_free(h->sim, p->durable);
    p->durable = v;
    mark_put(v->mark);
    v->mark = NULL;
}

static void page_add(struct sim_host *h, struct sim_inode *n, struct sim_page *p,
                     struct sim_version *v, struct sim_mark *mark)
{
    v->mark = mark;
    mark->refs++;
    if (p->newest == NULL) {
        p->oldest = v;
        list_push(&n->dirty, &p->dirty);
    } else {
        p->newest->next = v;
    }
    p->newest = v;
    p->versions_count++;
    if (p->versions_count > SIM_VERSIONS_MAX)
        page_make_durable(h, p, p->oldest);
}

/* ---- Inodes ---- */

struct sim_inode *sim_inode_create(struct sim_host *h, bool is_dir)
{
    struct sim_inode *n = mem_zalloc(sizeof(*n));

    n->refs = 1;
    n->number = ++h->disk.inode_last;
    n->is_dir = is_dir;
    hash_init(&n->pages, 16);
    list_init(&n->dirty);
    list_init(&n->writes);
    list_init(&n->in_disk);
    list_push(&h->disk.inodes, &n->in_disk);
    return n;
}

typedef void page_visit(struct sim_host *h, struct sim_inode *n, struct sim_page *p);

/* In an order of no meaning: the visits must not depend on each other. */
static void inode_visit(struct sim_host *h, struct sim_inode *n, uint64_t from, page_visit *visit)
{
    for (uint64_t i = 0; i <= n->pages.mask; i++) {
        struct hash_link *next;
        for (struct hash_link *l = n->pages.buckets[i]; l != NULL; l = next) {
            next = l->next;
            if (l->key >= from)
                visit(h, n, container_of(l, struct sim_page, link));
        }
    }
}

void sim_inode_put(struct sim_host *h, struct sim_inode *n)
{
    check(n->refs > 0);
    if (--n->refs > 0)
        return;

    check(list_empty(&n->writes));
    inode_visit(h, n, 0, page_free);
    check(n->pages.count == 0 && n->charged_pages == 0);
    h->disk.used_pages -= n->reserved_pages;
    list_remove(&n->in_disk);
    hash_deinit(&n->pages);
    free(n);
}

static void page_count_reserved(struct sim_host *h, struct sim_inode *n, struct sim_page *p)
{
    (void)p;
    n->charged_pages++;
    h->disk.used_pages++;
}

static void inode_reserve(struct sim_host *h, struct sim_inode *n, uint64_t pages)
{
    h->disk.used_pages -= n->reserved_pages + n->charged_pages;
    n->reserved_pages = pages;
    n->charged_pages = 0;
    h->disk.used_pages += pages;
    inode_visit(h, n, pages, page_count_reserved);
}

static bool disk_has_room(const struct sim_host *h, uint64_t pages)
{
    uint64_t limit = h->sim->config.host_disk_bytes / SIM_PAGE_BYTES;

    if (h->sim->config.host_disk_bytes == 0)
        return true;
    return h->disk.used_pages <= limit && pages <= limit - h->disk.used_pages;
}

/* A write, or the part of one that `sectors_of` lets through, becomes the newest version. */
struct content {
    const struct iovec *iov;
    int iov_count;
    uint64_t offset, len;
};

/* Bytes of the content in sector `sector` (of the whole file) go to their place in the page. */
static void content_copy_sector(const struct content *c, uint64_t sector, uint8_t *page)
{
    uint64_t from = sector * SIM_SECTOR_BYTES;
    uint64_t to = from + SIM_SECTOR_BYTES;

    if (from < c->offset)
        from = c->offset;
    if (to > c->offset + c->len)
        to = c->offset + c->len;
    if (from < to)
        sim_iov_get(c->iov, c->iov_count, from - c->offset, page + from % SIM_PAGE_BYTES,
                    (size_t)(to - from));
}

static void content_copy_page(const struct content *c, uint64_t index, unsigned sectors,
                              uint8_t *page)
{
    uint64_t start = index * SIM_PAGE_BYTES;

    if (sectors == SECTORS_ALL) {
        uint64_t from = start > c->offset ? start : c->offset;
        uint64_t to = start + SIM_PAGE_BYTES;
        if (to > c->offset + c->len)
            to = c->offset + c->len;
        sim_iov_get(c->iov, c->iov_count, from - c->offset, page + (from - start),
                    (size_t)(to - from));
        return;
    }
    for (unsigned i = 0; i < SIM_PAGE_SECTORS; i++) {
        if (sectors & (1u << i))
            content_copy_sector(c, index * SIM_PAGE_SECTORS + i, page);
    }
}

static void inode_put_page(struct sim_host *h, struct sim_inode *n, const struct content *c,
                           uint64_t index, unsigned sectors, struct sim_mark *mark)
{
    struct sim_page *p = page_get(h, n, index);
    struct sim_version *v = version_new(h->sim, page_content(p));
    uint64_t end = (index + 1) * SIM_PAGE_BYTES;

    content_copy_page(c, index, sectors, v->data);
    page_add(h, n, p, v, mark);
    if (end > c->offset + c->len)
        end = c->offset + c->len;
    if (n->size < end)
        n->size = end;
}

static int inode_write(struct sim_host *h, struct sim_inode *n, const struct content *c,
                       struct sim_mark *mark)
{
    uint64_t first = c->offset / SIM_PAGE_BYTES;
    uint64_t end = pages_of(c->offset + c->len);
    uint64_t missing = 0;

    for (uint64_t i = first; i < end; i++)
        missing += i >= n->reserved_pages && page_find(n, i) == NULL;
    if (!disk_has_room(h, missing))
        return -ENOSPC;
    for (uint64_t i = first; i < end; i++)
        inode_put_page(h, n, c, i, SECTORS_ALL, mark);
    return 0;
}

/* Which sectors of a page made it: none, all, or any. */
static unsigned sectors_pick(struct sim *s)
{
    switch (prng_below(&s->world, 3)) {
    case 0:
        return 0;
    case 1:
        return SECTORS_ALL;
    default:
        return (unsigned)prng_below(&s->world, SECTORS_ALL + 1);
    }
}

/* A write that failed or was cut short. */
static void inode_write_part(struct sim_host *h, struct sim_inode *n, const struct content *c,
                             struct sim_mark *mark)
{
    uint64_t end = pages_of(c->offset + c->len);

    for (uint64_t i = c->offset / SIM_PAGE_BYTES; i < end; i++) {
        unsigned sectors = sectors_pick(h->sim);
        bool fits = i < n->reserved_pages || page_find(n, i) != NULL || disk_has_room(h, 1);
        if (sectors != 0 && fits)
            inode_put_page(h, n, c, i, sectors, mark);
    }
}

/* The newest version that was done before the flush began. */
static struct sim_version *page_covered(const struct sim_page *p, uint64_t seq)
{
    struct sim_version *covered = NULL;

    for (struct sim_version *v = p->oldest; v != NULL; v = v->next) {
        if (!v->lost && v->mark->seq <= seq)
            covered = v;
    }
    return covered;
}

static void inode_flush(struct sim_host *h, struct sim_inode *n, uint64_t seq)
{
    struct list *next;

    for (struct list *pos = n->dirty.next; pos != &n->dirty; pos = next) {
        struct sim_page *p = container_of(pos, struct sim_page, dirty);
        next = pos->next;
        struct sim_version *v = page_covered(p, seq);
        if (v == NULL)
            continue;
        page_make_durable(h, p, v);
        if (p->newest == NULL && p->link.key >= pages_of(n->size))
            page_free(h, n, p);
    }
    n->size_durable = n->size;
}

/*
 * After a flush that failed, the kernel takes the pages for clean: some made it, and those that
 * did not are no later flush's business. They can still be read, until the power goes.
 */
static void inode_flush_fail(struct sim_host *h, struct sim_inode *n, uint64_t seq)
{
    struct list *next;

    for (struct list *pos = n->dirty.next; pos != &n->dirty; pos = next) {
        struct sim_page *p = container_of(pos, struct sim_page, dirty);
        next = pos->next;
        struct sim_version *covered = page_covered(p, seq);
        if (covered != NULL && prng_chance(&h->sim->world, 1, 2)) {
            page_make_durable(h, p, covered);
            continue;
        }
        for (struct sim_version *v = p->oldest; v != NULL; v = v->next) {
            if (v->mark->seq <= seq)
                v->lost = true;
        }
    }
}

static void inode_read(const struct sim_inode *n, const struct iovec *iov, int iov_count,
                       uint64_t offset, uint64_t len)
{
    for (uint64_t pos = 0; pos < len;) {
        uint64_t at = offset + pos;
        uint64_t in_page = at % SIM_PAGE_BYTES;
        uint64_t part = SIM_PAGE_BYTES - in_page < len - pos ? SIM_PAGE_BYTES - in_page : len - pos;
        const uint8_t *data = page_content(page_find(n, at / SIM_PAGE_BYTES));
        sim_iov_put(iov, iov_count, pos, data + in_page, part);
        pos += part;
    }
}

static uint64_t inode_readable(const struct sim_inode *n, uint64_t offset, uint64_t len)
{
    if (offset >= n->size)
        return 0;
    return len < n->size - offset ? len : n->size - offset;
}

/* ---- Power loss ---- */

static const uint8_t *page_candidate(const struct sim_page *p, uint64_t i)
{
    const struct sim_version *v = p->oldest;

    if (i == 0)
        return p->durable != NULL ? p->durable->data : zeros;
    for (; i > 1; i--)
        v = v->next;
    return v->data;
}

/* Old, new, one between, or of every sector any. */
static void page_power_loss(struct sim_host *h, struct sim_page *p)
{
    struct sim *s = h->sim;
    uint64_t candidates = (uint64_t)p->versions_count + 1;
    enum { OLD, NEW, BETWEEN, TORN, HOWS } how = (int)prng_below(&s->world, HOWS);
    uint64_t whole = how == OLD   ? 0
                     : how == NEW ? candidates - 1
                                  : prng_below(&s->world, candidates);

    struct sim_version *kept = version_new(s, page_candidate(p, whole));
    for (unsigned i = 0; how == TORN && i < SIM_PAGE_SECTORS; i++) {
        const uint8_t *from = page_candidate(p, prng_below(&s->world, candidates));
        memcpy(kept->data + i * SIM_SECTOR_BYTES, from + i * SIM_SECTOR_BYTES, SIM_SECTOR_BYTES);
    }
    kept->mark = mark_new(0);
    p->newest->next = kept;
    p->newest = kept;
    p->versions_count++;
    page_make_durable(h, p, kept);
}

static void page_zero_tail(struct sim_inode *n)
{
    struct sim_page *p = page_find(n, n->size / SIM_PAGE_BYTES);
    uint64_t in_page = n->size % SIM_PAGE_BYTES;

    if (p != NULL && p->durable != NULL)
        memset(p->durable->data + in_page, 0, SIM_PAGE_BYTES - in_page);
}

static void inode_power_loss(struct sim_host *h, struct sim_inode *n)
{
    while (!list_empty(&n->dirty))
        page_power_loss(h, container_of(n->dirty.next, struct sim_page, dirty));
    if (n->size != n->size_durable && prng_chance(&h->sim->world, 1, 2))
        n->size = n->size_durable;
    n->size_durable = n->size;
    inode_visit(h, n, pages_of(n->size), page_free);
    page_zero_tail(n);
    if (n->reserved_pages > pages_of(n->size))
        inode_reserve(h, n, pages_of(n->size));
}

void sim_disk_power_loss(struct sim_host *h)
{
    list_for_each (pos, &h->disk.inodes)
        inode_power_loss(h, container_of(pos, struct sim_inode, in_disk));
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

void sim_disk_set_slow(struct sim_host *h, uint32_t num, uint32_t den, uint64_t ns_max)
{
    check(den > 0);
    h->disk.slow_num = num;
    h->disk.slow_den = den;
    h->disk.slow_ns_max = ns_max < latency_ns_max ? ns_max : latency_ns_max;
}

/* Every fault that covers the call counts it; the first that is due decides. */
static int disk_fault(struct sim_host *h, const char *path, enum sim_disk_op op)
{
    int fault = 0;
    struct list *next;

    for (struct list *pos = h->disk.faults.next; pos != &h->disk.faults; pos = next) {
        struct sim_fault *f = container_of(pos, struct sim_fault, link);
        next = pos->next;
        if (f->op != op || strncmp(path, f->prefix, strlen(f->prefix)) != 0)
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

static struct sim_inode *disk_find(struct sim_host *h, const char *path)
{
    char normal[SIM_PATH_MAX];

    if (!sim_path_normalize(path, normal))
        return NULL;
    return sim_name_find(h, normal);
}

int sim_disk_flip(struct sim_host *h, const char *path, uint64_t bit)
{
    struct sim_inode *n = disk_find(h, path);

    if (n == NULL || n->is_dir)
        return -ENOENT;
    if (bit / 8 >= n->size)
        return -ERANGE;
    struct sim_page *p = page_get(h, n, bit / 8 / SIM_PAGE_BYTES);
    if (p->durable == NULL)
        p->durable = version_new(h->sim, zeros);
    p->durable->data[bit / 8 % SIM_PAGE_BYTES] ^= (uint8_t)(1u << bit % 8);
    sim_trace(h->sim, SIM_DISK, n->number, bit);
    return 0;
}

int sim_disk_peek(struct sim_host *h, const char *path, uint64_t offset, void *buf, size_t len)
{
    const struct sim_inode *n = disk_find(h, path);

    if (n == NULL || n->is_dir)
        return -ENOENT;
    if (offset > n->size || len > n->size - offset)
        return -ERANGE;
    struct iovec iov = {buf, len};
    inode_read(n, &iov, 1, offset, len);
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

static void page_truncate(struct sim_host *h, struct sim_inode *n, struct sim_page *p)
{
    uint64_t start = p->link.key * SIM_PAGE_BYTES;
    uint64_t keep = n->size > start ? n->size - start : 0;

    struct sim_version *v = version_new(h->sim, page_content(p));
    memset(v->data + keep, 0, SIM_PAGE_BYTES - keep);
    struct sim_mark *mark = mark_new(++h->disk.seq);
    page_add(h, n, p, v, mark);
    mark_put(mark);
}

/* The bytes cut off come back as zeros; after power loss perhaps as what they were. Pages are
 * visited in order, for each draws a number. */
static void inode_shrink(struct sim_host *h, struct sim_inode *n, uint64_t size)
{
    uint64_t end = pages_of(n->size);

    n->size = size;
    for (uint64_t i = size / SIM_PAGE_BYTES; i < end; i++) {
        struct sim_page *p = page_find(n, i);
        if (p != NULL)
            page_truncate(h, n, p);
    }
    if (n->reserved_pages > pages_of(size))
        inode_reserve(h, n, pages_of(size));
}

static uint64_t inode_unreserved(const struct sim_inode *n, uint64_t pages)
{
    uint64_t missing = 0;

    for (uint64_t i = n->reserved_pages; i < pages; i++)
        missing += page_find(n, i) == NULL;
    return missing;
}

int sim_file_resize(struct loop_file *f, uint64_t size, bool reserve)
{
    struct sim_file *sf = file_of(f);
    struct sim_host *h = sf->loop->host;
    struct sim_inode *n = sf->inode;

    check(sf->flags & LOOP_FILE_WRITE);
    sim_block(&sf->loop->base, sim_disk_latency(h));
    if (reserve && !disk_has_room(h, inode_unreserved(n, pages_of(size))))
        return -ENOSPC;
    if (size < n->size)
        inode_shrink(h, n, size);
    n->size = size;
    if (reserve && pages_of(size) > n->reserved_pages)
        inode_reserve(h, n, pages_of(size));
    return 0;
}

/* What reads and writes do when their time is over; the same for blocking ones. */

static int64_t disk_read(struct sim_host *h, const struct sim_inode *n, const struct content *c,
                         int fault)
{
    uint64_t offset = c->offset;

    if (fault < 0)
        return fault;
    uint64_t len = inode_readable(n, offset, c->len);
    if (fault == SIM_LIE_READ_MISDIRECTED)
        offset = disk_astray(h, n, offset, len);
    inode_read(n, c->iov, c->iov_count, offset, len);
    if (fault == SIM_LIE_READ_FLIPPED && len > 0) {
        uint64_t pos = prng_below(&h->sim->world, len);
        uint8_t byte;
        sim_iov_get(c->iov, c->iov_count, pos, &byte, 1);
        byte ^= (uint8_t)(1u << prng_below(&h->sim->world, 8));
        sim_iov_put(c->iov, c->iov_count, pos, &byte, 1);
    }
    return (int64_t)len;
}

static int64_t disk_write(struct sim_host *h, struct sim_inode *n, const struct content *c,
                          struct sim_mark *mark, int fault)
{
    struct content astray = *c;

    if (fault == -ENOSPC || fault == -EBADF)
        return fault;
    if (fault < 0) {
        inode_write_part(h, n, c, mark);
        return fault;
    }
    if (fault == SIM_LIE_WRITE_DROPPED)
        return (int64_t)c->len;
    if (fault == SIM_LIE_WRITE_MISDIRECTED)
        astray.offset = disk_astray(h, n, c->offset, c->len);
    int r = inode_write(h, n, &astray, mark);
    return r != 0 ? r : (int64_t)c->len;
}

/* ---- Operations ---- */

static struct content content_of(const struct sim_op *o)
{
    return (struct content){o->iov, o->iov_count, o->offset, o->len};
}

/* Where a read meets writes under way, each sector is as before or as after. */
static void read_mix(const struct sim_op *read, uint64_t len)
{
    struct sim *s = read->loop->sim;

    list_for_each (pos, &read->file->inode->writes) {
        struct content w = content_of(container_of(pos, struct sim_op, in_inode));
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
    struct content c = content_of(o);

    int64_t r = disk_read(o->loop->host, o->file->inode, &c, o->fault);
    if (r > 0 && o->fault == 0)
        read_mix(o, (uint64_t)r);
    return r;
}

static int64_t op_write(struct sim_op *o)
{
    struct content c = content_of(o);

    list_remove(&o->in_inode);
    o->mark = mark_new(UINT64_MAX);
    return disk_write(o->loop->host, o->file->inode, &c, o->mark, o->fault);
}

static int64_t op_flush(struct sim_op *o)
{
    if (o->fault != 0)
        inode_flush_fail(o->loop->host, o->file->inode, o->flush_seq);
    else
        inode_flush(o->loop->host, o->file->inode, o->flush_seq);
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
    else
        result = op_flush(o);
    sim_trace(o->loop->sim, SIM_DISK, who, (uint64_t)result ^ o->offset << 8);
    sim_op_complete(o, result);
}

void sim_disk_op_done(struct sim_op *o)
{
    check(o->file->ops_count > 0);
    o->file->ops_count--;
    if (o->kind != SIM_OP_WRITE)
        return;

    /* The caller changed the bytes of a write that was in flight. */
    check(sim_iov_crc(o->iov, o->iov_count) == o->crc);
    o->mark->seq = ++o->loop->host->disk.seq;
    mark_put(o->mark);
}

/* Any part of a write that was under way stays in the cache. */
void sim_disk_op_killed(struct sim_op *o)
{
    struct sim_host *h = o->loop->host;

    o->file->ops_count--;
    if (o->kind != SIM_OP_WRITE)
        return;
    if (o->mark == NULL) {
        struct content c = content_of(o);
        o->mark = mark_new(UINT64_MAX);
        list_remove(&o->in_inode);
        inode_write_part(h, o->file->inode, &c, o->mark);
    }
    o->mark->seq = ++h->disk.seq;
    mark_put(o->mark);
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
                     const struct iovec *iov, int iov_count, uint64_t offset)
{
    struct sim_op *o = op_start(l, op, f, SIM_OP_WRITE, SIM_DISK_WRITE);

    if ((o->file->flags & LOOP_FILE_WRITE) == 0)
        o->fault = -EBADF;
    op_set_iov(o, iov, iov_count, offset);
    o->crc = sim_iov_crc(iov, iov_count);
    list_push(&o->file->inode->writes, &o->in_inode);
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

    sim_trace(h->sim, SIM_DISK, f->inode->number, amount);
    sim_block(&f->loop->base, sim_disk_latency(h));
    return disk_fault(h, f->path, op);
}

int64_t sim_file_read_now(struct loop_file *f, void *buf, size_t len, uint64_t offset)
{
    struct sim_file *sf = file_of(f);
    struct iovec iov = {buf, len};

    check_direct(sf, &iov, 1, offset);
    struct content c = {&iov, 1, offset, len};
    int fault = now_begin(sf, SIM_DISK_READ, offset);
    memset(buf, POISON, len);
    return disk_read(sf->loop->host, sf->inode, &c, fault);
}

int64_t sim_file_write_now(struct loop_file *f, const void *buf, size_t len, uint64_t offset)
{
    struct sim_file *sf = file_of(f);
    struct sim_host *h = sf->loop->host;
    struct iovec iov = {(void *)(uintptr_t)buf, len};
    struct content c = {&iov, 1, offset, len};

    check(len > 0);
    check_direct(sf, &iov, 1, offset);
    int fault = now_begin(sf, SIM_DISK_WRITE, offset);
    if ((sf->flags & LOOP_FILE_WRITE) == 0)
        fault = -EBADF;
    struct sim_mark *mark = mark_new(++h->disk.seq);
    int64_t r = disk_write(h, sf->inode, &c, mark, fault);
    mark_put(mark);
    return r;
}

int sim_file_flush_now(struct loop_file *f)
{
    struct sim_file *sf = file_of(f);
    struct sim_host *h = sf->loop->host;
    int r = now_begin(sf, SIM_DISK_FLUSH, 0);

    if (r != 0)
        inode_flush_fail(h, sf->inode, h->disk.seq);
    else
        inode_flush(h, sf->inode, h->disk.seq);
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
