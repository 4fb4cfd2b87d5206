#include "io/loop_sim_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/pool.h"

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

static const uint8_t zeros[SIM_PAGE_BYTES];

static uint64_t pages_of(uint64_t bytes)
{
    return bytes / SIM_PAGE_BYTES + (bytes % SIM_PAGE_BYTES != 0);
}

/* ---- Versions ---- */

struct sim_version *sim_version_new(struct sim *s, const uint8_t *content)
{
    struct sim_version *v = s->versions_free;

    if (v != NULL)
        s->versions_free = v->next;
    else
        v = mem_zalloc(sizeof(*v));
    v->next = NULL;
    v->mark = NULL;
    v->refs = 1;
    v->lost = false;
    memcpy(v->data, content, SIM_PAGE_BYTES);
    return v;
}

struct sim_mark *sim_mark_new(uint64_t seq)
{
    struct sim_mark *m = mem_zalloc(sizeof(*m));

    *m = (struct sim_mark){.seq = seq, .refs = 1};
    return m;
}

void sim_mark_put(struct sim_mark *m)
{
    if (m != NULL && --m->refs == 0)
        free(m);
}

void sim_version_put(struct sim *s, struct sim_version *v)
{
    if (v == NULL || --v->refs > 0)
        return;
    sim_mark_put(v->mark);
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

struct sim_page *sim_page_get(struct sim_host *h, struct sim_inode *n, uint64_t index)
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

/* Below what is reserved, or above: there each page counts for itself. */
static void page_make_hole(struct sim_host *h, struct sim_inode *n, struct sim_page *p)
{
    if (p->is_hole)
        return;
    p->is_hole = true;
    h->disk.used_pages--;
    if (p->link.key < n->reserved_pages)
        n->reserved_holes++;
    else
        n->charged_pages--;
}

static void page_fill_hole(struct sim_host *h, struct sim_inode *n, struct sim_page *p)
{
    if (!p->is_hole)
        return;
    p->is_hole = false;
    h->disk.used_pages++;
    if (p->link.key < n->reserved_pages)
        n->reserved_holes--;
    else
        n->charged_pages++;
}

/* A write to it takes no more. */
static bool page_has_room(const struct sim_inode *n, uint64_t index)
{
    const struct sim_page *p = page_find(n, index);

    return p != NULL ? !p->is_hole : index < n->reserved_pages;
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
        sim_version_put(h->sim, v);
    }
    sim_version_put(h->sim, p->durable);
    page_fill_hole(h, n, p);
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
        sim_version_put(h->sim, old);
    }
    p->oldest = v->next;
    p->versions_count--;
    if (p->oldest == NULL) {
        p->newest = NULL;
        list_remove(&p->dirty);
    }
    sim_version_put(h->sim, p->durable);
    p->durable = v;
    sim_mark_put(v->mark);
    v->mark = NULL;
}

void sim_page_add(struct sim_host *h, struct sim_inode *n, struct sim_page *p,
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

/* An image of the file may share it. */
static uint8_t *page_change_durable(struct sim_host *h, struct sim_page *p)
{
    if (p->durable == NULL || p->durable->refs > 1) {
        struct sim_version *own = sim_version_new(h->sim, p->durable ? p->durable->data : zeros);
        sim_version_put(h->sim, p->durable);
        p->durable = own;
    }
    return p->durable->data;
}

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

void sim_inode_clear(struct sim_host *h, struct sim_inode *n)
{
    inode_visit(h, n, 0, page_free);
}

void sim_inode_put(struct sim_host *h, struct sim_inode *n)
{
    check(n->refs > 0);
    if (--n->refs > 0)
        return;

    check(list_empty(&n->writes));
    inode_visit(h, n, 0, page_free);
    check(n->pages.count == 0 && n->charged_pages == 0 && n->reserved_holes == 0);
    h->disk.used_pages -= n->reserved_pages;
    list_remove(&n->in_disk);
    hash_deinit(&n->pages);
    free(n);
}

static void page_count(struct sim_host *h, struct sim_inode *n, struct sim_page *p)
{
    if (p->is_hole && p->link.key < n->reserved_pages) {
        n->reserved_holes++;
        h->disk.used_pages--;
    } else if (!p->is_hole && p->link.key >= n->reserved_pages) {
        n->charged_pages++;
        h->disk.used_pages++;
    }
}

static void inode_reserve(struct sim_host *h, struct sim_inode *n, uint64_t pages)
{
    h->disk.used_pages -= n->reserved_pages + n->charged_pages - n->reserved_holes;
    n->reserved_pages = pages;
    n->charged_pages = 0;
    n->reserved_holes = 0;
    h->disk.used_pages += pages;
    inode_visit(h, n, 0, page_count);
}

static bool disk_has_room(const struct sim_host *h, uint64_t pages)
{
    uint64_t limit = h->sim->config.host_disk_bytes / SIM_PAGE_BYTES;

    if (h->sim->config.host_disk_bytes == 0)
        return true;
    return h->disk.used_pages <= limit && pages <= limit - h->disk.used_pages;
}

/* Bytes of the content in sector `sector` (of the whole file) go to their place in the page. */
static void content_copy_sector(const struct sim_content *c, uint64_t sector, uint8_t *page)
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

void sim_content_copy_page(const struct sim_content *c, uint64_t index, unsigned sectors,
                           uint8_t *page)
{
    uint64_t start = index * SIM_PAGE_BYTES;

    if (sectors == SIM_SECTORS_ALL) {
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

static void inode_put_page(struct sim_host *h, struct sim_inode *n, const struct sim_content *c,
                           uint64_t index, unsigned sectors, struct sim_mark *mark)
{
    struct sim_page *p = sim_page_get(h, n, index);
    struct sim_version *v = sim_version_new(h->sim, page_content(p));
    uint64_t end = (index + 1) * SIM_PAGE_BYTES;

    page_fill_hole(h, n, p);
    sim_content_copy_page(c, index, sectors, v->data);
    sim_page_add(h, n, p, v, mark);
    if (end > c->offset + c->len)
        end = c->offset + c->len;
    if (n->size < end)
        n->size = end;
}

int sim_inode_write(struct sim_host *h, struct sim_inode *n, const struct sim_content *c,
                    struct sim_mark *mark)
{
    uint64_t first = c->offset / SIM_PAGE_BYTES;
    uint64_t end = pages_of(c->offset + c->len);
    uint64_t missing = 0;

    for (uint64_t i = first; i < end; i++)
        missing += !page_has_room(n, i);
    if (!disk_has_room(h, missing))
        return -ENOSPC;
    for (uint64_t i = first; i < end; i++)
        inode_put_page(h, n, c, i, SIM_SECTORS_ALL, mark);
    return 0;
}

/* Which sectors of a page made it: none, all, or any. */
static unsigned sectors_pick(struct sim *s)
{
    switch (prng_below(&s->world, 3)) {
    case 0:
        return 0;
    case 1:
        return SIM_SECTORS_ALL;
    default:
        return (unsigned)prng_below(&s->world, SIM_SECTORS_ALL + 1);
    }
}

/* A write that failed or was cut short. */
void sim_inode_write_part(struct sim_host *h, struct sim_inode *n, const struct sim_content *c,
                          struct sim_mark *mark)
{
    uint64_t end = pages_of(c->offset + c->len);

    for (uint64_t i = c->offset / SIM_PAGE_BYTES; i < end; i++) {
        unsigned sectors = sectors_pick(h->sim);
        bool fits = page_has_room(n, i) || disk_has_room(h, 1);
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

void sim_inode_flush(struct sim_host *h, struct sim_inode *n, uint64_t seq)
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

void sim_inode_write_through(struct sim_host *h, struct sim_inode *n, const struct sim_content *c,
                             const struct sim_mark *mark)
{
    uint64_t end = pages_of(c->offset + c->len);

    for (uint64_t i = c->offset / SIM_PAGE_BYTES; i < end; i++) {
        struct sim_page *p = page_find(n, i);
        struct sim_version *v = p == NULL ? NULL : p->oldest;
        while (v != NULL && v->mark != mark)
            v = v->next;
        if (v != NULL)
            page_make_durable(h, p, v);
    }
}

static void page_discard(struct sim_host *h, struct sim_inode *n, struct sim_page *p,
                         struct sim_mark *mark)
{
    enum { STAYS, ZEROS, GARBAGE, OUTCOMES };
    struct sim *s = h->sim;
    uint64_t how = prng_below(&s->world, OUTCOMES);

    if (!h->disk.has_info || !h->disk.info.is_device)
        page_make_hole(h, n, p);
    if (how == STAYS)
        return;
    struct sim_version *v = sim_version_new(s, zeros);
    for (uint32_t at = 0; how == GARBAGE && at < SIM_PAGE_BYTES; at += sizeof(uint64_t)) {
        uint64_t x = prng_next(&s->world);
        memcpy(v->data + at, &x, sizeof(x));
    }
    sim_page_add(h, n, p, v, mark);
}

/* A page that was neither written nor reserved is a hole already. */
void sim_inode_discard(struct sim_host *h, struct sim_inode *n, uint64_t offset, uint64_t len,
                       struct sim_mark *mark, bool is_part)
{
    for (uint64_t i = offset / SIM_PAGE_BYTES; i < (offset + len) / SIM_PAGE_BYTES; i++) {
        if (page_find(n, i) == NULL && i >= n->reserved_pages)
            continue;
        if (!is_part || prng_chance(&h->sim->world, 1, 2))
            page_discard(h, n, sim_page_get(h, n, i), mark);
    }
}

bool sim_inode_is_sparse(const struct sim_inode *n)
{
    return n->reserved_pages - n->reserved_holes + n->charged_pages < pages_of(n->size);
}

/*
 * After a flush that failed, the kernel takes the pages for clean: some made it, and those that
 * did not are no later flush's business. They can still be read, until the power goes.
 */
void sim_inode_flush_fail(struct sim_host *h, struct sim_inode *n, uint64_t seq)
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

void sim_inode_read(const struct sim_inode *n, const struct iovec *iov, int iov_count,
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

uint64_t sim_inode_readable(const struct sim_inode *n, uint64_t offset, uint64_t len)
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

enum { OLD, NEW, BETWEEN, TORN, HOWS };

/* Old, new, one between, or of every sector any. */
static void page_power_loss(struct sim_host *h, struct sim_page *p)
{
    struct sim *s = h->sim;
    uint64_t candidates = (uint64_t)p->versions_count + 1;
    uint64_t how = prng_below(&s->world, HOWS);
    uint64_t whole = how == OLD   ? 0
                     : how == NEW ? candidates - 1
                                  : prng_below(&s->world, candidates);

    struct sim_version *kept = sim_version_new(s, page_candidate(p, whole));
    for (unsigned i = 0; how == TORN && i < SIM_PAGE_SECTORS; i++) {
        const uint8_t *from = page_candidate(p, prng_below(&s->world, candidates));
        memcpy(kept->data + i * SIM_SECTOR_BYTES, from + i * SIM_SECTOR_BYTES, SIM_SECTOR_BYTES);
    }
    kept->mark = sim_mark_new(0);
    p->newest->next = kept;
    p->newest = kept;
    p->versions_count++;
    page_make_durable(h, p, kept);
}

static void page_zero_tail(struct sim_host *h, struct sim_inode *n)
{
    struct sim_page *p = page_find(n, n->size / SIM_PAGE_BYTES);
    uint64_t in_page = n->size % SIM_PAGE_BYTES;

    if (p != NULL && p->durable != NULL)
        memset(page_change_durable(h, p) + in_page, 0, SIM_PAGE_BYTES - in_page);
}

void sim_inode_power_loss(struct sim_host *h, struct sim_inode *n)
{
    while (!list_empty(&n->dirty))
        page_power_loss(h, container_of(n->dirty.next, struct sim_page, dirty));
    if (n->size != n->size_durable && prng_chance(&h->sim->world, 1, 2))
        n->size = n->size_durable;
    n->size_durable = n->size;
    inode_visit(h, n, pages_of(n->size), page_free);
    page_zero_tail(h, n);
    if (n->reserved_pages > pages_of(n->size))
        inode_reserve(h, n, pages_of(n->size));
}

/* ---- Faults and sizes ---- */

void sim_inode_flip(struct sim_host *h, struct sim_inode *n, uint64_t bit)
{
    struct sim_page *p = sim_page_get(h, n, bit / 8 / SIM_PAGE_BYTES);

    page_change_durable(h, p)[bit / 8 % SIM_PAGE_BYTES] ^= (uint8_t)(1u << bit % 8);
}

static void page_truncate(struct sim_host *h, struct sim_inode *n, struct sim_page *p)
{
    uint64_t start = p->link.key * SIM_PAGE_BYTES;
    uint64_t keep = n->size > start ? n->size - start : 0;

    struct sim_version *v = sim_version_new(h->sim, page_content(p));
    memset(v->data + keep, 0, SIM_PAGE_BYTES - keep);
    struct sim_mark *mark = sim_mark_new(++h->disk.seq);
    sim_page_add(h, n, p, v, mark);
    sim_mark_put(mark);
}

/* The bytes cut off come back as zeros; after power loss perhaps as what they were. Pages are
 * visited in their order, because it becomes that of the dirty list. */
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
        missing += !page_has_room(n, i);
    return missing + n->reserved_holes;
}

static void page_fill_reserved(struct sim_host *h, struct sim_inode *n, struct sim_page *p)
{
    if (p->link.key < pages_of(n->size))
        page_fill_hole(h, n, p);
}

int sim_inode_resize(struct sim_host *h, struct sim_inode *n, uint64_t size, bool reserve)
{
    if (reserve && !disk_has_room(h, inode_unreserved(n, pages_of(size))))
        return -ENOSPC;
    if (size < n->size)
        inode_shrink(h, n, size);
    n->size = size;
    if (reserve) {
        inode_visit(h, n, 0, page_fill_reserved);
        inode_reserve(h, n,
                      n->reserved_pages > pages_of(size) ? n->reserved_pages : pages_of(size));
    }
    return 0;
}
