#include "io/loop_sim_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/pool.h"

/*
 * Names of files and folders.
 *
 * The names a process sees, the names that are durable, and between them an
 * ordered list of changes that are not durable yet. A change says what one or
 * two names mean from then on. loop_dir_sync() makes the changes in that folder
 * durable; power loss keeps a prefix of the rest, as a journal would. A name
 * whose folder did not survive is lost with it.
 *
 * A rename between folders is one change: syncing either folder makes it
 * durable, and all changes before it.
 *
 * Paths have no leading slash inside; "" is the root, which is always there.
 */

struct sim_name_op {
    struct list link;
    uint32_t count;
    struct sim_name effects[2]; /* inode NULL: the name means nothing */
};

/* ---- Paths ---- */

bool sim_path_normalize(const char *path, char dst[SIM_PATH_MAX])
{
    size_t len = 0;

    while (*path != '\0') {
        size_t part = strcspn(path, "/");
        bool skip = part == 0 || (part == 1 && path[0] == '.');
        if (!skip) {
            if (len + part + 2 > SIM_PATH_MAX)
                return false;
            if (len > 0)
                dst[len++] = '/';
            memcpy(dst + len, path, part);
            len += part;
        }
        path += part;
        path += *path == '/';
    }
    dst[len] = '\0';
    return true;
}

static size_t path_parent_len(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? 0 : (size_t)(slash - path);
}

static bool path_is_in(const char *path, const char *dir)
{
    size_t len = strlen(dir);

    return path_parent_len(path) == len && memcmp(path, dir, len) == 0 && path[0] != '\0';
}

/* ---- Sorted tables ---- */

/* Where `path` is or would be. */
static uint32_t names_place(const struct sim_names *t, const char *path, bool *found)
{
    uint32_t low = 0, high = t->count;

    *found = false;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int order = strcmp(t->items[mid].path, path);
        if (order == 0) {
            *found = true;
            return mid;
        }
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct sim_inode *names_find(const struct sim_names *t, const char *path)
{
    bool found;
    uint32_t i = names_place(t, path, &found);

    return found ? t->items[i].inode : NULL;
}

static void names_remove(struct sim_host *h, struct sim_names *t, uint32_t i)
{
    struct sim_inode *n = t->items[i].inode;

    free(t->items[i].path);
    t->count--;
    memmove(&t->items[i], &t->items[i + 1], (t->count - i) * sizeof(t->items[0]));
    sim_inode_put(h, n);
}

/* From now on `path` means `n`, or nothing. */
static void names_set(struct sim_host *h, struct sim_names *t, const char *path,
                      struct sim_inode *n)
{
    bool found;
    uint32_t i = names_place(t, path, &found);

    if (n != NULL)
        n->refs++;
    if (found)
        names_remove(h, t, i);
    if (n == NULL)
        return;
    if (t->count == t->capacity) {
        t->capacity = t->capacity == 0 ? 64 : 2 * t->capacity;
        t->items = mem_realloc(t->items, t->capacity * sizeof(t->items[0]));
    }
    memmove(&t->items[i + 1], &t->items[i], (t->count - i) * sizeof(t->items[0]));
    t->items[i] = (struct sim_name){mem_strdup(path), n};
    t->count++;
}

static void names_clear(struct sim_host *h, struct sim_names *t)
{
    while (t->count > 0)
        names_remove(h, t, t->count - 1);
}

/* ---- Changes ---- */

static void name_op_apply(struct sim_host *h, struct sim_names *t, const struct sim_name_op *op)
{
    for (uint32_t i = 0; i < op->count; i++)
        names_set(h, t, op->effects[i].path, op->effects[i].inode);
}

static void name_op_free(struct sim_host *h, struct sim_name_op *op)
{
    for (uint32_t i = 0; i < op->count; i++) {
        free(op->effects[i].path);
        if (op->effects[i].inode != NULL)
            sim_inode_put(h, op->effects[i].inode);
    }
    list_remove(&op->link);
    h->disk.name_ops_count--;
    free(op);
}

static void name_op_make_durable(struct sim_host *h, struct sim_name_op *op)
{
    name_op_apply(h, &h->disk.names_durable, op);
    name_op_free(h, op);
}

static struct sim_name_op *name_op_of(struct list *link)
{
    return container_of(link, struct sim_name_op, link);
}

static void name_op_add_effect(struct sim_name_op *op, const char *path, struct sim_inode *n)
{
    if (n != NULL)
        n->refs++;
    op->effects[op->count++] = (struct sim_name){mem_strdup(path), n};
}

/* The process sees it at once. `path2` may be NULL. */
static void name_change(struct sim_host *h, const char *path, struct sim_inode *n,
                        const char *path2, struct sim_inode *n2)
{
    struct sim_name_op *op = mem_zalloc(sizeof(*op));

    name_op_add_effect(op, path, n);
    if (path2 != NULL)
        name_op_add_effect(op, path2, n2);
    list_init(&op->link);
    list_push(&h->disk.name_ops, &op->link);
    h->disk.name_ops_count++;
    sim_trace(h->sim, SIM_NAME, h->number, n == NULL ? 0 : n->number);
    name_op_apply(h, &h->disk.names, op);
    if (h->disk.name_ops_count > SIM_NAME_OPS_MAX)
        name_op_make_durable(h, name_op_of(h->disk.name_ops.next));
}

static bool name_op_is_in(const struct sim_name_op *op, const char *dir)
{
    return path_is_in(op->effects[0].path, dir) ||
           (op->count == 2 && path_is_in(op->effects[1].path, dir));
}

static bool name_op_crosses(const struct sim_name_op *op)
{
    const char *a = op->effects[0].path;
    size_t len = path_parent_len(a);

    return op->count == 2 && (path_parent_len(op->effects[1].path) != len ||
                              memcmp(op->effects[1].path, a, len) != 0);
}

static void name_ops_sync(struct sim_host *h, const char *dir)
{
    struct list *ops = &h->disk.name_ops;
    struct list *next;
    struct sim_name_op *crossing = NULL;

    list_for_each (pos, ops) {
        if (name_op_is_in(name_op_of(pos), dir) && name_op_crosses(name_op_of(pos)))
            crossing = name_op_of(pos);
    }
    for (struct list *pos = ops->next; pos != ops; pos = next) {
        struct sim_name_op *op = name_op_of(pos);
        next = pos->next;
        bool goes = crossing != NULL || name_op_is_in(op, dir);
        if (op == crossing)
            crossing = NULL;
        if (goes)
            name_op_make_durable(h, op);
    }
}

/* Names come sorted, so a folder is looked at before what is in it. */
static void names_drop_orphans(struct sim_host *h, struct sim_names *t)
{
    for (uint32_t i = 0; i < t->count;) {
        char parent[SIM_PATH_MAX];
        size_t len = path_parent_len(t->items[i].path);

        memcpy(parent, t->items[i].path, len);
        parent[len] = '\0';
        if (len > 0 && names_find(t, parent) == NULL)
            names_remove(h, t, i);
        else
            i++;
    }
}

void sim_names_power_loss(struct sim_host *h)
{
    struct sim_disk *d = &h->disk;
    uint64_t kept = prng_below(&h->sim->world, (uint64_t)d->name_ops_count + 1);

    for (; kept > 0; kept--)
        name_op_make_durable(h, name_op_of(d->name_ops.next));
    while (!list_empty(&d->name_ops))
        name_op_free(h, name_op_of(d->name_ops.next));
    names_drop_orphans(h, &d->names_durable);
    names_clear(h, &d->names);
    for (uint32_t i = 0; i < d->names_durable.count; i++)
        names_set(h, &d->names, d->names_durable.items[i].path, d->names_durable.items[i].inode);
}

void sim_names_init(struct sim_host *h)
{
    list_init(&h->disk.name_ops);
}

void sim_names_deinit(struct sim_host *h)
{
    while (!list_empty(&h->disk.name_ops))
        name_op_free(h, name_op_of(h->disk.name_ops.next));
    names_clear(h, &h->disk.names);
    names_clear(h, &h->disk.names_durable);
    free(h->disk.names.items);
    free(h->disk.names_durable.items);
}

/* ---- Calls ---- */

struct sim_inode *sim_name_find(const struct sim_host *h, const char *path)
{
    return names_find(&h->disk.names, path);
}

/* 0, -ENOENT, -ENOTDIR. */
static int dir_check(const struct sim_host *h, const char *path, size_t len)
{
    char dir[SIM_PATH_MAX];

    if (len == 0)
        return 0;
    memcpy(dir, path, len);
    dir[len] = '\0';
    const struct sim_inode *n = sim_name_find(h, dir);
    if (n == NULL)
        return -ENOENT;
    return n->is_dir ? 0 : -ENOTDIR;
}

int sim_name_create(struct sim_host *h, const char *path, bool is_dir, struct sim_inode **out)
{
    if (path[0] == '\0')
        return -EISDIR;
    int r = dir_check(h, path, path_parent_len(path));
    if (r != 0)
        return r;
    if (h->disk.names.count >= SIM_NAMES_MAX)
        return -ENOSPC;

    struct sim_inode *n = sim_inode_create(h, is_dir);
    name_change(h, path, n, NULL, NULL);
    *out = n;
    sim_inode_put(h, n); /* the name holds it now */
    return 0;
}

static int call_begin(struct loop *l, const char *path, char normal[SIM_PATH_MAX])
{
    sim_block(l, sim_disk_latency(sim_loop_of(l)->host));
    return sim_path_normalize(path, normal) ? 0 : -ENAMETOOLONG;
}

int sim_dir_create(struct loop *l, const char *path)
{
    struct sim_host *h = sim_loop_of(l)->host;
    char normal[SIM_PATH_MAX];
    struct sim_inode *n;

    int r = call_begin(l, path, normal);
    if (r != 0 || normal[0] == '\0')
        return r;
    n = sim_name_find(h, normal);
    if (n != NULL)
        return n->is_dir ? 0 : -EEXIST;
    return sim_name_create(h, normal, true, &n);
}

int sim_dir_sync(struct loop *l, const char *path)
{
    struct sim_host *h = sim_loop_of(l)->host;
    char normal[SIM_PATH_MAX];

    int r = call_begin(l, path, normal);
    if (r == 0)
        r = dir_check(h, normal, strlen(normal));
    if (r == 0)
        name_ops_sync(h, normal);
    return r;
}

int sim_dir_list(struct loop *l, const char *path, void (*each)(void *arg, const char *name),
                 void *arg)
{
    struct sim_host *h = sim_loop_of(l)->host;
    const struct sim_names *t = &h->disk.names;
    char normal[SIM_PATH_MAX];

    int r = call_begin(l, path, normal);
    if (r == 0)
        r = dir_check(h, normal, strlen(normal));
    if (r != 0)
        return r;

    char **names = mem_zalloc((t->count + 1) * sizeof(*names));
    uint32_t count = 0;
    size_t skip = normal[0] == '\0' ? 0 : strlen(normal) + 1;
    for (uint32_t i = 0; i < t->count; i++) {
        if (path_is_in(t->items[i].path, normal))
            names[count++] = mem_strdup(t->items[i].path + skip);
    }
    /* In no order: a different one each time. The copies allow `each` to change what is there. */
    for (uint32_t left = count; left > 0; left--) {
        uint64_t i = prng_below(&h->sim->world, left);
        each(arg, names[i]);
        free(names[i]);
        names[i] = names[left - 1];
    }
    free(names);
    return 0;
}

int sim_name_rename(struct loop *l, const char *from, const char *to)
{
    struct sim_host *h = sim_loop_of(l)->host;
    char a[SIM_PATH_MAX], b[SIM_PATH_MAX];

    int r = call_begin(l, from, a);
    if (r == 0 && !sim_path_normalize(to, b))
        r = -ENAMETOOLONG;
    if (r == 0)
        r = dir_check(h, b, path_parent_len(b));
    if (r != 0)
        return r;
    struct sim_inode *n = sim_name_find(h, a);
    const struct sim_inode *old = sim_name_find(h, b);
    if (n == NULL)
        return -ENOENT;
    if (n->is_dir || (old != NULL && old->is_dir))
        return -EISDIR;
    if (n != old)
        name_change(h, a, NULL, b, n);
    return 0;
}

int sim_name_unlink(struct loop *l, const char *path)
{
    struct sim_host *h = sim_loop_of(l)->host;
    char normal[SIM_PATH_MAX];

    int r = call_begin(l, path, normal);
    if (r != 0)
        return r;
    const struct sim_inode *n = sim_name_find(h, normal);
    if (n == NULL)
        return -ENOENT;
    if (n->is_dir)
        return -EISDIR;
    name_change(h, normal, NULL, NULL, NULL);
    return 0;
}
