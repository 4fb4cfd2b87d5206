#include "cli/nodedir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"

bool nodedir_path(const char *dir, const char *name, char *dst, size_t dst_size)
{
    int len = snprintf(dst, dst_size, "%s/%s", dir, name);
    return len > 0 && (size_t)len < dst_size;
}

static int dir_failed(struct problem *p, const char *what, const char *path)
{
    int error = errno;
    problem_set(p, error == EACCES ? PROBLEM_NOT_PERMITTED : PROBLEM_FAILED,
                error == ENOSPC   ? "disk_full"
                : error == EACCES ? "not_permitted"
                                  : "directory_failed",
                "cannot %s %.200s", what, path);
    problem_why(p, "%s", strerror(error));
    if (error == ENOSPC)
        problem_action(p, "free some space on that file system, or choose another --dir");
    else
        problem_action(p, "choose a directory of yours with --dir DIR");
    return -1;
}

/* ---- Files ---- */

static int file_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    size_t len = strlen(text);
    bool ok = write(fd, text, len) == (ssize_t)len && fsync(fd) == 0;
    int error = errno;
    if (close(fd) < 0 || !ok) {
        errno = error;
        return -1;
    }
    return 0;
}

static int dir_sync(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = fsync(fd);
    close(fd);
    return result;
}

int nodedir_write_file(const char *dir, const char *name, const char *text, struct problem *p)
{
    char path[NODEDIR_PATH_MAX], aside[NODEDIR_PATH_MAX + 8];
    if (!nodedir_path(dir, name, path, sizeof(path))) {
        errno = ENAMETOOLONG;
        return dir_failed(p, "write", dir);
    }
    snprintf(aside, sizeof(aside), "%s.new", path);
    if (file_write(aside, text) < 0 || rename(aside, path) < 0 || dir_sync(dir) < 0) {
        int error = errno;
        unlink(aside);
        errno = error;
        return dir_failed(p, "write", path);
    }
    return 0;
}

/* The file's text, malloc()ed; NULL with errno. */
static char *file_read(const char *dir, const char *name)
{
    enum { FILE_MAX = 64 << 10 };
    char path[NODEDIR_PATH_MAX];
    if (!nodedir_path(dir, name, path, sizeof(path))) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    char *text = malloc(FILE_MAX + 1);
    ssize_t len = text != NULL ? read(fd, text, FILE_MAX) : -1;
    close(fd);
    if (len < 0) {
        free(text);
        return NULL;
    }
    text[len] = '\0';
    return text;
}

/* Its name must last as long as what is promised in it. */
static int dir_make(const char *dir)
{
    char parent[NODEDIR_PATH_MAX];
    if (mkdir(dir, 0700) < 0)
        return errno == EEXIST ? 0 : -1;
    return nodedir_path(dir, "..", parent, sizeof(parent)) ? dir_sync(parent) : 0;
}

/* What may lie in a directory that becomes a node's: the node file, and what an attempt that was
 * cut off left. */
static bool dir_name_is_ours(const char *name)
{
    static const char *const ours[] = {".",    "..",   "node.conf", "joining",      "joining.new",
                                       "lock", "raft", "osd",       "identity.new", "lost+found"};
    for (size_t i = 0; i < COUNT_OF(ours); i++)
        if (strcmp(name, ours[i]) == 0)
            return true;
    return false;
}

static int dir_refuse_foreign(const char *dir, struct problem *p)
{
    DIR *d = opendir(dir);
    if (d == NULL)
        return dir_failed(p, "read", dir);
    struct dirent *e;
    while ((e = readdir(d)) != NULL && dir_name_is_ours(e->d_name))
        ;
    if (e != NULL) {
        problem_set(p, PROBLEM_SAFETY, "not_a_node", "%.200s holds something else", dir);
        problem_why(p, "there is \"%.100s\" in it, and a node has its directory for itself",
                    e->d_name);
        problem_action(p, "choose an empty or a new directory with --dir DIR");
    }
    closedir(d);
    return e != NULL ? -1 : 0;
}

/* It holds the cluster's secret. */
static int dir_make_private(const char *dir, struct problem *p)
{
    struct stat st;
    if (stat(dir, &st) < 0 || ((st.st_mode & 0077) != 0 && chmod(dir, 0700) < 0))
        return dir_failed(p, "make private", dir);
    return 0;
}

int nodedir_create(const char *dir, struct problem *p)
{
    char path[NODEDIR_PATH_MAX];
    if (dir_make(dir) < 0)
        return dir_failed(p, "make", dir);
    if (!nodedir_path(dir, "identity", path, sizeof(path))) {
        errno = ENAMETOOLONG;
        return dir_failed(p, "make", dir);
    }
    if (access(path, F_OK) == 0) {
        problem_set(p, PROBLEM_EXISTS, "node_exists", "%.200s is a node already", dir);
        problem_why(p, "init and join write a new node directory and never replace one");
        problem_action(p, "start it: skerry node --dir %.200s; or choose another --dir", dir);
        return -1;
    }
    if (dir_refuse_foreign(dir, p) < 0 || dir_make_private(dir, p) < 0)
        return -1;
    static const char *const folders[] = {"osd", "raft"};
    for (size_t i = 0; i < COUNT_OF(folders); i++) {
        nodedir_path(dir, folders[i], path, sizeof(path));
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
            return dir_failed(p, "make", path);
    }
    if (access(dir, W_OK | X_OK) < 0)
        return dir_failed(p, "write to", dir);
    return 0;
}

/* ---- Identity ---- */

int nodedir_join_id(const char *dir, uint8_t id[16], struct problem *p)
{
    char hex[34];
    char *text = file_read(dir, "joining");
    bool known = text != NULL && strlen(text) == 33 && text[32] == '\n';
    if (known) {
        text[32] = '\0';
        known = hex_decode(text, id, 16);
    }
    free(text);
    if (known)
        return 0;
    hex_encode(id, 16, hex, sizeof(hex));
    hex[32] = '\n';
    hex[33] = '\0';
    return nodedir_write_file(dir, "joining", hex, p);
}

void nodedir_joined(const char *dir)
{
    char path[NODEDIR_PATH_MAX];
    if (nodedir_path(dir, "joining", path, sizeof(path)) && unlink(path) == 0)
        dir_sync(dir);
}

int nodedir_write_identity(const char *dir, const struct identity *id, struct problem *p)
{
    char cluster[33], secret[65], join_id[33], listen[LOOP_ADDR_STR];
    char text[4096];
    hex_encode(id->cluster, sizeof(id->cluster), cluster, sizeof(cluster));
    hex_encode(id->secret, sizeof(id->secret), secret, sizeof(secret));
    hex_encode(id->join_id, sizeof(id->join_id), join_id, sizeof(join_id));
    loop_addr_format(&id->listen, listen, sizeof(listen));

    int len =
        snprintf(text, sizeof(text),
                 "version = 1\ncluster = %s\nnode = %u\nname = %s\nfounder = %d\n"
                 "secret = %s\njoin_id = %s\nlisten = %s\nreplicas = %u\n",
                 cluster, id->node, id->name, id->founder, secret, join_id, listen, id->replicas);
    for (uint32_t i = 0; i < id->contacts_count; i++) {
        char addr[LOOP_ADDR_STR];
        loop_addr_format(&id->contacts[i].addr, addr, sizeof(addr));
        len += snprintf(text + len, sizeof(text) - (size_t)len, "contact = %u@%s\n",
                        id->contacts[i].node, addr);
    }
    check(len > 0 && (size_t)len < sizeof(text));
    return nodedir_write_file(dir, "identity", text, p);
}

static bool identity_number(const char *value, uint32_t *out)
{
    uint64_t n;
    if (!str_to_u64(value, &n) || n > UINT32_MAX)
        return false;
    *out = (uint32_t)n;
    return true;
}

static bool identity_contact(struct identity *id, const char *value)
{
    char number[16];
    size_t len = strcspn(value, "@");
    if (id->contacts_count == IDENTITY_CONTACTS_MAX || value[len] != '@' || len >= sizeof(number))
        return false;
    memcpy(number, value, len);
    number[len] = '\0';

    struct identity_contact *c = &id->contacts[id->contacts_count];
    if (!identity_number(number, &c->node) || !loop_addr_parse(value + len + 1, &c->addr))
        return false;
    id->contacts_count++;
    return true;
}

static int identity_line(void *arg, const char *section, const char *key, const char *value)
{
    struct identity *id = arg;
    uint32_t n;
    if (section[0] != '\0')
        return 0;
    if (strcmp(key, "version") == 0)
        return strcmp(value, "1") == 0;
    if (strcmp(key, "cluster") == 0)
        return hex_decode(value, id->cluster, sizeof(id->cluster));
    if (strcmp(key, "secret") == 0)
        return hex_decode(value, id->secret, sizeof(id->secret));
    if (strcmp(key, "join_id") == 0)
        return hex_decode(value, id->join_id, sizeof(id->join_id));
    if (strcmp(key, "node") == 0)
        return identity_number(value, &id->node);
    if (strcmp(key, "replicas") == 0)
        return identity_number(value, &id->replicas);
    if (strcmp(key, "founder") == 0) {
        bool ok = identity_number(value, &n) && n <= 1;
        id->founder = ok && n == 1;
        return ok;
    }
    if (strcmp(key, "name") == 0)
        return name_is_valid(value) && str_copy(id->name, sizeof(id->name), value);
    if (strcmp(key, "listen") == 0)
        return loop_addr_parse(value, &id->listen);
    if (strcmp(key, "contact") == 0)
        return identity_contact(id, value);
    return 0;
}

int nodedir_read_identity(const char *dir, struct identity *out, struct problem *p)
{
    memset(out, 0, sizeof(*out));
    char *text = file_read(dir, "identity");
    if (text == NULL && errno == ENOENT) {
        problem_set(p, PROBLEM_NOT_FOUND, "no_node", "%.200s holds no node", dir);
        problem_action(p, "make one: skerry init --dir DIR, or skerry join TOKEN --dir DIR");
        return -1;
    }
    if (text == NULL)
        return dir_failed(p, "read the identity in", dir);

    int line = ini_parse_string(text, identity_line, out);
    free(text);
    if (line == 0 && out->node != 0 && out->name[0] != '\0')
        return 0;
    problem_set(p, PROBLEM_FAILED, "bad_identity", "%.200s/identity cannot be understood", dir);
    problem_why(p, "line %d is not what this version writes", line > 0 ? line : 0);
    problem_action(p, "restore the file, or wipe the node and let it join anew");
    return -1;
}

/* ---- Lock, pid, incarnation ---- */

/* A record lock rather than flock(): the kernel tells who holds it, without trying to take it. */
static int lock_open(const char *dir, int flags)
{
    char path[NODEDIR_PATH_MAX];
    if (!nodedir_path(dir, "lock", path, sizeof(path))) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return open(path, O_RDWR | O_CLOEXEC | flags, 0600);
}

int nodedir_lock(const char *dir, struct problem *p)
{
    int fd = lock_open(dir, O_CREAT);
    if (fd < 0)
        return dir_failed(p, "lock", dir);
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_SETLK, &whole) == 0)
        return 0; /* the descriptor lives as long as the process */

    int error = errno;
    pid_t pid = nodedir_running(dir);
    close(fd);
    errno = error;
    if (error != EAGAIN && error != EACCES)
        return dir_failed(p, "lock", dir);
    problem_set(p, PROBLEM_EXISTS, "node_running", "a node already runs in %.200s", dir);
    problem_why(p, "process %d holds its lock", (int)pid);
    problem_action(p, "stop that one first, or choose another --dir");
    return -1;
}

pid_t nodedir_running(const char *dir)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = lock_open(dir, 0);
    if (fd < 0)
        return 0;
    bool held = fcntl(fd, F_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
    close(fd);
    return held ? whole.l_pid : 0;
}

int nodedir_count_start(const char *dir, uint32_t *incarnation, struct problem *p)
{
    char text[16];
    char *before = file_read(dir, "incarnation");
    if (before == NULL && errno != ENOENT)
        return dir_failed(p, "read the incarnation in", dir);

    uint64_t n = 0;
    if (before != NULL)
        before[strcspn(before, "\n")] = '\0';
    bool ok = before == NULL || (str_to_u64(before, &n) && n < UINT32_MAX);
    free(before);
    if (!ok) {
        problem_set(p, PROBLEM_FAILED, "bad_incarnation", "%.200s/incarnation cannot be understood",
                    dir);
        problem_why(p, "it counts the starts of this node, and the cluster refuses to see it go "
                       "back");
        problem_action(p, "write a number into it that is above every earlier one");
        return -1;
    }
    *incarnation = (uint32_t)n + 1;
    snprintf(text, sizeof(text), "%u\n", *incarnation);
    return nodedir_write_file(dir, "incarnation", text, p);
}

/* ---- Ports ---- */

json_t *nodedir_read_ports(const char *dir)
{
    char *text = file_read(dir, "ports");
    json_t *ports = text != NULL ? json_loads(text, 0, NULL) : NULL;
    free(text);
    if (json_is_object(ports))
        return ports;
    json_decref(ports);
    return NULL;
}

int nodedir_admin_path(const char *dir, char *dst, size_t dst_size)
{
    json_t *ports = nodedir_read_ports(dir);
    const char *path = json_string_value(json_object_get(ports, "admin"));
    bool ok = path != NULL && str_copy(dst, dst_size, path);
    json_decref(ports);
    return ok ? 0 : -1;
}
