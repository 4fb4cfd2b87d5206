#include "io/loop_sim_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/pool.h"

/*
 * Images of files. Durable pages are shared with the file, and with the files an image was put
 * into: a version that has two owners does not change. Open pages are few and copied.
 */

struct image_page {
    uint64_t index;
    struct sim_version *durable;
};

struct image_open {
    uint64_t index;
    uint32_t count;  /* contents */
    uint32_t cached; /* the newest whose write has taken effect */
    uint8_t (*contents)[SIM_PAGE_BYTES];
};

struct sim_image {
    uint64_t size;
    struct image_page *pages;
    uint64_t pages_count;
    struct image_open *open;
    uint32_t open_count, open_capacity;
};

static struct image_open *image_find_open(struct sim_image *i, uint64_t index)
{
    for (uint32_t k = 0; k < i->open_count; k++) {
        if (i->open[k].index == index)
            return &i->open[k];
    }
    return NULL;
}

static uint8_t *open_add(struct image_open *o)
{
    o->contents = mem_realloc(o->contents, (o->count + 1) * sizeof(*o->contents));
    return o->contents[o->count++];
}

static struct image_open *image_add_open(struct sim_image *i, uint64_t index,
                                         const struct sim_version *durable)
{
    if (i->open_count == i->open_capacity) {
        i->open_capacity = i->open_capacity == 0 ? 8 : 2 * i->open_capacity;
        i->open = mem_realloc(i->open, i->open_capacity * sizeof(*i->open));
    }
    struct image_open *o = &i->open[i->open_count++];
    *o = (struct image_open){.index = index};
    uint8_t *content = open_add(o);
    memset(content, 0, SIM_PAGE_BYTES);
    if (durable != NULL)
        memcpy(content, durable->data, SIM_PAGE_BYTES);
    return o;
}

static void image_add_dirty(struct sim_image *i, const struct sim_page *p)
{
    struct image_open *o = image_add_open(i, p->link.key, p->durable);

    for (const struct sim_version *v = p->oldest; v != NULL; v = v->next)
        memcpy(open_add(o), v->data, SIM_PAGE_BYTES);
    o->cached = o->count - 1;
}

/* A write that is under way, as if it had come to its end. */
static void image_add_write(struct sim_image *i, const struct sim_inode *n, const struct sim_op *op)
{
    struct sim_content c = {op->iov, op->iov_count, op->offset, op->len};
    uint64_t last = (c.offset + c.len - 1) / SIM_PAGE_BYTES;

    for (uint64_t index = c.offset / SIM_PAGE_BYTES; index <= last; index++) {
        struct image_open *o = image_find_open(i, index);
        if (o == NULL) {
            struct hash_link *l = hash_find(&n->pages, index);
            o = image_add_open(i, index,
                               l == NULL ? NULL : container_of(l, struct sim_page, link)->durable);
        }
        uint8_t *content = open_add(o);
        memcpy(content, o->contents[o->count - 2], SIM_PAGE_BYTES);
        sim_content_copy_page(&c, index, SIM_SECTORS_ALL, content);
    }
    if (i->size < c.offset + c.len)
        i->size = c.offset + c.len;
}

struct sim_image *sim_image_take(struct sim_host *h, const char *path)
{
    struct sim_inode *n = sim_disk_find(h, path);

    if (n == NULL)
        return NULL;
    struct sim_image *i = mem_zalloc(sizeof(*i));
    i->size = n->size;
    i->pages = mem_zalloc(n->pages.count * sizeof(*i->pages));
    for (uint64_t b = 0; b <= n->pages.mask; b++) {
        for (struct hash_link *l = n->pages.buckets[b]; l != NULL; l = l->next) {
            struct sim_version *v = container_of(l, struct sim_page, link)->durable;
            if (v == NULL)
                continue;
            v->refs++;
            i->pages[i->pages_count++] = (struct image_page){l->key, v};
        }
    }
    list_for_each (pos, &n->dirty)
        image_add_dirty(i, container_of(pos, struct sim_page, dirty));
    list_for_each (pos, &n->writes)
        image_add_write(i, n, container_of(pos, struct sim_op, in_inode));
    return i;
}

void sim_image_free(struct sim_image *i)
{
    for (uint64_t k = 0; k < i->pages_count; k++) {
        if (--i->pages[k].durable->refs == 0)
            free(i->pages[k].durable);
    }
    for (uint32_t k = 0; k < i->open_count; k++)
        free(i->open[k].contents);
    free(i->open);
    free(i->pages);
    free(i);
}

uint32_t sim_image_open_pages(const struct sim_image *i)
{
    return i->open_count;
}

uint64_t sim_image_page(const struct sim_image *i, uint32_t open)
{
    check(open < i->open_count);
    return i->open[open].index;
}

uint32_t sim_image_contents(const struct sim_image *i, uint32_t open)
{
    check(open < i->open_count);
    return i->open[open].count;
}

uint32_t sim_image_cached(const struct sim_image *i, uint32_t open)
{
    check(open < i->open_count);
    return i->open[open].cached;
}

/* ---- Into a file ---- */

static struct sim_version *open_choose(struct sim *s, const struct image_open *o,
                                       const struct sim_page_choice *choice)
{
    struct sim_version *v = sim_version_new(s, o->contents[o->count - 1]);

    for (uint32_t i = 0; choice != NULL && i < SIM_PAGE_SECTORS; i++) {
        check(choice->sectors[i] < o->count);
        memcpy(v->data + i * SIM_SECTOR_BYTES,
               o->contents[choice->sectors[i]] + i * SIM_SECTOR_BYTES, SIM_SECTOR_BYTES);
    }
    return v;
}

static void image_put_open(struct sim_host *h, struct sim_inode *n, const struct image_open *o,
                           const struct sim_page_choice *choice, struct sim_mark *cached)
{
    struct sim_version *v = open_choose(h->sim, o, choice);
    struct sim_page *p = sim_page_get(h, n, o->index);

    if (cached != NULL) {
        sim_page_add(h, n, p, v, cached);
        return;
    }
    sim_version_put(h->sim, p->durable);
    p->durable = v;
}

int sim_image_put(struct sim_host *h, const char *path, const struct sim_image *i,
                  const struct sim_page_choice *choices, bool power_loss)
{
    struct sim_inode *n = sim_disk_find(h, path);

    if (n == NULL)
        return -ENOENT;
    check(list_empty(&n->writes) && n->locked_by == NULL);
    sim_inode_clear(h, n);
    n->size = n->size_durable = i->size;
    for (uint64_t k = 0; k < i->pages_count; k++) {
        struct sim_page *p = sim_page_get(h, n, i->pages[k].index);
        p->durable = i->pages[k].durable;
        p->durable->refs++;
    }
    struct sim_mark *cached = power_loss ? NULL : sim_mark_new(++h->disk.seq);
    for (uint32_t k = 0; k < i->open_count; k++)
        image_put_open(h, n, &i->open[k], choices == NULL ? NULL : &choices[k], cached);
    sim_mark_put(cached);
    sim_trace(h->sim, SIM_DISK, n->number, i->size);
    return 0;
}
