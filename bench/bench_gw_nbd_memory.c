/*
 * The NBD gateway alone, over images in memory: what real clients are tested
 * against, and how fast the gateway is without a cluster behind it.
 *
 *   bench_gw_nbd_memory [--listen ADDR:PORT] [--unix PATH] [--size BYTES] [--memory BYTES]
 *
 * Exports `disk` and `second`. Prints "port N" when it listens; ends on SIGTERM. Requests in flight
 * together are carried out in a shuffled order, as a cluster may do.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/pool.h"
#include "base/prng.h"
#include "base/text.h"
#include "gw/nbd.h"

enum { IMAGES = 2 };

struct memory_image {
    char name[META_NAME_MAX];
    uint8_t *data;
    uint64_t size;
};

struct memory_backend {
    struct nbd_backend base;
    struct loop *loop;
    struct task task;
    struct list pending; /* client_op.link */
    struct prng prng;
    struct memory_image images[IMAGES];
};

static struct loop *bench_loop;

static int memory_open(struct nbd_backend *base, const char *name, struct client_image **image,
                       uint64_t *size)
{
    struct memory_backend *b = container_of(base, struct memory_backend, base);

    for (size_t i = 0; i < IMAGES; i++) {
        if (strcmp(b->images[i].name, name) == 0) {
            *image = (struct client_image *)&b->images[i];
            *size = b->images[i].size;
            return 0;
        }
    }
    return -ENOENT;
}

static void memory_close(struct nbd_backend *base, struct client_image *image)
{
    (void)base;
    (void)image;
}

static bool memory_next(struct nbd_backend *base, uint64_t *cursor, char name[META_NAME_MAX])
{
    struct memory_backend *b = container_of(base, struct memory_backend, base);

    if (*cursor == IMAGES)
        return false;
    return str_copy(name, META_NAME_MAX, b->images[(*cursor)++].name);
}

static void memory_submit(struct nbd_backend *base, struct client_op *op)
{
    struct memory_backend *b = container_of(base, struct memory_backend, base);

    list_init(&op->link);
    if (prng_chance(&b->prng, 1, 2))
        list_push(&b->pending, &op->link);
    else
        list_push_front(&b->pending, &op->link);
    loop_wake(b->loop, &b->task);
}

static void memory_execute(struct client_op *op)
{
    struct memory_image *image = (struct memory_image *)op->image;

    op->result = 0;
    switch (op->kind) {
    case CLIENT_READ:
        memcpy(op->buf, image->data + op->offset, op->len);
        break;
    case CLIENT_WRITE:
        memcpy(image->data + op->offset, op->buf, op->len);
        break;
    case CLIENT_ZERO:
        memset(image->data + op->offset, 0, op->len);
        break;
    case CLIENT_FLUSH:
        break;
    }
}

static void memory_step(struct task *task)
{
    struct memory_backend *b = container_of(task, struct memory_backend, task);
    struct list *link = list_pop(&b->pending);

    if (link == NULL)
        return;
    struct client_op *op = container_of(link, struct client_op, link);
    memory_execute(op);
    op->done(op);
    loop_wake(b->loop, &b->task);
}

static void memory_init(struct memory_backend *b, struct loop *loop, uint64_t size)
{
    static const char *const names[IMAGES] = {"disk", "second"};

    memset(b, 0, sizeof(*b));
    b->base = (struct nbd_backend){memory_open, memory_close, memory_next, memory_submit};
    b->loop = loop;
    prng_init(&b->prng, 1);
    list_init(&b->pending);
    task_init(&b->task, memory_step);
    for (size_t i = 0; i < IMAGES; i++) {
        str_copy(b->images[i].name, META_NAME_MAX, names[i]);
        b->images[i].size = size;
        b->images[i].data = mmap(NULL, size, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        check(b->images[i].data != MAP_FAILED);
    }
}

static void on_signal(int number)
{
    (void)number;
    loop_stop(bench_loop);
}

/* 0, or 2 when an option is not understood. */
static int parse_options(int argc, char **argv, struct nbd_server_config *config, uint64_t *size)
{
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool is_good = value != NULL;

        if (is_good && strcmp(argv[i], "--listen") == 0)
            is_good = loop_addr_parse(value, &config->listen);
        else if (is_good && strcmp(argv[i], "--unix") == 0)
            config->unix_path = value;
        else if (is_good && strcmp(argv[i], "--size") == 0)
            is_good = str_to_size(value, size) && *size > 0;
        else if (is_good && strcmp(argv[i], "--memory") == 0)
            is_good = str_to_size(value, &config->memory_max);
        else
            is_good = false;
        if (!is_good) {
            fprintf(stderr, "%s: not understood: %s\n", argv[0], argv[i]);
            return 2;
        }
    }
    return 0;
}

static void print_status(const struct nbd_server *server)
{
    struct nbd_status st;

    nbd_server_status(server, &st);
    printf("{\"connections_total\": %llu, \"requests_total\": %llu, \"errors_total\": %llu, "
           "\"read_bytes\": %llu, \"written_bytes\": %llu, \"memory_bytes_now\": %llu}\n",
           (unsigned long long)st.connections_total, (unsigned long long)st.requests_total,
           (unsigned long long)st.errors_total, (unsigned long long)st.read_bytes_total,
           (unsigned long long)st.written_bytes_total, (unsigned long long)st.memory_bytes);
}

int main(int argc, char **argv)
{
    struct nbd_server_config config = {0};
    struct nbd_server *server = NULL;
    struct memory_backend backend;
    struct loop_addr bound;
    uint64_t size = 64 << 20;

    check(loop_addr_parse("127.0.0.1:0", &config.listen));
    int code = parse_options(argc, argv, &config, &size);
    if (code != 0)
        return code;
    code = loop_create(&bench_loop, LOOP_AUTO, 256);
    if (code != 0) {
        fprintf(stderr, "no event loop: %s\n", strerror(-code));
        return 1;
    }
    memory_init(&backend, bench_loop, size);
    config.loop = bench_loop;
    config.backend = &backend.base;
    code = nbd_server_create(&config, &server, &bound);
    if (code != 0) {
        fprintf(stderr, "cannot listen: %s\n", strerror(-code));
        return 1;
    }
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    signal(SIGPIPE, SIG_IGN);
    printf("port %u\n", bound.port);
    fflush(stdout);
    loop_run(bench_loop);
    print_status(server);
    loop_halt(bench_loop);
    nbd_server_close(server);
    loop_destroy(bench_loop);
    for (size_t i = 0; i < IMAGES; i++)
        munmap(backend.images[i].data, backend.images[i].size);
    return 0;
}
