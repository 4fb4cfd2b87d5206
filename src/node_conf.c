#include "node_conf.h"

#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "cli/setup.h"

enum {
    SCRUB_PERIOD_S = 14 * 86400,
    SCRUB_PERIOD_MAX_S = 366 * 86400,
    SCRUB_RATE_MIN = 1 << 20,
};

struct conf_file {
    struct node_conf *conf;
    struct problem *p;
    FILE *file;
    int line;    /* that is being read */
    int refused; /* the first line that was refused, which p tells of; 0: none */
};

static bool conf_log_level(const char *text, enum log_level *out)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum log_level)i;
            return true;
        }
    }
    return false;
}

static bool conf_nbd(struct node_conf *conf, const char *text)
{
    conf->nbd_given = true;
    conf->nbd_off = strcmp(text, "off") == 0;
    return conf->nbd_off || loop_addr_parse(text, &conf->nbd);
}

/* "14d", "36h", "90m" or "off". */
static bool conf_period(const char *text, uint64_t *out)
{
    static const struct {
        char letter;
        uint64_t seconds;
    } units[] = {{'m', 60}, {'h', 3600}, {'d', 86400}};
    char number[24];
    size_t len = strlen(text);
    uint64_t count = 0;
    if (strcmp(text, "off") == 0) {
        *out = 0;
        return true;
    }
    if (len < 2 || !str_copy(number, sizeof(number), text))
        return false;
    number[len - 1] = '\0';
    if (!str_to_u64(number, &count))
        return false;
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        if (text[len - 1] != units[i].letter)
            continue;
        if (count == 0 || count > SCRUB_PERIOD_MAX_S / units[i].seconds)
            return false;
        *out = count * units[i].seconds;
        return true;
    }
    return false;
}

static bool conf_discard(const char *text, enum store_discard *out)
{
    static const char *const names[] = {"auto", "on", "off"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum store_discard)i;
            return true;
        }
    }
    return false;
}

enum conf_key {
    CONF_NAME,
    CONF_DIR,
    CONF_LOCATION,
    CONF_LISTEN,
    CONF_ADVERTISE,
    CONF_NBD,
    CONF_LOG,
    CONF_IO,
    CONF_SCRUB_PERIOD,
    CONF_SCRUB_RATE,
    CONF_DISCARD,
    CONF_NOT_YET,
    CONF_COUNT
};

static const struct {
    const char *section, *key;
    enum conf_key what;
} conf_keys[] = {
    {"disk", "scrub_period", CONF_SCRUB_PERIOD},
    {"disk", "scrub_rate", CONF_SCRUB_RATE},
    {"disk", "discard", CONF_DISCARD},
    {"node", "name", CONF_NAME},
    {"node", "dir", CONF_DIR},
    {"node", "location", CONF_LOCATION},
    {"node", "io", CONF_IO},
    {"net", "listen", CONF_LISTEN},
    {"net", "advertise", CONF_ADVERTISE},
    {"nbd", "listen", CONF_NBD},
    {"log", "level", CONF_LOG},
    {"nfs", "listen", CONF_NOT_YET},
    {"s3", "listen", CONF_NOT_YET},
    {"http", "listen", CONF_NOT_YET},
};

static bool conf_set(struct node_conf *conf, enum conf_key what, const char *value)
{
    switch (what) {
    case CONF_NAME:
        return name_is_valid(value) && str_copy(conf->name, sizeof(conf->name), value);
    case CONF_DIR:
        return conf->dir[0] != '\0' || str_copy(conf->dir, sizeof(conf->dir), value);
    case CONF_LOCATION:
        return name_is_valid(value) && str_copy(conf->location, sizeof(conf->location), value);
    case CONF_LISTEN:
        conf->listen_given = true;
        return loop_addr_parse(value, &conf->listen);
    case CONF_ADVERTISE:
        conf->advertise_given = true;
        return loop_addr_parse(value, &conf->advertise);
    case CONF_NBD:
        return conf_nbd(conf, value);
    case CONF_LOG:
        return conf_log_level(value, &conf->log_level);
    case CONF_IO:
        return loop_kind_parse(value, &conf->io);
    case CONF_SCRUB_PERIOD:
        return conf_period(value, &conf->scrub_period_s);
    case CONF_SCRUB_RATE:
        return str_to_size(value, &conf->scrub_rate) && conf->scrub_rate >= SCRUB_RATE_MIN;
    case CONF_DISCARD:
        return conf_discard(value, &conf->discard);
    case CONF_NOT_YET:
    case CONF_COUNT:
        break;
    }
    return false;
}

static int conf_line(void *arg, const char *section, const char *key, const char *value)
{
    struct conf_file *f = arg;
    if (f->refused != 0)
        return 0;
    for (size_t i = 0; i < COUNT_OF(conf_keys); i++) {
        if (strcmp(conf_keys[i].section, section) != 0 || strcmp(conf_keys[i].key, key) != 0)
            continue;
        if (conf_set(f->conf, conf_keys[i].what, value))
            return 1;
        problem_set(f->p, PROBLEM_USAGE, "bad_config", "[%.40s] %.40s cannot be \"%.100s\"",
                    section, key, value);
        if (conf_keys[i].what == CONF_NOT_YET)
            problem_why(f->p, "this version has no such gateway");
        f->refused = f->line;
        return 0;
    }
    problem_set(f->p, PROBLEM_USAGE, "bad_config", "[%.40s] %.100s is not a key of the node file",
                section, key);
    problem_action(f->p, "docs/reference/node-conf.md lists them");
    f->refused = f->line;
    return 0;
}

/* fgets() that counts: the parser goes on behind an error, and tells of the first only. */
static char *conf_next_line(char *dst, int size, void *arg)
{
    struct conf_file *f = arg;
    char *line = fgets(dst, size, f->file);
    f->line += line != NULL;
    return line;
}

static int conf_read_file(const char *path, bool must_exist, struct node_conf *conf,
                          struct problem *p)
{
    struct conf_file f = {.conf = conf, .p = p, .file = fopen(path, "re")};
    if (f.file == NULL && !must_exist && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    int line = f.file != NULL ? ini_parse_stream(conf_next_line, &f, conf_line, &f) : -1;
    bool failed = f.file == NULL || ferror(f.file) != 0;
    if (failed) {
        problem_set(p, PROBLEM_USAGE, "bad_config", "cannot read %.200s", path);
        problem_why(p, "%s", strerror(errno));
    }
    if (f.file != NULL)
        fclose(f.file);
    if (failed || line == 0)
        return failed ? -1 : 0;
    if (f.refused != line)
        problem_set(p, PROBLEM_USAGE, "bad_config", "this is no `key = value`");
    char message[PROBLEM_TEXT_MAX];
    str_copy(message, sizeof(message), p->message);
    snprintf(p->message, sizeof(p->message), "%.100s line %d: %.250s", path, line, message);
    return -1;
}

static int conf_read_options(const struct cli *c, struct node_conf *conf, struct problem *p)
{
    const char *listen = cli_value(c, "--listen"), *nbd = cli_value(c, "--nbd");
    const char *log = cli_value(c, "--log"), *io = cli_value(c, "--io");
    if (listen != NULL) {
        conf->listen_given = true;
        if (setup_parse_addr(listen, "--listen", &conf->listen, p) < 0)
            return -1;
    }
    if (nbd != NULL && !conf_nbd(conf, nbd))
        return setup_parse_addr(nbd, "--nbd", &conf->nbd, p);
    if (io != NULL && !loop_kind_parse(io, &conf->io))
        return problem_set(p, PROBLEM_USAGE, "usage", "--io takes auto, uring or uv, not \"%.60s\"",
                           io);
    if (log == NULL)
        log = getenv("SKERRY_LOG");
    if (log != NULL && !conf_log_level(log, &conf->log_level))
        return problem_set(p, PROBLEM_USAGE, "usage",
                           "--log takes debug, info, warn or error, not \"%.60s\"", log);
    return 0;
}

int node_conf_read(const struct cli *c, struct node_conf *out, struct problem *p)
{
    char own[NODEDIR_PATH_MAX];
    const char *file = cli_value(c, "--config");
    const char *admin = c->admin != NULL ? c->admin : getenv("SKERRY_ADMIN");

    memset(out, 0, sizeof(*out));
    out->log_level = LOG_INFO;
    out->scrub_period_s = SCRUB_PERIOD_S;
    loop_addr_parse("127.0.0.1:10809", &out->nbd);
    if (c->dir != NULL && !str_copy(out->dir, sizeof(out->dir), c->dir))
        return problem_set(p, PROBLEM_USAGE, "usage", "--dir is too long");
    if (conf_read_file(file != NULL ? file : "/etc/skerry/node.conf", file != NULL, out, p) < 0)
        return -1;
    if (out->dir[0] == '\0')
        str_copy(out->dir, sizeof(out->dir), cli_dir(c));
    if (!nodedir_path(out->dir, "node.conf", own, sizeof(own)))
        return problem_set(p, PROBLEM_USAGE, "usage", "--dir is too long");
    if ((file == NULL && conf_read_file(own, false, out, p) < 0) ||
        conf_read_options(c, out, p) < 0)
        return -1;
    if (admin == NULL || admin[0] == '\0')
        return cli_admin_default(out->admin, sizeof(out->admin), p);
    if (!str_copy(out->admin, sizeof(out->admin), admin))
        return problem_set(p, PROBLEM_USAGE, "path_too_long", "--admin is too long");
    return 0;
}

int node_conf_complete(struct node_conf *conf, const struct identity *id, struct problem *p)
{
    if (conf->name[0] != '\0' && strcmp(conf->name, id->name) != 0) {
        problem_set(p, PROBLEM_USAGE, "bad_config",
                    "the node file says this is %.60s, but it is "
                    "%.60s",
                    conf->name, id->name);
        problem_why(p, "a node keeps the name that init or join gave it");
        return -1;
    }
    json_t *ports = nodedir_read_ports(conf->dir);
    const char *listen = json_string_value(json_object_get(ports, "listen"));
    const char *nbd = json_string_value(json_object_get(ports, "nbd"));
    if (!conf->listen_given && (listen == NULL || !loop_addr_parse(listen, &conf->listen)))
        conf->listen = id->listen;
    if (!conf->nbd_given && nbd != NULL)
        loop_addr_parse(nbd, &conf->nbd);
    json_decref(ports);

    str_copy(conf->name, sizeof(conf->name), id->name);
    if (conf->location[0] == '\0')
        str_copy(conf->location, sizeof(conf->location), id->name);
    if (conf->listen.port == 0 && setup_free_port(&conf->listen, p) < 0)
        return -1;
    if (!conf->nbd_off && conf->nbd.port == 0 && setup_free_port(&conf->nbd, p) < 0)
        return -1;
    if (!conf->advertise_given)
        conf->advertise = conf->listen;
    return 0;
}
