/*
 * Adding a disk while the node runs. What blocks (looking at the device, reserving a file, writing
 * the first superblocks) happens on the worker; what the cluster must agree to goes through Raft:
 *
 *   look at it -> reserve it -> OSD_ADD gives a number -> format -> link osd/ID -> serve
 *
 * Numbers are never given twice, so whatever can be seen to be wrong is looked at before OSD_ADD.
 * Cut off anywhere between that and the link, the disk is just not there; the same path is then
 * added under the same id, to which the cluster gives the same number, until the node ends. After
 * the link, the next start of the node goes on. A disk of this cluster is taken back under its own
 * number.
 */

#include "node_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "cli/setup.h"
#include "store/store.h"

enum { DISK_OBJECT_SIZE = 128 << 10, DISK_SIZE_MIN = 64 << 20 };
#define DISK_SIZE_MAX (1ull << 44) /* the store counts blocks of 4 KiB in 32 bits */

struct disk_job {
    struct node *node;
    struct admin_disk *d;
    struct loop *loop; /* for the blocking calls of the store and of io/ */
    char path[HTTP_PATH_MAX];
    bool made;  /* we created the file: it goes again if this fails */
    bool adopt; /* it is a disk of this cluster */
    uint64_t size;
    uint8_t uuid[16];
    uint32_t osd;
};

static int disk_failed(struct disk_job *j, const char *code, const char *what, int error)
{
    struct problem *p = &j->d->problem;
    problem_set(p, error == -EACCES || error == -EPERM ? PROBLEM_NOT_PERMITTED : PROBLEM_FAILED,
                code, "cannot %s %.200s", what, j->path);
    problem_why(p, "%s", strerror(-error));
    if (error == -EACCES || error == -EPERM)
        problem_action(p, "the node runs as uid %d: give that user the right, or run it as another",
                       (int)geteuid());
    else if (error == -EBUSY)
        problem_action(p, "unmount it or stop what uses it, or choose another");
    else if (error == -EROFS)
        problem_action(p, "it is write-protected: choose another");
    else if (error == -EIO || error == -ENXIO)
        problem_action(p, "the device itself gives errors (dmesg says more): choose another");
    else
        problem_action(p, "see that the path is right and its folder is there, or choose another");
    return -1;
}

/* ---- Looking ---- */

static int disk_refuse_used(struct disk_job *j)
{
    bool blank = false;
    int result = setup_is_blank(j->path, &blank);
    if (result < 0)
        return disk_failed(j, "disk_failed", "read", result);
    if (blank || j->d->force)
        return 0;
    problem_set(&j->d->problem, PROBLEM_SAFETY, "disk_in_use", "%.200s is not empty", j->path);
    problem_why(&j->d->problem, "it begins with data, and would be overwritten");
    problem_action(&j->d->problem, "choose another, or say --yes if that data may go");
    return -1;
}

static int disk_refuse_foreign(struct disk_job *j)
{
    problem_set(&j->d->problem, PROBLEM_SAFETY, "disk_of_another_cluster",
                "%.200s belongs to another cluster", j->path);
    problem_why(&j->d->problem, "it holds a disk with data of that cluster");
    problem_action(&j->d->problem, "choose another, or say --yes if that data may go");
    return -1;
}

struct disk_known {
    struct node *node;
    uint32_t osd;
    const uint8_t *uuid;
    bool failed;
};

/* -ENOENT: the cluster gave no disk of that id this number. */
static int disk_known_on_control(void *arg)
{
    struct disk_known *k = arg;
    const struct map *m = meta_map(k->node->meta);
    const struct map_osd *o = m != NULL ? map_osd(m, k->osd) : NULL;
    if (o == NULL || memcmp(o->uuid, k->uuid, sizeof(o->uuid)) != 0)
        return -ENOENT;
    k->failed = o->failed;
    return 0;
}

/* A disk of this cluster comes back as what it was; --yes makes a new one of what cannot. */
static int disk_probe_ours(struct disk_job *j, const struct store_format *format)
{
    struct problem *p = &j->d->problem;
    struct disk_known k = {.node = j->node, .osd = format->osd, .uuid = format->uuid};
    if (node_osd_route(j->node, format->osd) != NULL) {
        problem_set(p, PROBLEM_EXISTS, "disk_in_use_here", "%.200s is osd.%u of this node already",
                    j->path, format->osd);
        problem_action(p, "nothing: skerry osd list shows it");
        return -1;
    }
    int result = node_thread_call(&j->node->control, disk_known_on_control, &k);
    if (result == 0 && !k.failed) {
        j->adopt = true;
        j->osd = format->osd;
        j->size = format->size;
        memcpy(j->uuid, format->uuid, sizeof(j->uuid));
        return 0;
    }
    if (j->d->force)
        return 0;
    problem_set(p, PROBLEM_SAFETY, result == 0 ? "disk_failed_before" : "disk_unknown",
                "%.200s cannot come back as osd.%u", j->path, format->osd);
    problem_why(p, "%s",
                result == 0 ? "that device gave an error on a write, and is not trusted again"
                            : "this cluster knows no such disk");
    problem_action(p, "choose another, or say --yes to make it a new, empty disk");
    return -1;
}

static int disk_probe(struct disk_job *j)
{
    struct store_format format;
    int result = store_probe(j->loop, j->path, &format);
    if (result == -ENOTSUP && !j->d->force) {
        problem_set(&j->d->problem, PROBLEM_SAFETY, "disk_of_newer_version",
                    "%.200s was written by a newer version", j->path);
        problem_action(&j->d->problem, "update this node, or say --yes if that data may go");
        return -1;
    }
    if (result == 0 && memcmp(format.cluster, j->node->identity.cluster, 16) == 0)
        return disk_probe_ours(j, &format);
    if (result == 0)
        return j->d->force ? 0 : disk_refuse_foreign(j);
    return disk_refuse_used(j);
}

/* Whoever serves it holds its lock: also a node of ours, from which it is then not taken. */
static int disk_refuse_locked(struct disk_job *j)
{
    struct loop_file *f;
    int result = loop_file_open(j->loop, j->path, LOOP_FILE_WRITE | LOOP_FILE_LOCK, &f);
    if (result == 0) {
        loop_file_close(f);
        return 0;
    }
    if (result != -EWOULDBLOCK && result != -EBUSY)
        return disk_failed(j, "disk_failed", "open", result);
    problem_set(&j->d->problem, PROBLEM_SAFETY, "disk_in_use", "%.200s is in use", j->path);
    problem_why(&j->d->problem, "another process, or the system itself, has it open");
    problem_action(&j->d->problem, "stop what uses it, or choose another");
    return -1;
}

static int disk_no_size(struct disk_job *j)
{
    problem_set(&j->d->problem, PROBLEM_USAGE, "size_missing", "%.200s does not exist", j->path);
    problem_why(&j->d->problem, "there is no device or file of that name on this node");
    problem_action(&j->d->problem, "say --size SIZE to make a file of that size");
    return -1;
}

static int disk_no_disk(struct disk_job *j, const struct stat *st)
{
    struct problem *p = &j->d->problem;
    problem_set(p, PROBLEM_USAGE, "not_a_disk", "%.200s is neither a file nor a block device",
                j->path);
    problem_why(p, "it is a %s",
                S_ISDIR(st->st_mode)   ? "directory"
                : S_ISCHR(st->st_mode) ? "character device"
                                       : "pipe or socket");
    problem_action(p, "name a whole device (/dev/...), or a new file with --size SIZE");
    return -1;
}

static int disk_look(struct disk_job *j)
{
    struct stat st;
    if (stat(j->path, &st) < 0) {
        if (errno != ENOENT)
            return disk_failed(j, "disk_failed", "look at", -errno);
        j->size = j->d->size;
        return j->size == 0 ? disk_no_size(j) : 0;
    }
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return disk_no_disk(j, &st);

    char *real = realpath(j->path, NULL);
    if (real != NULL && strlen(real) < sizeof(j->path))
        str_copy(j->path, sizeof(j->path), real);
    free(real);
    struct loop_file *f;
    int result = loop_file_open(j->loop, j->path, LOOP_FILE_WRITE, &f);
    if (result < 0)
        return disk_failed(j, "disk_failed", "open", result);
    uint64_t size = loop_file_size(f);
    loop_file_close(f);
    if (S_ISBLK(st.st_mode) && j->d->size > size)
        return problem_set(&j->d->problem, PROBLEM_USAGE, "invalid_size",
                           "%.200s has only %llu bytes", j->path, (unsigned long long)size);
    j->size = j->d->size != 0 ? j->d->size : size;
    if (S_ISREG(st.st_mode) && j->size < size && size >= DISK_SIZE_MIN && !j->d->force)
        j->size = size; /* never cut what is there */
    return size > 0 && disk_probe(j) < 0 ? -1 : disk_refuse_locked(j);
}

/* ---- Reserving ---- */

static int disk_full(struct disk_job *j)
{
    char wanted[32], left[32], parent[HTTP_PATH_MAX];
    str_copy(parent, sizeof(parent), j->path);
    char *slash = strrchr(parent, '/');
    slash[slash == parent ? 1 : 0] = '\0';
    int64_t bytes = loop_disk_free(j->loop, parent);
    size_to_str(j->size, wanted, sizeof(wanted));
    size_to_str(bytes > 0 ? (uint64_t)bytes : 0, left, sizeof(left));

    problem_set(&j->d->problem, PROBLEM_FAILED, "disk_full", "no room for %s at %.200s", wanted,
                j->path);
    problem_why(&j->d->problem, "its file system has %s free", left);
    problem_action(&j->d->problem, "choose a smaller --size, or a path on another file system");
    return -1;
}

static int disk_reserve(struct disk_job *j)
{
    struct stat st;
    struct loop_file *f;
    char least[32];
    size_to_str(DISK_SIZE_MIN, least, sizeof(least));
    if (j->size < DISK_SIZE_MIN || j->size >= DISK_SIZE_MAX) {
        problem_set(&j->d->problem, PROBLEM_USAGE, "invalid_size",
                    j->size < DISK_SIZE_MIN ? "a disk must have at least %s"
                                            : "a disk must have less than 16 TiB",
                    least);
        problem_action(&j->d->problem, "say another --size SIZE, or choose another disk");
        return -1;
    }
    if (stat(j->path, &st) == 0 && S_ISBLK(st.st_mode))
        return 0;

    j->made = access(j->path, F_OK) < 0;
    int result = loop_file_open(
        j->loop, j->path,
        LOOP_FILE_WRITE | LOOP_FILE_CREATE | (j->made ? (unsigned)LOOP_FILE_EXCLUSIVE : 0u), &f);
    if (result < 0) {
        j->made = false;
        return disk_failed(j, "disk_failed", "make", result);
    }
    result = loop_file_resize(f, j->size, !j->d->sparse);
    loop_file_close(f);
    if (result == -ENOSPC || result == -EDQUOT || result == -EFBIG)
        return disk_full(j);
    return result < 0 ? disk_failed(j, "disk_failed", "reserve", result) : 0;
}

/* ---- Numbering, formatting, linking ---- */

static int disk_number(struct disk_job *j)
{
    struct meta_result result;
    struct meta_command command = {
        .kind = META_OSD_ADD, .node = j->node->identity.node, .size = j->size};
    memcpy(command.uuid, j->uuid, sizeof(command.uuid));
    node_command(j->node, &command, NODE_COMMAND_MS, &result);
    if (result.code != 0) {
        problem_set(&j->d->problem,
                    result.code == -ETIMEDOUT ? PROBLEM_UNREACHABLE : problem_of_errno(result.code),
                    result.code == -ETIMEDOUT ? "no_quorum" : "refused",
                    "the cluster gave no number for %.200s", j->path);
        problem_why(&j->d->problem, "%s",
                    result.message[0] != '\0' ? result.message : strerror(-result.code));
        problem_action(&j->d->problem, "see that a majority of the voters runs, and try again");
        return -1;
    }
    check(!j->adopt || result.id == j->osd); /* found by its id before */
    j->osd = (uint32_t)result.id;
    return 0;
}

static int disk_format(struct disk_job *j)
{
    struct store_format format = {.osd = j->osd, .size = j->size, .object_size = DISK_OBJECT_SIZE};
    memcpy(format.cluster, j->node->identity.cluster, sizeof(format.cluster));
    memcpy(format.uuid, j->uuid, sizeof(format.uuid));
    int result = store_format(j->loop, j->path, &format, j->d->force);
    if (result == -ENOSPC)
        return disk_full(j);
    return result < 0 ? disk_failed(j, "format_failed", "format", result) : 0;
}

static int disk_link(struct disk_job *j)
{
    char dir[NODEDIR_PATH_MAX], name[NODEDIR_PATH_MAX + 16], aside[NODEDIR_PATH_MAX + 24];
    nodedir_path(j->node->conf.dir, "osd", dir, sizeof(dir));
    snprintf(name, sizeof(name), "%s/%u", dir, j->osd);
    snprintf(aside, sizeof(aside), "%s.new", name);
    unlink(aside);
    if (symlink(j->path, aside) < 0 || rename(aside, name) < 0)
        return disk_failed(j, "disk_failed", "link", -errno);
    int result = loop_dir_sync(j->loop, dir);
    return result < 0 ? disk_failed(j, "disk_failed", "link", result) : 0;
}

static int disk_serve(struct disk_job *j)
{
    struct node_osd *o;
    struct problem *p = &j->d->problem;
    if (node_osd_start(j->node, j->osd, j->path, &o, p) < 0)
        return -1;
    if (!node_sem_wait(&o->settled, NODE_OSD_START_MS)) {
        problem_set(p, PROBLEM_TIMED_OUT, "timed_out", "osd.%u does not serve yet", j->osd);
        problem_why(p, "it is added, but could not register with the cluster in %d s",
                    NODE_OSD_START_MS / 1000);
        problem_action(p, "nothing: it goes on trying; skerry osd list shows it");
        return -1;
    }
    if (o->outcome == NODE_OSD_FAILED) {
        problem_set(p, PROBLEM_FAILED, "osd_failed", "osd.%u cannot serve", j->osd);
        problem_why(p, "%s", o->why);
        return -1;
    }
    return 0;
}

/* The id of a new disk: of the attempt before, if that got as far as asking for a number. */
static int disk_make_uuid(struct disk_job *j)
{
    struct node *n = j->node;
    if (strcmp(n->disk_again_path, j->path) == 0) {
        memcpy(j->uuid, n->disk_again_uuid, sizeof(j->uuid));
        return 0;
    }
    if (getrandom(j->uuid, sizeof(j->uuid), 0) != (ssize_t)sizeof(j->uuid))
        return disk_failed(j, "no_randomness", "number", -errno);
    memcpy(n->disk_again_uuid, j->uuid, sizeof(j->uuid));
    str_copy(n->disk_again_path, sizeof(n->disk_again_path), j->path);
    return 0;
}

static int disk_add(struct disk_job *j)
{
    if (j->node->osds_count == NODE_OSDS_MAX)
        return node_osd_too_many(&j->d->problem);
    if (disk_look(j) < 0)
        return -1;
    if (!j->adopt && (disk_reserve(j) < 0 || disk_make_uuid(j) < 0))
        return -1;
    if (disk_number(j) < 0 || (!j->adopt && disk_format(j) < 0) || disk_link(j) < 0)
        return -1;
    j->made = false; /* from here on the next start of the node would go on with it */
    j->node->disk_again_path[0] = '\0';
    return disk_serve(j);
}

/* ---- The worker ---- */

static void worker_on_control(struct loop_msg *msg)
{
    struct node *n = container_of(msg, struct node, msg_worker_done);
    struct admin_disk *d = n->disk;
    node_worker_join(n);
    n->disk = NULL;
    d->done(d);
}

static void *worker_main(void *arg)
{
    struct node *n = arg;
    struct disk_job job = {.node = n, .d = n->disk};
    str_copy(job.path, sizeof(job.path), n->disk->path);

    int result = loop_create(&job.loop, n->conf.io, 16);
    if (result < 0) {
        setup_no_loop(n->conf.io, result, &n->disk->problem);
    } else {
        if (disk_add(&job) < 0 && job.made)
            unlink(job.path);
        loop_destroy(job.loop);
    }
    n->disk->osd = job.osd;
    n->disk->size_bytes = job.size;
    str_copy(n->disk->path, sizeof(n->disk->path), job.path);
    n->msg_worker_done.run = worker_on_control;
    loop_post(n->control.loop, &n->msg_worker_done);
    return NULL;
}

void node_worker_join(struct node *n)
{
    if (!n->worker_started)
        return;
    pthread_join(n->worker, NULL);
    n->worker_started = false;
}

void node_disk_add(void *node, struct admin_disk *d)
{
    struct node *n = node;
    if (n->disk != NULL) {
        problem_set(&d->problem, PROBLEM_UNREACHABLE, "busy",
                    "this node is adding %.200s at the moment", n->disk->path);
        problem_action(&d->problem, "try again when that is done");
        d->done(d);
        return;
    }
    n->disk = d;
    int result = pthread_create(&n->worker, NULL, worker_main, n);
    if (result != 0) {
        n->disk = NULL;
        problem_set(&d->problem, PROBLEM_FAILED, "no_thread", "the system gives no thread: %s",
                    strerror(result));
        d->done(d);
        return;
    }
    n->worker_started = true;
}
