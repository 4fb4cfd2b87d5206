/* init, join, token show: the commands that write a node directory. They need no running node
 * here. */

#include "cli/setup.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/text.h"
#include "cli/join.h"
#include "cli/token.h"
#include "raft/core.h"

static int setup_random(void *buf, size_t len, struct problem *p)
{
    if (getrandom(buf, len, 0) == (ssize_t)len)
        return 0;
    return problem_set(p, PROBLEM_FAILED, "no_randomness", "the system gives no random numbers: %s",
                       strerror(errno));
}

/* ---- Addresses and names ---- */

int setup_free_port(struct loop_addr *addr, struct problem *p)
{
    struct sockaddr_in6 name = {.sin6_family = AF_INET6};
    socklen_t len = sizeof(name);
    int off = 0;
    memcpy(&name.sin6_addr, addr->ip, sizeof(addr->ip));
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = fd >= 0 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) == 0 &&
              bind(fd, (const struct sockaddr *)&name, sizeof(name)) == 0 &&
              getsockname(fd, (struct sockaddr *)&name, &len) == 0;
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (!ok)
        return problem_set(p, PROBLEM_FAILED, "no_port", "no free port was found: %s",
                           strerror(error));
    addr->port = ntohs(name.sin6_port);
    return 0;
}

int setup_parse_addr(const char *text, const char *what, struct loop_addr *out, struct problem *p)
{
    if (loop_addr_parse(text, out))
        return 0;
    problem_set(p, PROBLEM_USAGE, "invalid_address", "%s: \"%.100s\" is no address", what, text);
    problem_action(p, "say IP:PORT, for example 127.0.0.1:7400 or [::1]:7400");
    return -1;
}

void setup_warn_open(const char *what, const struct loop_addr *addr)
{
    char text[LOOP_ADDR_STR];
    if (loop_addr_is_loopback(addr))
        return;
    loop_addr_format(addr, text, sizeof(text));
    fprintf(stderr,
            "warning: %s listens on %s, and there is no TLS yet: use a network that you trust\n",
            what, text);
}

static int setup_name(const char *given, struct identity *id, struct problem *p)
{
    char host[META_NAME_MAX] = "";
    if (given == NULL) {
        gethostname(host, sizeof(host) - 1);
        given = host;
    }
    if (name_is_valid(given) && str_copy(id->name, sizeof(id->name), given))
        return 0;
    problem_set(p, PROBLEM_USAGE, "invalid_name", "\"%.150s\" is not a name for a node", given);
    problem_why(p, "a name is a letter or digit, then up to 127 of A-Z a-z 0-9 . _ / -");
    problem_action(p, "choose one with --name NAME");
    return -1;
}

static int setup_listen(const char *given, struct identity *id, struct problem *p)
{
    if (setup_parse_addr(given != NULL ? given : "127.0.0.1:7400", "--listen", &id->listen, p) < 0)
        return -1;
    static const uint8_t any4[16] = {[10] = 0xff, [11] = 0xff}, any6[16];
    if (memcmp(id->listen.ip, any4, 16) == 0 || memcmp(id->listen.ip, any6, 16) == 0) {
        problem_set(p, PROBLEM_USAGE, "invalid_address", "--listen must be one address");
        problem_why(p, "the other nodes are told to connect to it");
        problem_action(p, "say the address of the network that the nodes share");
        return -1;
    }
    return id->listen.port != 0 ? 0 : setup_free_port(&id->listen, p);
}

/* ---- Disks ---- */

enum { SETUP_LOOK_AT = 64 << 10 };

int setup_is_blank(const char *path, bool *blank)
{
    static const uint8_t zeros[4096];
    uint8_t block[sizeof(zeros)];
    int result = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *blank = true;
    for (off_t at = 0; at < SETUP_LOOK_AT && *blank; at += (off_t)sizeof(block)) {
        ssize_t len = pread(fd, block, sizeof(block), at);
        if (len < 0)
            result = -errno;
        if (len <= 0)
            break;
        *blank = memcmp(block, zeros, (size_t)len) == 0;
    }
    close(fd);
    return result;
}

/* ---- Making a cluster ---- */

int setup_init(const char *dir, const char *name, const char *listen, uint32_t replicas,
               struct identity *id, struct problem *p)
{
    char raft[NODEDIR_PATH_MAX];
    memset(id, 0, sizeof(*id));
    if (setup_name(name, id, p) < 0 || setup_listen(listen, id, p) < 0 ||
        setup_random(id->cluster, sizeof(id->cluster), p) < 0 ||
        setup_random(id->secret, sizeof(id->secret), p) < 0 ||
        setup_random(id->join_id, sizeof(id->join_id), p) < 0 || nodedir_create(dir, p) < 0)
        return -1;
    id->cluster[6] = (uint8_t)((id->cluster[6] & 0x0f) | 0x40); /* RFC 4122, random */
    id->cluster[8] = (uint8_t)((id->cluster[8] & 0x3f) | 0x80);
    id->node = 1;
    id->founder = true;
    id->replicas = replicas;
    id->contacts_count = 1;
    id->contacts[0] = (struct identity_contact){.node = 1, .addr = id->listen};

    struct loop *loop;
    int result = loop_create(&loop, LOOP_AUTO, 64);
    if (result < 0)
        return setup_no_loop(LOOP_AUTO, result, p);
    nodedir_path(dir, "raft", raft, sizeof(raft));
    result = raft_core_bootstrap(loop, raft, id->node);
    loop_destroy(loop);
    if (result < 0) {
        problem_set(p, PROBLEM_FAILED, "bootstrap_failed", "cannot write the first log in %.200s",
                    raft);
        problem_why(p, "%s", strerror(-result));
        problem_action(p,
                       result == -EEXIST ? "an init was cut off here: remove %.200s and try again"
                                         : "look at %.200s, or choose another --dir",
                       dir);
        return -1;
    }
    return nodedir_write_identity(dir, id, p); /* last: now it is a node */
}

int setup_no_loop(enum loop_kind kind, int error, struct problem *p)
{
    if (error == -EMFILE || error == -ENFILE || error == -ENOMEM) {
        problem_set(p, PROBLEM_FAILED, "no_room", "there is no room for another event loop");
        problem_action(p, "raise the limit on open files or locked memory (ulimit -n, ulimit -l)");
    } else if (kind == LOOP_URING) {
        problem_set(p, PROBLEM_FAILED, "no_io_uring", "this system does not let us use io_uring");
        problem_action(p, "Linux 5.15 or newer is needed, with kernel.io_uring_disabled = 0 and no "
                          "seccomp filter against it; --io auto does without");
    } else {
        problem_set(p, PROBLEM_FAILED, "no_loop", "this system does not let us wait for I/O");
    }
    problem_why(p, "%s", strerror(-error));
    return -1;
}

int setup_join(const char *dir, const char *token, const char *name, const char *listen,
               struct identity *id, struct problem *p)
{
    memset(id, 0, sizeof(*id));
    if (!token_parse(token, id)) {
        problem_set(p, PROBLEM_NOT_PERMITTED, "bad_token", "this is not a join token");
        problem_why(p, "it must begin with \"skerry1.\", and a letter may be missing or wrong");
        problem_action(p, "copy it whole from skerry token show, on a node of the cluster");
        return -1;
    }
    if (setup_name(name, id, p) < 0 || setup_listen(listen, id, p) < 0 ||
        setup_random(id->join_id, sizeof(id->join_id), p) < 0 || nodedir_create(dir, p) < 0 ||
        nodedir_join_id(dir, id->join_id, p) < 0 || join_cluster(id, p) < 0 ||
        nodedir_write_identity(dir, id, p) < 0)
        return -1;
    nodedir_joined(dir);
    return 0;
}

/* ---- The commands ---- */

void setup_format_uuid(const uint8_t uuid[16], char dst[37])
{
    char hex[33];
    hex_encode(uuid, 16, hex, sizeof(hex));
    snprintf(dst, 37, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

static void setup_report(struct cli *c, const struct identity *id, bool joined)
{
    char token[TOKEN_TEXT_MAX], cluster[37], listen[LOOP_ADDR_STR];
    const char *dir = cli_dir(c);
    token_make(id, token, sizeof(token));
    setup_format_uuid(id->cluster, cluster);
    loop_addr_format(&id->listen, listen, sizeof(listen));
    setup_warn_open("the node", &id->listen);

    json_t *object =
        json_pack("{s:s, s:s, s:i, s:s, s:s, s:s}", "cluster", cluster, "name", id->name, "node",
                  (int)id->node, "dir", dir, "listen", listen, "token", token);
    bool json = cli_print_json(c, object);
    json_decref(object);
    if (json)
        return;
    if (joined) {
        printf("Node %s (number %u) is a member of cluster %s.\n", id->name, id->node, cluster);
        printf("It will listen on %s for the other nodes.\n\nNext:\n", listen);
        printf("  start it                 skerry node --dir %s\n", dir);
        printf("  then give it a disk      skerry disk add PATH [--size SIZE]\n");
        return;
    }
    printf("Cluster %s is made, and %s is its first node.\n", cluster, id->name);
    printf("It will listen on %s for the other nodes; the default pool will keep %u copies on as "
           "many hosts.\n\nNext:\n",
           listen, id->replicas);
    printf("  start it                 skerry node --dir %s\n", dir);
    printf("  on each further node     skerry join %s\n", token);
    printf("  then give each a disk    skerry disk add PATH [--size SIZE]\n");
    if (id->replicas > 1)
        printf("\nFewer than %u hosts? Begin again with init --replicas N.\n", id->replicas);
}

int cli_init(struct cli *c, struct problem *p)
{
    struct identity id;
    uint64_t replicas = 3;
    const char *text = cli_value(c, "--replicas");
    if (text != NULL && cli_parse_count(text, "--replicas", 1, META_REPLICAS_MAX, &replicas, p) < 0)
        return -1;
    if (setup_init(cli_dir(c), cli_value(c, "--name"), cli_value(c, "--listen"), (uint32_t)replicas,
                   &id, p) < 0)
        return -1;
    setup_report(c, &id, false);
    return 0;
}

int cli_join(struct cli *c, struct problem *p)
{
    struct identity id;
    if (setup_join(cli_dir(c), c->args[0], cli_value(c, "--name"), cli_value(c, "--listen"), &id,
                   p) < 0)
        return -1;
    setup_report(c, &id, true);
    return 0;
}

int cli_token_show(struct cli *c, struct problem *p)
{
    struct identity id;
    char token[TOKEN_TEXT_MAX];
    if (nodedir_read_identity(cli_dir(c), &id, p) < 0)
        return -1;
    token_make(&id, token, sizeof(token));
    json_t *object = json_pack("{s:s}", "token", token);
    if (!cli_print_json(c, object))
        printf("%s\n", token);
    json_decref(object);
    return 0;
}
