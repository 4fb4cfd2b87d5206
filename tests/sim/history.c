#include "tests/sim/history.h"

#include <stdlib.h>
#include <string.h>

#include "base/pool.h"

/*
 * All operations on one value form a cluster: its write and the reads that returned it. They can be
 * put in an order of their own; the question is whether the clusters can be put one behind
 * the other. The *zone* of a cluster runs from its earliest answer to its latest call:
 *
 *   forward zone (earliest answer < latest call): the register held the value all that time, so
 *   forward zones may not overlap;
 *   backward zone (the other way round): the cluster fits at one moment somewhere inside it, and
 *   it may not lie within a forward zone.
 */

struct cluster {
    uint64_t value;
    bool written;
    uint64_t write_call, write_answer;
    uint64_t answer_min, call_max;
    size_t reads;
};

void history_init(struct history *h)
{
    memset(h, 0, sizeof(*h));
}

void history_deinit(struct history *h)
{
    free(h->ops);
}

void history_add(struct history *h, const struct history_op *op)
{
    if (h->count == h->capacity) {
        h->capacity = h->capacity == 0 ? 256 : 2 * h->capacity;
        h->ops = mem_realloc(h->ops, h->capacity * sizeof(*h->ops));
    }
    h->ops[h->count++] = *op;
}

static int compare_ops(const void *a, const void *b)
{
    const struct history_op *x = a, *y = b;

    if (x->value != y->value)
        return x->value < y->value ? -1 : 1;
    if (x->call_ns != y->call_ns)
        return x->call_ns < y->call_ns ? -1 : 1;
    return (int)y->write - (int)x->write;
}

static int compare_starts(const void *a, const void *b)
{
    const struct cluster *x = a, *y = b;

    if (x->answer_min != y->answer_min)
        return x->answer_min < y->answer_min ? -1 : 1;
    return x->value < y->value ? -1 : x->value > y->value;
}

static void cluster_add(struct cluster *c, const struct history_op *op)
{
    if (op->write) {
        c->written = true;
        c->write_call = op->call_ns;
        c->write_answer = op->answer_ns;
    } else {
        c->reads++;
    }
    if (op->answer_ns < c->answer_min)
        c->answer_min = op->answer_ns;
    if (op->call_ns > c->call_max)
        c->call_max = op->call_ns;
}

/* Sorted operations into clusters; a sentence when a read cannot be right whatever the order. */
static const char *clusters_build(const struct history_op *ops, size_t count,
                                  struct cluster *clusters, size_t *clusters_count, uint64_t *value)
{
    size_t n = 0;

    clusters[n++] = (struct cluster){.written = true}; /* the beginning: value 0 at time 0 */
    for (size_t i = 0; i < count; i++) {
        if (!ops[i].write && ops[i].answer_ns == HISTORY_NEVER)
            continue;
        if (ops[i].value != clusters[n - 1].value)
            clusters[n++] = (struct cluster){.value = ops[i].value, .answer_min = UINT64_MAX};
        cluster_add(&clusters[n - 1], &ops[i]);
    }
    *clusters_count = n;
    for (size_t i = 0; i < count; i++) {
        if (ops[i].write || ops[i].answer_ns == HISTORY_NEVER)
            continue;
        const struct cluster *c = clusters;
        while (c->value != ops[i].value)
            c++;
        *value = c->value;
        if (!c->written)
            return "a read returned what nobody wrote";
        if (ops[i].answer_ns < c->write_call)
            return "a read returned what was written only later";
        clusters = (struct cluster *)c; /* values only grow: no need to search from the front */
    }
    return NULL;
}

/* Forward zones by their start; returns how many. Backward zones go to the end of the array. */
static size_t zones_split(struct cluster *clusters, size_t count, struct cluster *zones,
                          size_t *backward)
{
    size_t forward = 0, back = count;

    for (size_t i = 0; i < count; i++) {
        const struct cluster *c = &clusters[i];
        if (c->write_answer == HISTORY_NEVER && c->reads == 0)
            continue; /* perhaps it never happened */
        if (c->answer_min < c->call_max)
            zones[forward++] = *c;
        else
            zones[--back] = *c;
    }
    *backward = back;
    qsort(zones, forward, sizeof(*zones), compare_starts);
    return forward;
}

static const char *zones_check(const struct cluster *zones, size_t forward, size_t backward,
                               size_t count, uint64_t *a, uint64_t *b)
{
    for (size_t i = 1; i < forward; i++) {
        if (zones[i].answer_min < zones[i - 1].call_max) {
            *a = zones[i - 1].value;
            *b = zones[i].value;
            return "a stale read, or a lost write: two values were current at once";
        }
    }
    for (size_t i = backward; i < count; i++) {
        size_t low = 0, high = forward;
        while (low < high) { /* the last forward zone that starts before this one does */
            size_t middle = (low + high) / 2;
            if (zones[middle].answer_min < zones[i].call_max)
                low = middle + 1;
            else
                high = middle;
        }
        if (low > 0 && zones[i].answer_min < zones[low - 1].call_max) {
            *a = zones[i].value;
            *b = zones[low - 1].value;
            return "an acknowledged write was lost: another value was current all the while";
        }
    }
    return NULL;
}

const char *history_check(const struct history *h, uint64_t *value_a, uint64_t *value_b)
{
    struct history_op *ops = mem_zalloc((h->count + 1) * sizeof(*ops));
    struct cluster *clusters = mem_zalloc((h->count + 1) * sizeof(*clusters));
    struct cluster *zones = mem_zalloc((h->count + 1) * sizeof(*zones));
    size_t count, backward;

    if (h->count > 0)
        memcpy(ops, h->ops, h->count * sizeof(*ops));
    qsort(ops, h->count, sizeof(*ops), compare_ops);
    *value_b = 0;
    const char *why = clusters_build(ops, h->count, clusters, &count, value_a);
    if (why == NULL) {
        size_t forward = zones_split(clusters, count, zones, &backward);
        why = zones_check(zones, forward, backward, count, value_a, value_b);
    }
    free(ops);
    free(clusters);
    free(zones);
    return why;
}
