/*
 * skerry demo: a whole cluster on this machine, without root.
 *
 *   DIR/demo.json   where everything is; written aside and renamed before `ready` is printed
 *   DIR/lock        held by the demo: another one leaves everything here alone
 *   DIR/nK/         the node directories; DIR/nK/disk its sparse disk; DIR/nK.log its stderr
 *
 * The nodes are children in process groups of their own, so that Ctrl-C reaches only the demo,
 * which then stops them one by one. Who runs is asked of the locks of the node directories, so a
 * node that was restarted by hand is stopped as well. A node that dies is never restarted.
 */

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"
#include "cli/api.h"
#include "cli/setup.h"
#include "cli/token.h"

enum {
    DEMO_NODES_MAX = 9,
    DEMO_DIR_MAX = 256,
    DEMO_PATH_MAX = DEMO_DIR_MAX + 32,
    DEMO_READY_S = 60,
    DEMO_STOP_S = 12,
    DEMO_ARGS = 12,
};

struct demo_node {
    char name[16];
    char dir[DEMO_PATH_MAX], admin[DEMO_PATH_MAX], log[DEMO_PATH_MAX], disk[DEMO_PATH_MAX];
    char listen[LOOP_ADDR_STR], nbd[LOOP_ADDR_STR];
    const char *argv[DEMO_ARGS + 1];
    pid_t pid;
};

struct demo {
    char dir[DEMO_DIR_MAX];
    char exe[PATH_MAX];
    bool dir_made, again; /* we made it; it holds a demo of before */
    uint64_t size;
    const char *io; /* NULL: not given */
    bool keep_data;
    int count;
    struct demo_node nodes[DEMO_NODES_MAX];
    sigset_t signals;
    bool interrupted; /* a signal asked for the end */
    bool stopping;    /* so nobody need be told that nodes end */
};

/* ---- Time and signals ---- */

static double demo_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void demo_reap(struct demo *d)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (int i = 0; i < d->count; i++) {
            if (d->nodes[i].pid != pid)
                continue;
            d->nodes[i].pid = 0;
            if (!d->stopping)
                fprintf(stderr, "node %s (process %d) ended (%s %d); it is not restarted\n",
                        d->nodes[i].name, (int)pid, WIFSIGNALED(status) ? "signal" : "exit code",
                        WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        }
    }
}

/* Wait for a signal, at most `ms` (-1: for ever). True when the demo shall end. */
static bool demo_wait(struct demo *d, int ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    int sig = ms < 0 ? sigwaitinfo(&d->signals, NULL) : sigtimedwait(&d->signals, NULL, &t);
    if (sig == SIGCHLD)
        demo_reap(d);
    else if (sig > 0)
        d->interrupted = true;
    return d->interrupted;
}

/* ---- The directory ---- */

static int demo_failed(struct problem *p, const char *what, const char *path)
{
    problem_set(p, PROBLEM_FAILED, "demo_failed", "cannot %s %.200s", what, path);
    problem_why(p, "%s", strerror(errno));
    problem_action(p, "choose another directory with --dir DIR");
    return -1;
}

/* Nothing has a name that a demo uses, and removes when it ends. */
static bool demo_dir_is_free(const char *dir)
{
    struct stat st;
    char path[DEMO_PATH_MAX], log[DEMO_PATH_MAX];
    snprintf(path, sizeof(path), "%s/lock", dir);
    bool is_free = lstat(path, &st) < 0;
    for (int i = 1; i <= DEMO_NODES_MAX; i++) {
        snprintf(path, sizeof(path), "%s/n%d", dir, i);
        snprintf(log, sizeof(log), "%s/n%d.log", dir, i);
        is_free = is_free && lstat(path, &st) < 0 && lstat(log, &st) < 0;
    }
    return is_free;
}

static int demo_make_dir(struct demo *d, const char *given, struct problem *p)
{
    const char *tmp = getenv("TMPDIR");
    char path[PATH_MAX], json[DEMO_PATH_MAX];
    if (given == NULL) {
        snprintf(path, sizeof(path), "%s/skerry-demo-XXXXXX", tmp != NULL ? tmp : "/tmp");
        if (mkdtemp(path) == NULL)
            return demo_failed(p, "make a directory like", path);
        d->dir_made = true;
    } else {
        d->dir_made = mkdir(given, 0700) == 0;
        if ((!d->dir_made && errno != EEXIST) || realpath(given, path) == NULL)
            return demo_failed(p, "make", given);
    }
    /* The longest name in it is an admin socket, and the system limits those. */
    if (strlen(path) + sizeof("/n9/admin.sock") > sizeof(((struct sockaddr_un *)NULL)->sun_path) ||
        !str_copy(d->dir, sizeof(d->dir), path)) {
        problem_set(p, PROBLEM_USAGE, "path_too_long", "the directory's path is too long");
        problem_why(p, "the path of an admin socket in it would be over 107 bytes");
        problem_action(p, "choose a shorter one with --dir DIR");
        return -1;
    }
    snprintf(json, sizeof(json), "%s/demo.json", d->dir);
    d->again = access(json, F_OK) == 0;
    if (!d->again && !demo_dir_is_free(d->dir)) {
        problem_set(p, PROBLEM_SAFETY, "not_a_demo", "%.200s holds something else", d->dir);
        problem_action(p, "choose an empty directory, or one that demo --keep-data left");
        return -1;
    }
    return 0;
}

/* A demo that was here before comes back with as many nodes as it had. */
static int demo_count_again(struct demo *d, bool count_given, struct problem *p)
{
    char path[DEMO_PATH_MAX + 16];
    int count = 0;
    for (; count < DEMO_NODES_MAX; count++) {
        snprintf(path, sizeof(path), "%s/n%d/identity", d->dir, count + 1);
        if (access(path, F_OK) < 0)
            break;
    }
    if (!d->again || count == d->count)
        return 0;
    if (count > 0 && !count_given) {
        d->count = count;
        return 0;
    }
    problem_set(p, PROBLEM_USAGE, "usage", "%.200s holds a demo of %d nodes", d->dir, count);
    problem_action(p, "leave --nodes out, or choose another --dir");
    return -1;
}

static int demo_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void demo_remove(struct demo *d)
{
    char path[DEMO_PATH_MAX];
    for (int i = 0; i < d->count; i++) {
        nftw(d->nodes[i].dir, demo_remove_one, 16, FTW_DEPTH | FTW_PHYS);
        unlink(d->nodes[i].log);
    }
    snprintf(path, sizeof(path), "%s/demo.json", d->dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/lock", d->dir);
    unlink(path);
    if (d->dir_made || d->again)
        rmdir(d->dir);
}

/* ---- Plan: names, paths, ports ---- */

static int demo_free_addr(char dst[LOOP_ADDR_STR], struct problem *p)
{
    struct loop_addr addr;
    loop_addr_parse("127.0.0.1:0", &addr);
    if (setup_free_port(&addr, p) < 0)
        return -1;
    loop_addr_format(&addr, dst, LOOP_ADDR_STR);
    return 0;
}

static bool demo_addr_is_used(const struct demo *d, const char *addr)
{
    int seen = 0;
    for (int i = 0; i < d->count; i++)
        seen += (strcmp(d->nodes[i].listen, addr) == 0) + (strcmp(d->nodes[i].nbd, addr) == 0);
    return seen > 1;
}

/* The ports of a demo that was here before, so that its clients find it again. */
static void demo_old_ports(struct demo_node *n)
{
    json_t *ports = nodedir_read_ports(n->dir);
    const char *listen = json_string_value(json_object_get(ports, "listen"));
    const char *nbd = json_string_value(json_object_get(ports, "nbd"));
    if (listen != NULL && nbd != NULL) {
        str_copy(n->listen, sizeof(n->listen), listen);
        str_copy(n->nbd, sizeof(n->nbd), nbd);
    }
    json_decref(ports);
}

static int demo_plan_node(struct demo *d, int i, struct problem *p)
{
    struct demo_node *n = &d->nodes[i];
    snprintf(n->name, sizeof(n->name), "n%d", i + 1);
    snprintf(n->dir, sizeof(n->dir), "%s/%s", d->dir, n->name);
    snprintf(n->log, sizeof(n->log), "%s/%s.log", d->dir, n->name);
    snprintf(n->admin, sizeof(n->admin), "%s/%s/admin.sock", d->dir, n->name);
    snprintf(n->disk, sizeof(n->disk), "%s/%s/disk", d->dir, n->name);
    demo_old_ports(n);
    while (n->listen[0] == '\0' || demo_addr_is_used(d, n->listen))
        if (demo_free_addr(n->listen, p) < 0)
            return -1;
    while (n->nbd[0] == '\0' || demo_addr_is_used(d, n->nbd))
        if (demo_free_addr(n->nbd, p) < 0)
            return -1;

    const char *argv[DEMO_ARGS + 1] = {d->exe,     "node",    "--dir", n->dir, "--admin", n->admin,
                                       "--listen", n->listen, "--nbd", n->nbd, NULL};
    memcpy(n->argv, argv, sizeof(argv));
    if (d->io != NULL) {
        n->argv[DEMO_ARGS - 2] = "--io";
        n->argv[DEMO_ARGS - 1] = d->io;
    }
    return 0;
}

/* ---- Running ---- */

static int demo_spawn(struct demo *d, struct demo_node *n, struct problem *p)
{
    int log = open(n->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0)
        return demo_failed(p, "write", n->log);
    pid_t parent = getpid();
    n->pid = fork();
    if (n->pid == 0) {
        sigprocmask(SIG_UNBLOCK, &d->signals, NULL);
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent)
            _exit(1);
        dup2(log, STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
        execv(d->exe, (char *const *)(uintptr_t)n->argv);
        _exit(127);
    }
    close(log);
    return n->pid < 0 ? demo_failed(p, "start", n->name) : 0;
}

static int demo_not_ready(const struct demo *d, const struct demo_node *n, struct problem *p)
{
    if (d->interrupted)
        return problem_set(p, PROBLEM_INTERRUPTED, "interrupted", "interrupted");
    problem_set(p, PROBLEM_FAILED, "demo_failed", "node %s did not become ready", n->name);
    problem_why(p, n->pid == 0 ? "its process ended" : "it took more than %d s", DEMO_READY_S);
    problem_action(p, "read the end of %.200s (run with --keep-data to keep it)", n->log);
    return -1;
}

/* Ask `n` until cond() likes its answer. */
static int demo_wait_status(struct demo *d, struct demo_node *n,
                            bool (*cond)(const struct demo *d, const json_t *status),
                            struct problem *p)
{
    double end = demo_now() + DEMO_READY_S;
    while (!d->interrupted && n->pid != 0 && demo_now() < end) {
        json_t *status = NULL;
        struct problem ignored;
        bool ok =
            api_call(n->admin, "GET", "status", NULL, 5, &status, &ignored) == 0 && cond(d, status);
        json_decref(status);
        if (ok)
            return 0;
        demo_wait(d, 20);
    }
    return demo_not_ready(d, n, p);
}

static json_int_t demo_number(const json_t *status, const char *group, const char *key)
{
    return json_integer_value(json_object_get(json_object_get(status, group), key));
}

static bool demo_has_leader(const struct demo *d, const json_t *status)
{
    (void)d;
    return demo_number(status, "raft", "leader") != 0;
}

static bool demo_is_whole(const struct demo *d, const json_t *status)
{
    return demo_number(status, "pgs", "total") > 0 &&
           demo_number(status, "pgs", "whole") == demo_number(status, "pgs", "total") &&
           demo_number(status, "osds", "up") == d->count &&
           demo_number(status, "nodes", "up") == d->count &&
           json_is_true(json_object_get(status, "writable"));
}

/* The first node, then the others through it. */
static int demo_start_new(struct demo *d, struct problem *p)
{
    struct identity first, other;
    char token[TOKEN_TEXT_MAX];
    struct demo_node *n1 = &d->nodes[0];
    uint32_t replicas = d->count < 3 ? (uint32_t)d->count : 3;

    if (setup_init(n1->dir, n1->name, n1->listen, replicas, &first, p) < 0 ||
        demo_spawn(d, n1, p) < 0 || demo_wait_status(d, n1, demo_has_leader, p) < 0)
        return -1;
    token_make(&first, token, sizeof(token));
    for (int i = 1; i < d->count; i++) {
        struct demo_node *n = &d->nodes[i];
        if (setup_join(n->dir, token, n->name, n->listen, &other, p) < 0 || demo_spawn(d, n, p) < 0)
            return -1;
    }
    for (int i = 0; i < d->count; i++) {
        struct demo_node *n = &d->nodes[i];
        json_t *reply = NULL;
        json_t *body = json_pack("{s:s, s:I, s:b}", "path", n->disk, "size_bytes",
                                 (json_int_t)d->size, "sparse", true);
        int result = demo_wait_status(d, n, demo_has_leader, p);
        if (result == 0)
            result = api_call(n->admin, "POST", "disks", body, 60, &reply, p);
        else
            json_decref(body);
        json_decref(reply);
        if (result < 0)
            return -1;
    }
    return 0;
}

/* Another demo is at work here: its nodes are not ours to stop, nor is its data ours to remove. */
static int demo_lock(const struct demo *d, struct problem *p)
{
    char path[DEMO_PATH_MAX];
    if (nodedir_lock(d->dir, p) < 0)
        return -1;
    for (int i = 1; i <= DEMO_NODES_MAX; i++) {
        snprintf(path, sizeof(path), "%s/n%d", d->dir, i);
        if (nodedir_running(path) == 0)
            continue;
        problem_set(p, PROBLEM_EXISTS, "node_running", "a node already runs in %.200s", path);
        problem_action(p, "stop that demo first, or choose another --dir");
        return -1;
    }
    return 0;
}

/* The disks of a demo that comes back are as large as they were made. */
static void demo_old_size(struct demo *d)
{
    struct stat st;
    if (stat(d->nodes[0].disk, &st) == 0 && S_ISREG(st.st_mode))
        d->size = (uint64_t)st.st_size;
}

static int demo_start(struct demo *d, struct problem *p)
{
    if (d->again)
        demo_old_size(d);
    if (!d->again && demo_start_new(d, p) < 0)
        return -1;
    for (int i = 0; d->again && i < d->count; i++)
        if (demo_spawn(d, &d->nodes[i], p) < 0)
            return -1;
    for (int i = 0; i < d->count; i++)
        if (demo_wait_status(d, &d->nodes[i], demo_is_whole, p) < 0)
            return -1;
    return 0;
}

/* Every node that runs in our directories, ours or restarted by hand. */
static void demo_signal_all(struct demo *d, int sig)
{
    for (int i = 0; i < d->count; i++) {
        pid_t pid = nodedir_running(d->nodes[i].dir);
        if (pid > 0)
            kill(pid, sig);
        else if (d->nodes[i].pid > 0)
            kill(d->nodes[i].pid, sig); /* so young that it has no lock yet */
    }
}

static bool demo_all_stopped(struct demo *d)
{
    demo_reap(d);
    for (int i = 0; i < d->count; i++)
        if (d->nodes[i].pid > 0 || nodedir_running(d->nodes[i].dir) > 0)
            return false;
    return true;
}

static void demo_stop(struct demo *d)
{
    double end = demo_now() + DEMO_STOP_S;
    d->stopping = true;
    demo_signal_all(d, SIGTERM);
    while (!demo_all_stopped(d)) {
        struct timespec t = {.tv_nsec = 20 * 1000000L};
        int sig = sigtimedwait(&d->signals, NULL, &t);
        if (sig == SIGINT || sig == SIGTERM || demo_now() > end)
            demo_signal_all(d, SIGKILL);
    }
}

/* ---- Telling ---- */

static json_t *demo_node_json(const struct demo_node *n)
{
    char nbd[LOOP_ADDR_STR + 8];
    json_t *argv = json_array();
    for (int i = 0; n->argv[i] != NULL; i++)
        json_array_append_new(argv, json_string(n->argv[i]));
    snprintf(nbd, sizeof(nbd), "nbd://%s", n->nbd);
    return json_pack("{s:s, s:i, s:o, s:s, s:s, s:s, s:n, s:n, s:n}", "name", n->name, "pid",
                     (int)n->pid, "argv", argv, "dir", n->dir, "nbd", nbd, "admin", n->admin,
                     "metrics", "s3", "nfs");
}

static int demo_write_json(const struct demo *d, struct problem *p)
{
    struct identity id;
    char cluster[37], hex[33];
    if (nodedir_read_identity(d->nodes[0].dir, &id, p) < 0)
        return -1;
    hex_encode(id.cluster, 16, hex, sizeof(hex));
    snprintf(cluster, sizeof(cluster), "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12,
             hex + 16, hex + 20);

    json_t *nodes = json_array();
    for (int i = 0; i < d->count; i++)
        json_array_append_new(nodes, demo_node_json(&d->nodes[i]));
    json_t *demo = json_pack("{s:s, s:s, s:o, s:n, s:n}", "version", SKERRY_VERSION, "cluster",
                             cluster, "nodes", nodes, "s3_key", "s3_secret");
    char *text = json_dumps(demo, JSON_INDENT(2));
    json_decref(demo);
    int result = nodedir_write_file(d->dir, "demo.json", text, p);
    free(text);
    return result;
}

/* In MiB: an image that fits on every disk with room to spare. */
static unsigned demo_image_mib(const struct demo *d)
{
    uint64_t quarter = d->size >> 22;
    return quarter >= 1024 ? 1024 : quarter > 0 ? (unsigned)quarter : 1;
}

static void demo_print_tries(const struct demo *d, const struct demo_node *a)
{
    unsigned mib = demo_image_mib(d);
    printf("\nTry:\n");
    printf("  export SKERRY_ADMIN=%s\n", a->admin);
    printf("  %s status\n", d->exe);
    printf("  %s image create vol1 %u%s\n", d->exe, mib == 1024 ? 1 : mib, mib == 1024 ? "G" : "M");
    printf("  qemu-img info nbd://%s/vol1\n", a->nbd);
    printf("  fio --name=t --ioengine=nbd --uri=nbd://%s/vol1 --rw=randwrite --bs=4k --iodepth=16 "
           "--size=%um --verify=crc32c --verify_backlog=256\n",
           a->nbd, mib < 256 ? mib : 256);
}

static void demo_print(const struct demo *d, double seconds)
{
    const struct demo_node *a = &d->nodes[0], *b = &d->nodes[d->count > 1 ? 1 : 0];
    char size[32];
    size_to_str(d->size, size, sizeof(size));
    printf("%d nodes with a sparse disk of %s each, in %s: up in %.1f s\n\n", d->count, size,
           d->dir, seconds);
    for (int i = 0; i < d->count; i++)
        printf("  %s  process %-8d nbd://%-16s  --admin %s\n", d->nodes[i].name,
               (int)d->nodes[i].pid, d->nodes[i].nbd, d->nodes[i].admin);
    demo_print_tries(d, a);
    printf("Break it, and read on from another node:\n");
    printf("  kill -9 %d\n", (int)b->pid);
    printf("  ");
    for (int i = 0; b->argv[i] != NULL; i++)
        printf("%s ", b->argv[i]);
    printf("&\n\nCtrl-C stops all%s.\n", d->keep_data ? "" : " and removes the data");
    printf("ready\n");
    fflush(stdout);
}

/* ---- The command ---- */

static int demo_options(struct cli *c, struct demo *d, struct problem *p)
{
    const char *nodes = cli_value(c, "--nodes"), *size = cli_value(c, "--size");
    uint64_t count = 3;
    d->size = 8ull << 30;
    d->keep_data = cli_value(c, "--keep-data") != NULL;
    d->io = cli_value(c, "--io");
    enum loop_kind io;
    if (d->io != NULL && !loop_kind_parse(d->io, &io))
        return problem_set(p, PROBLEM_USAGE, "usage", "--io takes auto, uring or uv, not \"%.60s\"",
                           d->io);
    if ((nodes != NULL && cli_parse_count(nodes, "--nodes", 1, DEMO_NODES_MAX, &count, p) < 0) ||
        (size != NULL && cli_parse_size(size, "--size", &d->size, p) < 0))
        return -1;
    d->count = (int)count;
    ssize_t len = readlink("/proc/self/exe", d->exe, sizeof(d->exe) - 1);
    if (len <= 0)
        return demo_failed(p, "find", "this program");
    d->exe[len] = '\0';
    return 0;
}

int cli_demo(struct cli *c, struct problem *p)
{
    static struct demo demo;
    struct demo *d = &demo;
    double begin = demo_now();

    sigemptyset(&d->signals);
    sigaddset(&d->signals, SIGINT);
    sigaddset(&d->signals, SIGTERM);
    sigaddset(&d->signals, SIGHUP);
    sigaddset(&d->signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &d->signals, NULL);
    /* A shell that is no terminal starts what it puts behind `&` with SIGINT ignored, and what is
     * ignored is not even waited for. */
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);

    if (demo_options(c, d, p) < 0 || demo_make_dir(d, c->dir, p) < 0 || demo_lock(d, p) < 0 ||
        demo_count_again(d, cli_value(c, "--nodes") != NULL, p) < 0)
        return -1;
    int result = 0;
    for (int i = 0; i < d->count && result == 0; i++)
        result = demo_plan_node(d, i, p);
    if (result == 0)
        result = demo_start(d, p);
    if (result == 0)
        result = demo_write_json(d, p);
    if (result == 0)
        demo_print(d, demo_now() - begin);
    while (result == 0 && !demo_wait(d, -1))
        ;
    demo_stop(d);
    /* What an earlier demo left goes only after it was up again: a failed start loses nothing. */
    if (!d->keep_data && (result == 0 || !d->again))
        demo_remove(d);
    return result;
}
