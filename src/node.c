#include "node.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "cli/setup.h"
#include "io/log_stderr.h"
#include "node_impl.h"

enum {
    NODE_FREE_MIN = 50 << 20,
    NODE_STOP_S = 10,
    NODE_STOP_NBD_MS = 2500,
    NODE_STOP_OSD_MS = 2500,
    NODE_STOP_HANDOVER_MS = 300,
};

/* ---- Before anything runs ---- */

static void node_raise_limits(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
}

static int node_check_space(const char *dir, struct problem *p)
{
    struct statvfs fs;
    if (statvfs(dir, &fs) < 0 || (uint64_t)fs.f_bavail * fs.f_frsize >= NODE_FREE_MIN)
        return 0;
    problem_set(p, PROBLEM_FAILED, "disk_full", "the file system of %.200s is full", dir);
    problem_why(p, "%llu MiB are free, and a node keeps 50 MiB for its log",
                (unsigned long long)fs.f_bavail * fs.f_frsize >> 20);
    problem_action(p, "free some space there");
    return -1;
}

/*
 * A node that has run, or founded the cluster, has a term and a vote. Without them it would start
 * as one that never promised anything, and vote a second time under the same number.
 */
static int node_check_log(const struct node *n, struct problem *p)
{
    char term[NODEDIR_PATH_MAX], ports[NODEDIR_PATH_MAX];
    if (!nodedir_path(n->conf.dir, "raft/term", term, sizeof(term)) ||
        !nodedir_path(n->conf.dir, "ports", ports, sizeof(ports)) || access(term, F_OK) == 0 ||
        errno != ENOENT || (!n->identity.founder && access(ports, F_OK) < 0))
        return 0;
    problem_set(p, PROBLEM_FAILED, "log_missing", "the cluster state in %.200s/raft is gone",
                n->conf.dir);
    problem_why(p, "this node has voted, and no longer knows for whom");
    problem_action(p, "restore it, or join anew with another --dir and another name: skerry join");
    return -1;
}

/* The folder of the default admin socket may be missing; of one that was named it must be there. */
static void node_make_admin_dir(const char *admin)
{
    char dir[512];
    struct problem ignored;
    char fallback[512];
    if (cli_admin_default(fallback, sizeof(fallback), &ignored) < 0 || strcmp(fallback, admin) != 0)
        return;
    str_copy(dir, sizeof(dir), admin);
    *strrchr(dir, '/') = '\0';
    mkdir(dir, 0755);
}

static int node_prepare(struct node *n, const struct cli *c, struct problem *p)
{
    if (node_conf_read(c, &n->conf, p) < 0 ||
        nodedir_read_identity(n->conf.dir, &n->identity, p) < 0 ||
        nodedir_lock(n->conf.dir, p) < 0 || node_check_space(n->conf.dir, p) < 0 ||
        node_check_log(n, p) < 0 || node_conf_complete(&n->conf, &n->identity, p) < 0)
        return -1;

    char addr[LOOP_ADDR_STR];
    loop_addr_format(&n->conf.nbd, addr, sizeof(addr));
    snprintf(n->nbd_url, sizeof(n->nbd_url), "nbd://%s", addr);
    node_make_admin_dir(n->conf.admin);
    log_set(log_stderr(), n->conf.log_level, n->conf.name);
    setup_warn_open("the node", &n->conf.listen);
    if (!n->conf.nbd_off)
        setup_warn_open("NBD", &n->conf.nbd);
    if (nodedir_count_start(n->conf.dir, &n->incarnation, p) < 0)
        return -1;
    memcpy(n->net_identity.cluster, n->identity.cluster, sizeof(n->net_identity.cluster));
    memcpy(n->net_identity.secret, n->identity.secret, sizeof(n->net_identity.secret));
    n->net_identity.node = n->identity.node;
    n->net_identity.advertise = n->conf.advertise;
    list_init(&n->queries);
    return 0;
}

/* ---- What others read ---- */

static int node_write_ports(struct node *n, struct problem *p)
{
    char listen[LOOP_ADDR_STR], advertise[LOOP_ADDR_STR], nbd[LOOP_ADDR_STR], pid[24];
    loop_addr_format(&n->conf.listen, listen, sizeof(listen));
    loop_addr_format(&n->conf.advertise, advertise, sizeof(advertise));
    json_t *ports = json_pack("{s:s, s:s, s:s}", "listen", listen, "advertise", advertise, "admin",
                              n->conf.admin);
    loop_addr_format(&n->conf.nbd, nbd, sizeof(nbd));
    if (ports == NULL)
        return problem_set(p, PROBLEM_USAGE, "usage", "the admin socket's path is not valid UTF-8");
    json_object_set_new(ports, "nbd", n->conf.nbd_off ? json_null() : json_string(nbd));
    char *text = json_dumps(ports, JSON_INDENT(2));
    json_decref(ports);
    int result = nodedir_write_file(n->conf.dir, "ports", text, p);
    free(text);
    snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    return result < 0 ? -1 : nodedir_write_file(n->conf.dir, "pid", pid, p);
}

static void node_notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    if (path == NULL || !str_copy(name.sun_path, sizeof(name.sun_path), path))
        return;
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (name.sun_path[0] == '@')
        name.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&name, len) < 0)
        log_warn("node", "the service manager was not told error=%d", errno);
    close(fd);
}

/* ---- Signals ---- */

static void node_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
}

static volatile sig_atomic_t node_exit_code; /* of an end that takes too long */

static void node_end_now(int sig)
{
    _exit(sig == SIGALRM ? (int)node_exit_code : 130);
}

/* From here on: a second signal, or too long a drain, ends the process where it stands. */
static void node_arm_end(const sigset_t *set)
{
    struct sigaction act = {.sa_handler = node_end_now};
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGALRM, &act, NULL);
    signal(SIGHUP, SIG_IGN);
    sigprocmask(SIG_UNBLOCK, set, NULL);
    alarm(NODE_STOP_S);
}

static void node_wait_signal(const sigset_t *set)
{
    int sig;
    do
        sig = sigwaitinfo(set, NULL);
    while (sig != SIGTERM && sig != SIGINT);
}

/* ---- Start and stop ---- */

static int node_start_threads(struct node *n, struct problem *p)
{
    int result = node_thread_start(&n->control, n->conf.io, 1024, "control");
    if (result == 0)
        result = node_thread_start(&n->gateway, n->conf.io, 1024, "gateway");
    return result < 0 ? setup_no_loop(n->conf.io, result, p) : 0;
}

static int refuse_on_control(void *arg)
{
    struct node *n = arg;
    if (n->admin != NULL)
        admin_refuse(n->admin);
    return 0;
}

/* Nothing that only plain threads or libmicrohttpd hold is left on the control loop. */
static int idle_on_control(void *arg)
{
    struct node *n = arg;
    return (n->admin == NULL || admin_idle(n->admin)) && n->disk == NULL;
}

/* Only a leader has a lead to hand over. */
static int step_down_on_control(void *arg)
{
    struct node *n = arg;
    struct raft_core_status raft;
    meta_group(n->meta, &raft);
    if (raft.leader == n->identity.node)
        meta_step_down(n->meta);
    return 0;
}

static int close_listener_on_control(void *arg)
{
    struct node *n = arg;
    net_acceptor_close_listener(n->acceptor);
    return 0;
}

static void node_stop_serving(struct node *n)
{
    struct timespec tick = {.tv_nsec = 10 * 1000000L};
    struct timespec handover = {.tv_nsec = NODE_STOP_HANDOVER_MS * 1000000L};
    log_info("node", "stopping");
    node_notify("STOPPING=1");
    node_thread_call(&n->control, refuse_on_control, n);
    while (!node_thread_call(&n->control, idle_on_control, n))
        nanosleep(&tick, NULL);
    node_gateway_stop(n, NODE_STOP_NBD_MS);
    node_osds_stop(n, NODE_STOP_OSD_MS);
    if (n->meta != NULL) {
        node_thread_call(&n->control, step_down_on_control, n);
        nanosleep(&handover,
                  NULL); /* the last things said, the lead among them, are on their way */
    }
    if (n->acceptor != NULL)
        node_thread_call(&n->control, close_listener_on_control, n);
}

static void node_free(struct node *n)
{
    node_osds_halt(n);
    node_thread_stop(&n->gateway);
    node_thread_stop(&n->control);
    node_osds_free(n);
    node_gateway_free(n);
    node_control_free(n);
    node_thread_destroy(&n->gateway);
    node_thread_destroy(&n->control);
}

static int node_run(struct node *n, const sigset_t *set, struct problem *p)
{
    if (node_start_threads(n, p) < 0 || node_control_start(n, p) < 0 ||
        node_gateway_start(n, p) < 0 || node_osds_start_all(n, p) < 0 ||
        node_admin_start(n, p) < 0 || node_write_ports(n, p) < 0)
        return -1;
    log_info("node", "ready node=%u incarnation=%u", n->identity.node, n->incarnation);
    node_notify("READY=1");
    node_wait_signal(set);
    return 0;
}

int node_main(struct cli *c, struct problem *p)
{
    static struct node node;
    struct node *n = &node;
    char pid[NODEDIR_PATH_MAX];
    sigset_t set;

    node_raise_limits();
    if (node_prepare(n, c, p) < 0)
        return -1;
    node_signals(&set);
    sigprocmask(SIG_BLOCK, &set, NULL); /* before the threads, which inherit it */
    signal(SIGINT, SIG_DFL); /* behind a shell's `&` it is ignored: then it would never be seen */
    signal(SIGTERM, SIG_DFL);

    int result = node_run(n, &set, p);
    node_exit_code = result < 0 ? problem_exit_code(p->kind) : 0;
    node_arm_end(&set);
    if (n->control.running)
        node_stop_serving(n);
    node_free(n);
    if (nodedir_path(n->conf.dir, "pid", pid, sizeof(pid)))
        unlink(pid);
    if (result == 0)
        log_info("node", "stopped");
    return result;
}
