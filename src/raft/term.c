#include "raft/term.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "base/pool.h"

enum {
    TERM_MAGIC = 0x4d524554,
    TERM_VERSION = 1,
    TERM_CRC_AT = 44,
    TERM_SLOTS = 2,
    TERM_PATH = 4096,
};

struct term_record {
    uint64_t generation, term, vote;
};

static void term_encode(void *slot, const struct term_record *r)
{
    uint8_t *p = slot;

    memset(p, 0, RAFT_TERM_SLOT);
    put_u32(p + 0, TERM_MAGIC);
    put_u32(p + 4, TERM_VERSION);
    put_u64(p + 8, r->generation);
    put_u64(p + 16, r->term);
    put_u64(p + 24, r->vote);
    put_u32(p + TERM_CRC_AT, crc32c(0, p, TERM_CRC_AT));
}

/* 0, -EBADMSG, -ENOTSUP. */
static int term_decode(const void *slot, struct term_record *out)
{
    const uint8_t *p = slot;

    if (get_u32(p) != TERM_MAGIC || get_u32(p + TERM_CRC_AT) != crc32c(0, p, TERM_CRC_AT))
        return -EBADMSG;
    if (get_u32(p + 4) != TERM_VERSION)
        return -ENOTSUP;
    out->generation = get_u64(p + 8);
    out->term = get_u64(p + 16);
    out->vote = get_u64(p + 24);
    return 0;
}

static int term_write_slot(struct loop_file *f, const void *slot, unsigned number)
{
    int64_t n = loop_write_now(f, slot, RAFT_TERM_SLOT, (uint64_t)number * RAFT_TERM_SLOT);
    if (n < 0)
        return (int)n;
    return loop_flush_now(f);
}

static int term_write(struct loop_file *f, const void *slot)
{
    int rv = term_write_slot(f, slot, 0);
    if (rv == 0)
        rv = term_write_slot(f, slot, 1);
    return rv;
}

static int term_path(char *dst, const char *dir, const char *name)
{
    int n = snprintf(dst, TERM_PATH, "%s/%s", dir, name);
    return n > 0 && n < TERM_PATH ? 0 : -ENAMETOOLONG;
}

static int term_exists(struct loop *l, const char *path)
{
    struct loop_file *f;
    int rv = loop_file_open(l, path, 0, &f);

    if (rv == 0) {
        loop_file_close(f);
        return -EEXIST;
    }
    return rv == -ENOENT ? 0 : rv;
}

/* Written aside, so that a file with the name is always whole. */
static int term_create_aside(struct loop *l, const char *aside, uint64_t term)
{
    struct loop_file *f;
    int rv = loop_file_open(l, aside, LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_DIRECT, &f);
    if (rv != 0)
        return rv;

    void *slot = mem_alloc_aligned(RAFT_TERM_SLOT, RAFT_TERM_SLOT);
    term_encode(slot, &(struct term_record){.generation = 1, .term = term});
    rv = loop_file_resize(f, TERM_SLOTS * RAFT_TERM_SLOT, true);
    if (rv == 0)
        rv = term_write(f, slot);
    free(slot);
    loop_file_close(f);
    return rv;
}

int raft_term_create(struct loop *l, const char *dir, uint64_t term)
{
    char path[TERM_PATH], aside[TERM_PATH];
    int rv = term_path(path, dir, "term");

    if (rv == 0)
        rv = term_path(aside, dir, "term.part");
    if (rv == 0)
        rv = term_exists(l, path);
    if (rv == 0)
        rv = term_create_aside(l, aside, term);
    if (rv == 0)
        rv = loop_rename(l, aside, path);
    if (rv == 0)
        rv = loop_dir_sync(l, dir);
    return rv;
}

static int term_read_slot(struct raft_term_file *t, unsigned number, struct term_record *out)
{
    memset(t->slot, 0, RAFT_TERM_SLOT);
    int64_t n = loop_read_now(t->file, t->slot, RAFT_TERM_SLOT, (uint64_t)number * RAFT_TERM_SLOT);
    if (n < 0 && n != -EIO)
        return (int)n;
    return n < 0 ? -EBADMSG : term_decode(t->slot, out);
}

static bool term_is_same(const struct term_record *a, const struct term_record *b)
{
    return a->generation == b->generation && a->term == b->term && a->vote == b->vote;
}

/* Take the newer good slot, and make both alike before anybody acts on it. */
static int term_load(struct raft_term_file *t)
{
    struct term_record r[TERM_SLOTS] = {{0}};
    int rv[TERM_SLOTS];

    /* What an earlier process wrote and did not flush must not be read as durable. */
    int flushed = loop_flush_now(t->file);
    if (flushed != 0)
        return flushed;
    for (unsigned i = 0; i < TERM_SLOTS; i++) {
        rv[i] = term_read_slot(t, i, &r[i]);
        if (rv[i] != 0 && rv[i] != -EBADMSG)
            return rv[i];
    }
    if (rv[0] != 0 && rv[1] != 0)
        return -EBADMSG;

    unsigned best = rv[0] != 0 || (rv[1] == 0 && r[1].generation > r[0].generation) ? 1 : 0;
    t->generation = r[best].generation;
    t->term = r[best].term;
    t->vote = r[best].vote;
    if (rv[0] == 0 && rv[1] == 0 && term_is_same(&r[0], &r[1]))
        return 0;

    if (rv[0] != 0 || rv[1] != 0)
        log_warn("raft", "a slot of the term file was bad and is written anew slot=%u", 1 - best);
    term_encode(t->slot, &r[best]);
    return term_write_slot(t->file, t->slot, 1 - best);
}

int raft_term_open(struct raft_term_file *t, struct loop *l, const char *dir)
{
    char path[TERM_PATH];
    *t = (struct raft_term_file){0};

    int rv = term_path(path, dir, "term");
    if (rv == 0)
        rv = loop_file_open(l, path, LOOP_FILE_WRITE | LOOP_FILE_DIRECT, &t->file);
    if (rv != 0)
        return rv;
    t->slot = mem_alloc_aligned(RAFT_TERM_SLOT, RAFT_TERM_SLOT);
    rv = term_load(t);
    if (rv != 0)
        raft_term_close(t);
    return rv;
}

void raft_term_close(struct raft_term_file *t)
{
    if (t->file != NULL)
        loop_file_close(t->file);
    free(t->slot);
    t->file = NULL;
    t->slot = NULL;
}

static int term_change(struct raft_term_file *t, uint64_t term, uint64_t vote)
{
    struct term_record r = {.generation = t->generation + 1, .term = term, .vote = vote};

    term_encode(t->slot, &r);
    int rv = term_write(t->file, t->slot);
    if (rv != 0)
        return rv;
    t->generation = r.generation;
    t->term = term;
    t->vote = vote;
    return 0;
}

int raft_term_set(struct raft_term_file *t, uint64_t term)
{
    check(term >= t->term);
    return term_change(t, term, 0);
}

int raft_term_set_vote(struct raft_term_file *t, uint64_t vote)
{
    return term_change(t, t->term, vote);
}
