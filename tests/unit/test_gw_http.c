/* The HTTP server in front of a loop, over real unix sockets: requests sleep until the loop
 * answers, and the server can be closed at any time that it is idle. */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/pool.h"
#include "gw/http.h"

enum { HELD_MAX = 64 };

/* A loop on a thread of its own, whose handler answers at once or when the test says so. */
struct world {
    char dir[64], path[96];
    struct loop *loop;
    pthread_t thread;
    struct http_server *server;
    sem_t arrived; /* one for each request the handler was given */
    sem_t released;
    atomic_bool holding;
    struct loop_msg release;
    struct http_request *held[HELD_MAX]; /* this and the next: the loop's */
    uint32_t held_count;
};

static void world_answer(struct http_request *req)
{
    char text[700];
    snprintf(text, sizeof(text), "%s %s %zu %s", req->method, req->path, req->body_len, req->key);
    http_reply(req, 200, "text/plain", mem_strdup(text));
}

static void world_handle(void *arg, struct http_request *req)
{
    struct world *w = arg;
    bool hold = atomic_load(&w->holding);
    if (hold) {
        check(w->held_count < HELD_MAX);
        w->held[w->held_count++] = req;
    }
    sem_post(&w->arrived); /* before the answer: who has that may count */
    if (!hold)
        world_answer(req);
}

/* On the loop: the last that came is answered first. */
static void world_on_release(struct loop_msg *msg)
{
    struct world *w = container_of(msg, struct world, release);
    while (w->held_count > 0)
        world_answer(w->held[--w->held_count]);
    sem_post(&w->released);
}

static void sem_take(sem_t *sem, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        while (sem_wait(sem) < 0)
            assert_int_equal(errno, EINTR);
    }
}

static void world_release(struct world *w)
{
    atomic_store(&w->holding, false);
    w->release.run = world_on_release;
    loop_post(w->loop, &w->release);
    sem_take(&w->released, 1);
}

static uint32_t world_arrived(struct world *w)
{
    int count = 0;
    assert_int_equal(sem_getvalue(&w->arrived, &count), 0);
    return (uint32_t)count;
}

static void *world_run(void *arg)
{
    struct world *w = arg;
    loop_run(w->loop);
    return NULL;
}

static int world_open(struct world *w)
{
    struct http_config config = {
        .loop = w->loop, .unix_path = w->path, .handle = world_handle, .arg = w};
    return http_open(&config, &w->server);
}

static int world_start(void **state)
{
    struct world *w = mem_zalloc(sizeof(*w));
    strcpy(w->dir, "/tmp/skerry-test-XXXXXX");
    if (mkdtemp(w->dir) == NULL)
        return -1;
    snprintf(w->path, sizeof(w->path), "%s/sock", w->dir);
    if (sem_init(&w->arrived, 0, 0) < 0 || sem_init(&w->released, 0, 0) < 0)
        return -1;
    if (loop_create(&w->loop, LOOP_AUTO, 64) < 0 ||
        pthread_create(&w->thread, NULL, world_run, w) != 0)
        return -1;
    *state = w;
    return world_open(w);
}

static void world_close_server(struct world *w)
{
    http_refuse(w->server);
    while (!http_idle(w->server))
        sched_yield();
    http_close(w->server);
    w->server = NULL;
}

static int world_end(void **state)
{
    struct world *w = *state;
    if (w->server != NULL)
        world_close_server(w);
    loop_stop(w->loop);
    pthread_join(w->thread, NULL);
    loop_destroy(w->loop);
    sem_destroy(&w->arrived);
    sem_destroy(&w->released);
    unlink(w->path);
    int result = rmdir(w->dir);
    free(w);
    return result;
}

/* ---- A client ---- */

static int client_connect(const struct world *w)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    strcpy(name.sun_path, w->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0) {
        close(fd);
        return -1;
    }
    struct timeval limit = {.tv_sec = 60}; /* only for a server that hangs */
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return fd;
}

static void client_send(int fd, const char *method, const char *path, size_t body_len)
{
    char head[600];
    int len = snprintf(head, sizeof(head),
                       "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nIdempotency-Key: k1\r\n"
                       "Content-Length: %zu\r\n\r\n",
                       method, path, body_len);
    assert_int_equal(send(fd, head, (size_t)len, MSG_NOSIGNAL), len);
    char *body = mem_zalloc(body_len + 1);
    memset(body, 'b', body_len);
    for (size_t sent = 0; sent < body_len;) {
        ssize_t n = send(fd, body + sent, body_len - sent, MSG_NOSIGNAL);
        if (n <= 0)
            break; /* the server may have had enough */
        sent += (size_t)n;
    }
    free(body);
}

/* All there is until the server ends it. A receive with a limit is not taken up again by the kernel
 * after an interruption, and io_uring interrupts threads for its own purposes. */
static void client_take(int fd, char *dst, size_t dst_size)
{
    size_t len = 0;
    ssize_t n = 1;
    while (len < dst_size - 1 && n != 0) {
        n = recv(fd, dst + len, dst_size - 1 - len, 0);
        if (n < 0)
            assert_int_equal(errno, EINTR);
        len += n > 0 ? (size_t)n : 0;
    }
    dst[len] = '\0';
    close(fd);
}

static void client_ask(const struct world *w, const char *method, const char *path, size_t body_len,
                       char *dst, size_t dst_size)
{
    int fd = client_connect(w);
    assert_true(fd >= 0);
    client_send(fd, method, path, body_len);
    client_take(fd, dst, dst_size);
}

/* ---- Tests ---- */

static void a_request_reaches_the_loop_whole_and_undecoded(void **state)
{
    struct world *w = *state;
    char answer[2000];
    client_ask(w, "POST", "/api/v1/images/a%2Fb", 1000, answer, sizeof(answer));
    assert_non_null(strstr(answer, "200 OK"));
    assert_non_null(strstr(answer, "POST /api/v1/images/a%2Fb 1000 k1"));
}

static void the_socket_is_for_its_owner_and_group(void **state)
{
    struct world *w = *state;
    struct stat st;
    assert_int_equal(stat(w->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
}

static void requests_sleep_side_by_side_and_end_in_any_order(void **state)
{
    struct world *w = *state;
    int fds[40];
    char path[32], answer[2000];
    atomic_store(&w->holding, true);
    for (int i = 0; i < 40; i++) {
        fds[i] = client_connect(w);
        snprintf(path, sizeof(path), "/r/%d", i);
        client_send(fds[i], "GET", path, 0);
    }
    sem_take(&w->arrived, 40);
    world_release(w);
    for (int i = 0; i < 40; i++) {
        snprintf(path, sizeof(path), "GET /r/%d 0", i);
        client_take(fds[i], answer, sizeof(answer));
        assert_non_null(strstr(answer, path));
    }
    assert_int_equal(world_arrived(w), 0);
}

static void a_body_beyond_the_limit_never_reaches_the_loop(void **state)
{
    struct world *w = *state;
    char answer[2000];
    client_ask(w, "POST", "/x", HTTP_BODY_MAX + 1, answer, sizeof(answer));
    assert_non_null(strstr(answer, "400 Bad Request"));
    assert_non_null(strstr(answer, "body_too_long"));
    client_ask(w, "POST", "/x", HTTP_BODY_MAX, answer, sizeof(answer));
    assert_non_null(strstr(answer, "200 OK"));
    assert_int_equal(world_arrived(w), 1);
}

static void a_path_beyond_the_limit_has_no_route(void **state)
{
    struct world *w = *state;
    char path[HTTP_PATH_MAX + 2], answer[2000], head[64];
    memset(path, 'p', sizeof(path));
    path[0] = '/';
    path[sizeof(path) - 1] = '\0';
    int fd = client_connect(w);
    snprintf(head, sizeof(head), "GET ");
    assert_true(send(fd, head, 4, MSG_NOSIGNAL) == 4);
    assert_true(send(fd, path, sizeof(path) - 1, MSG_NOSIGNAL) > 0);
    assert_true(send(fd, " HTTP/1.0\r\n\r\n", 13, MSG_NOSIGNAL) == 13);
    client_take(fd, answer, sizeof(answer));
    assert_non_null(strstr(answer, "GET  0"));
}

static void clients_that_hang_up_while_their_request_sleeps_do_no_harm(void **state)
{
    struct world *w = *state;
    char answer[2000];
    atomic_store(&w->holding, true);
    for (int i = 0; i < 30; i++) {
        int fd = client_connect(w);
        client_send(fd, "GET", "/gone", 0);
        sem_take(&w->arrived, 1);
        close(fd);
    }
    world_release(w);
    client_ask(w, "GET", "/stays", 0, answer, sizeof(answer));
    assert_non_null(strstr(answer, "/stays"));
}

static void a_server_that_refuses_answers_what_sleeps_and_nothing_new(void **state)
{
    struct world *w = *state;
    char answer[2000];
    atomic_store(&w->holding, true);
    int sleeping = client_connect(w);
    client_send(sleeping, "GET", "/early", 0);
    sem_take(&w->arrived, 1);
    http_refuse(w->server);
    assert_false(http_idle(w->server));
    client_ask(w, "GET", "/late", 0, answer, sizeof(answer));
    assert_non_null(strstr(answer, "503"));
    assert_non_null(strstr(answer, "\"stopping\""));
    assert_false(http_idle(w->server));
    world_release(w);
    client_take(sleeping, answer, sizeof(answer));
    assert_non_null(strstr(answer, "/early"));
    assert_int_equal(world_arrived(w), 0);
}

static void a_socket_in_use_is_refused_and_a_dead_one_replaced(void **state)
{
    struct world *w = *state, other = *w;
    assert_int_equal(world_open(&other), -EADDRINUSE);

    world_close_server(w);
    assert_int_equal(access(w->path, F_OK), -1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    strcpy(name.sun_path, w->path);
    assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    close(fd); /* its file stays */
    assert_int_equal(world_open(w), 0);
    char answer[2000];
    client_ask(w, "GET", "/again", 0, answer, sizeof(answer));
    assert_non_null(strstr(answer, "/again"));
}

static void a_file_that_is_no_socket_is_left_alone(void **state)
{
    struct world *w = *state, other = *w;
    char text[16] = "";
    world_close_server(w);
    FILE *f = fopen(w->path, "w");
    fputs("precious", f);
    fclose(f);
    assert_int_equal(world_open(&other), -EEXIST);
    f = fopen(w->path, "r");
    assert_non_null(f);
    assert_non_null(fgets(text, sizeof(text), f));
    fclose(f);
    assert_string_equal(text, "precious");
    unlink(w->path);
    assert_int_equal(world_open(w), 0);
}

static void a_path_that_fits_no_socket_address_is_refused(void **state)
{
    struct world *w = *state, other = *w;
    char path[200];
    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[108] = '\0';
    struct http_config config = {
        .loop = w->loop, .unix_path = path, .handle = world_handle, .arg = &other};
    assert_int_equal(http_open(&config, &other.server), -ENAMETOOLONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, world_start, world_end)
        WORLD_TEST(a_request_reaches_the_loop_whole_and_undecoded),
        WORLD_TEST(the_socket_is_for_its_owner_and_group),
        WORLD_TEST(requests_sleep_side_by_side_and_end_in_any_order),
        WORLD_TEST(a_body_beyond_the_limit_never_reaches_the_loop),
        WORLD_TEST(a_path_beyond_the_limit_has_no_route),
        WORLD_TEST(clients_that_hang_up_while_their_request_sleeps_do_no_harm),
        WORLD_TEST(a_server_that_refuses_answers_what_sleeps_and_nothing_new),
        WORLD_TEST(a_socket_in_use_is_refused_and_a_dead_one_replaced),
        WORLD_TEST(a_file_that_is_no_socket_is_left_alone),
        WORLD_TEST(a_path_that_fits_no_socket_address_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
