#include "raft/message.h"

#include <errno.h>

#include "base/check.h"
#include "raft/conf.h"
#include "raft/log.h"
#include "raft/snapshot.h"

enum {
    MESSAGE_VERSION = 1,
    MESSAGE_HEAD = 16,
    MESSAGE_VOTE = 48,
    MESSAGE_VOTE_RESULT = 24,
    MESSAGE_APPEND = 48,
    MESSAGE_APPEND_ENTRY = 16,
    MESSAGE_APPEND_RESULT = 32,
    MESSAGE_INSTALL = 56,
    MESSAGE_TIMEOUT = 32,
    MESSAGE_DISRUPT = 1,
    MESSAGE_PRE_VOTE = 2,
};

/* Indexes and terms are counters from 1: one this large is nonsense, and must not overflow. */
#define MESSAGE_COUNTER_MAX (UINT64_C(1) << 62)

static size_t message_pad(size_t len)
{
    return (len + 7) & ~(size_t)7;
}

/* ---- Encoding ---- */

static size_t message_append_size(const struct raft_append_entries *a)
{
    size_t size = MESSAGE_APPEND + (size_t)a->n_entries * MESSAGE_APPEND_ENTRY;

    for (unsigned i = 0; i < a->n_entries; i++) {
        if (a->entries[i].buf.len > RAFT_LOG_DATA_MAX)
            return 0;
        size += message_pad(a->entries[i].buf.len);
    }
    return size <= RAFT_MESSAGE_MAX ? size : 0;
}

unsigned raft_message_fit(const struct raft_append_entries *a)
{
    size_t size = MESSAGE_APPEND;

    for (unsigned i = 0; i < a->n_entries; i++) {
        size += MESSAGE_APPEND_ENTRY + message_pad(a->entries[i].buf.len);
        if (i > 0 && size > RAFT_MESSAGE_ENTRIES_MAX)
            return i;
    }
    return a->n_entries;
}

/* libraft's encoding: a header of 9, then per server its id, address and role. */
static size_t message_conf_size(const struct raft_configuration *conf)
{
    size_t size = 9;

    for (unsigned i = 0; i < conf->n; i++)
        size += 8 + strlen(conf->servers[i].address) + 2;
    return message_pad(size);
}

static size_t message_install_size(const struct raft_install_snapshot *s)
{
    if (s->data.len > RAFT_SNAPSHOT_MAX)
        return 0;
    return MESSAGE_INSTALL + message_conf_size(&s->conf) + s->data.len;
}

size_t raft_message_size(const struct raft_message *m)
{
    switch (m->type) {
    case RAFT_IO_REQUEST_VOTE:
        return MESSAGE_VOTE;
    case RAFT_IO_REQUEST_VOTE_RESULT:
        return MESSAGE_VOTE_RESULT;
    case RAFT_IO_APPEND_ENTRIES:
        return message_append_size(&m->append_entries);
    case RAFT_IO_APPEND_ENTRIES_RESULT:
        return MESSAGE_APPEND_RESULT;
    case RAFT_IO_INSTALL_SNAPSHOT:
        return message_install_size(&m->install_snapshot);
    case RAFT_IO_TIMEOUT_NOW:
        return MESSAGE_TIMEOUT;
    default:
        never("the core has six kinds of messages");
    }
}

static void message_encode_append(const struct raft_append_entries *a, uint8_t *dst)
{
    put_u64(dst + 8, a->term);
    put_u64(dst + 16, a->prev_log_index);
    put_u64(dst + 24, a->prev_log_term);
    put_u64(dst + 32, a->leader_commit);
    put_u32(dst + 40, a->n_entries);

    uint8_t *p = dst + MESSAGE_APPEND;
    uint8_t *data = p + (size_t)a->n_entries * MESSAGE_APPEND_ENTRY;
    for (unsigned i = 0; i < a->n_entries; i++, p += MESSAGE_APPEND_ENTRY) {
        const struct raft_entry *e = &a->entries[i];
        put_u64(p, e->term);
        put_u16(p + 8, e->type);
        put_u32(p + 12, (uint32_t)e->buf.len);
        if (e->buf.len > 0)
            memcpy(data, e->buf.base, e->buf.len);
        data += message_pad(e->buf.len);
    }
}

static void message_encode_conf(const struct raft_configuration *conf, uint8_t *dst)
{
    *dst++ = 1;
    put_u64(dst, conf->n);
    dst += 8;
    for (unsigned i = 0; i < conf->n; i++) {
        const struct raft_server *s = &conf->servers[i];
        size_t len = strlen(s->address) + 1;
        put_u64(dst, s->id);
        memcpy(dst + 8, s->address, len);
        dst[8 + len] = (uint8_t)s->role;
        dst += 8 + len + 1;
    }
}

static void message_encode_install(const struct raft_install_snapshot *s, uint8_t *dst)
{
    size_t conf_len = message_conf_size(&s->conf);

    put_u64(dst + 8, s->term);
    put_u64(dst + 16, s->last_index);
    put_u64(dst + 24, s->last_term);
    put_u64(dst + 32, s->conf_index);
    put_u32(dst + 40, (uint32_t)conf_len);
    put_u64(dst + 48, s->data.len);
    message_encode_conf(&s->conf, dst + MESSAGE_INSTALL);
    if (s->data.len > 0)
        memcpy(dst + MESSAGE_INSTALL + conf_len, s->data.base, s->data.len);
}

static void message_encode_vote(const struct raft_request_vote *v, uint8_t *dst)
{
    put_u64(dst + 8, v->term);
    put_u64(dst + 16, v->candidate_id);
    put_u64(dst + 24, v->last_log_index);
    put_u64(dst + 32, v->last_log_term);
    put_u32(dst + 40, (v->disrupt_leader ? (uint32_t)MESSAGE_DISRUPT : 0) |
                          (v->pre_vote ? (uint32_t)MESSAGE_PRE_VOTE : 0));
}

void raft_message_encode(const struct raft_message *m, uint8_t *dst)
{
    /* All but the payload is small; the gaps of padding must be zero too. */
    memset(dst, 0, raft_message_size(m));
    put_u16(dst, m->type);
    put_u16(dst + 2, MESSAGE_VERSION);

    switch (m->type) {
    case RAFT_IO_REQUEST_VOTE:
        message_encode_vote(&m->request_vote, dst);
        break;
    case RAFT_IO_REQUEST_VOTE_RESULT:
        put_u64(dst + 8, m->request_vote_result.term);
        put_u32(dst + 16, m->request_vote_result.vote_granted);
        put_u32(dst + 20, m->request_vote_result.pre_vote);
        break;
    case RAFT_IO_APPEND_ENTRIES:
        message_encode_append(&m->append_entries, dst);
        break;
    case RAFT_IO_APPEND_ENTRIES_RESULT:
        put_u64(dst + 8, m->append_entries_result.term);
        put_u64(dst + 16, m->append_entries_result.rejected);
        put_u64(dst + 24, m->append_entries_result.last_log_index);
        break;
    case RAFT_IO_INSTALL_SNAPSHOT:
        message_encode_install(&m->install_snapshot, dst);
        break;
    case RAFT_IO_TIMEOUT_NOW:
        put_u64(dst + 8, m->timeout_now.term);
        put_u64(dst + 16, m->timeout_now.last_log_index);
        put_u64(dst + 24, m->timeout_now.last_log_term);
        break;
    default:
        never("the core has six kinds of messages");
    }
}

/* ---- Decoding ---- */

size_t raft_message_limit(const uint8_t *head)
{
    return get_u16(head) == RAFT_IO_INSTALL_SNAPSHOT ? RAFT_MESSAGE_SNAPSHOT_MAX : RAFT_MESSAGE_MAX;
}

static int message_decode_vote(struct slice b, struct raft_request_vote *v)
{
    const uint8_t *p = b.base;

    if (b.len != MESSAGE_VOTE || get_u32(p + 40) > (MESSAGE_DISRUPT | MESSAGE_PRE_VOTE))
        return -EBADMSG;
    v->term = get_u64(p + 8);
    v->candidate_id = get_u64(p + 16);
    v->last_log_index = get_u64(p + 24);
    v->last_log_term = get_u64(p + 32);
    v->disrupt_leader = (get_u32(p + 40) & MESSAGE_DISRUPT) != 0;
    v->pre_vote = (get_u32(p + 40) & MESSAGE_PRE_VOTE) != 0;
    return v->candidate_id != 0 && v->last_log_index < MESSAGE_COUNTER_MAX &&
                   v->last_log_term < MESSAGE_COUNTER_MAX
               ? 0
               : -EBADMSG;
}

static int message_decode_vote_result(struct slice b, struct raft_request_vote_result *v)
{
    const uint8_t *p = b.base;

    if (b.len != MESSAGE_VOTE_RESULT || get_u32(p + 16) > 1 || get_u32(p + 20) > raft_tribool_false)
        return -EBADMSG;
    v->term = get_u64(p + 8);
    v->vote_granted = get_u32(p + 16) == 1;
    v->pre_vote = (raft_tribool)get_u32(p + 20);
    return 0;
}

/* A change entry is parsed by the core without looking at its length. */
static bool message_conf_is_valid(struct slice data)
{
    struct raft_configuration conf;

    raft_configuration_init(&conf);
    int rv = raft_conf_decode(data, &conf);
    raft_configuration_close(&conf);
    return rv == 0;
}

/* The entries' heads, and that their data is exactly what follows. */
static int message_check_entries(struct slice b, uint32_t count)
{
    const uint8_t *p = (const uint8_t *)b.base + MESSAGE_APPEND;
    size_t at = MESSAGE_APPEND + (size_t)count * MESSAGE_APPEND_ENTRY;

    for (uint32_t i = 0; i < count; i++, p += MESSAGE_APPEND_ENTRY) {
        uint16_t type = get_u16(p + 8);
        uint32_t len = get_u32(p + 12);
        if (get_u64(p) == 0 || get_u64(p) >= MESSAGE_COUNTER_MAX || type < RAFT_COMMAND ||
            type > RAFT_CHANGE || len > RAFT_LOG_DATA_MAX || message_pad(len) > b.len - at)
            return -EBADMSG;
        if (type == RAFT_CHANGE &&
            !message_conf_is_valid((struct slice){(const uint8_t *)b.base + at, len}))
            return -EBADMSG;
        at += message_pad(len);
    }
    return at == b.len ? 0 : -EBADMSG;
}

static int message_copy_entries(struct slice b, struct raft_append_entries *a)
{
    const uint8_t *p = (const uint8_t *)b.base + MESSAGE_APPEND;
    size_t head = MESSAGE_APPEND + (size_t)a->n_entries * MESSAGE_APPEND_ENTRY;

    a->entries = raft_calloc(a->n_entries, sizeof(*a->entries));
    uint8_t *batch = raft_malloc(b.len - head + 8);
    if (a->entries == NULL || batch == NULL) {
        raft_free(a->entries);
        raft_free(batch);
        a->entries = NULL;
        a->n_entries = 0;
        return -ENOMEM;
    }
    memcpy(batch, (const uint8_t *)b.base + head, b.len - head);
    uint8_t *data = batch;
    for (unsigned i = 0; i < a->n_entries; i++, p += MESSAGE_APPEND_ENTRY) {
        struct raft_entry *e = &a->entries[i];
        e->term = get_u64(p);
        e->type = get_u16(p + 8);
        e->buf.base = data;
        e->buf.len = get_u32(p + 12);
        e->batch = batch;
        data += message_pad(e->buf.len);
    }
    return 0;
}

static int message_decode_append(struct slice b, struct raft_append_entries *a)
{
    const uint8_t *p = b.base;

    if (b.len < MESSAGE_APPEND)
        return -EBADMSG;
    a->term = get_u64(p + 8);
    a->prev_log_index = get_u64(p + 16);
    a->prev_log_term = get_u64(p + 24);
    a->leader_commit = get_u64(p + 32);
    a->entries = NULL;
    a->n_entries = 0;
    uint32_t count = get_u32(p + 40);
    if (a->prev_log_index >= MESSAGE_COUNTER_MAX || a->prev_log_term >= MESSAGE_COUNTER_MAX ||
        count > (b.len - MESSAGE_APPEND) / MESSAGE_APPEND_ENTRY)
        return -EBADMSG;
    int rv = message_check_entries(b, count);
    if (rv != 0 || count == 0)
        return rv;
    a->n_entries = count;
    return message_copy_entries(b, a);
}

static int message_decode_install(struct slice b, struct raft_install_snapshot *s)
{
    const uint8_t *p = b.base;

    if (b.len < MESSAGE_INSTALL)
        return -EBADMSG;
    size_t conf_len = get_u32(p + 40), room = b.len - MESSAGE_INSTALL;
    if (conf_len > room || conf_len % 8 != 0 || get_u64(p + 48) != room - conf_len)
        return -EBADMSG;
    s->term = get_u64(p + 8);
    s->last_index = get_u64(p + 16);
    s->last_term = get_u64(p + 24);
    s->conf_index = get_u64(p + 32);
    if (s->last_index == 0 || s->last_index >= MESSAGE_COUNTER_MAX || s->last_term == 0 ||
        s->last_term >= MESSAGE_COUNTER_MAX || s->conf_index > s->last_index)
        return -EBADMSG;

    raft_configuration_init(&s->conf);
    int rv = raft_conf_decode((struct slice){p + MESSAGE_INSTALL, conf_len}, &s->conf);
    s->data.len = room - conf_len;
    s->data.base = rv == 0 ? raft_malloc(s->data.len + 1) : NULL;
    if (rv == 0 && s->data.base == NULL)
        rv = -ENOMEM;
    if (rv != 0) {
        raft_configuration_close(&s->conf);
        return rv;
    }
    memcpy(s->data.base, p + MESSAGE_INSTALL + conf_len, s->data.len);
    return 0;
}

static int message_decode_result(struct slice b, struct raft_append_entries_result *r)
{
    const uint8_t *p = b.base;

    if (b.len != MESSAGE_APPEND_RESULT)
        return -EBADMSG;
    r->term = get_u64(p + 8);
    r->rejected = get_u64(p + 16);
    r->last_log_index = get_u64(p + 24);
    return r->rejected < MESSAGE_COUNTER_MAX && r->last_log_index < MESSAGE_COUNTER_MAX ? 0
                                                                                        : -EBADMSG;
}

static int message_decode_timeout(struct slice b, struct raft_timeout_now *t)
{
    const uint8_t *p = b.base;

    if (b.len != MESSAGE_TIMEOUT)
        return -EBADMSG;
    t->term = get_u64(p + 8);
    t->last_log_index = get_u64(p + 16);
    t->last_log_term = get_u64(p + 24);
    return t->last_log_index < MESSAGE_COUNTER_MAX && t->last_log_term < MESSAGE_COUNTER_MAX
               ? 0
               : -EBADMSG;
}

int raft_message_decode(struct slice bytes, struct raft_message *m)
{
    const uint8_t *p = bytes.base;

    memset(m, 0, sizeof(*m));
    if (bytes.len < MESSAGE_HEAD || get_u16(p + 2) != MESSAGE_VERSION || get_u32(p + 4) != 0 ||
        get_u64(p + 8) == 0 || get_u64(p + 8) >= MESSAGE_COUNTER_MAX ||
        bytes.len > raft_message_limit(p))
        return -EBADMSG;
    m->type = get_u16(p);
    switch (m->type) {
    case RAFT_IO_REQUEST_VOTE:
        return message_decode_vote(bytes, &m->request_vote);
    case RAFT_IO_REQUEST_VOTE_RESULT:
        return message_decode_vote_result(bytes, &m->request_vote_result);
    case RAFT_IO_APPEND_ENTRIES:
        return message_decode_append(bytes, &m->append_entries);
    case RAFT_IO_APPEND_ENTRIES_RESULT:
        return message_decode_result(bytes, &m->append_entries_result);
    case RAFT_IO_INSTALL_SNAPSHOT:
        return message_decode_install(bytes, &m->install_snapshot);
    case RAFT_IO_TIMEOUT_NOW:
        return message_decode_timeout(bytes, &m->timeout_now);
    default:
        return -EBADMSG;
    }
}

void raft_message_free(struct raft_message *m)
{
    if (m->type == RAFT_IO_APPEND_ENTRIES) {
        if (m->append_entries.n_entries > 0)
            raft_free(m->append_entries.entries[0].batch);
        raft_free(m->append_entries.entries);
    } else if (m->type == RAFT_IO_INSTALL_SNAPSHOT) {
        raft_configuration_close(&m->install_snapshot.conf);
        raft_free(m->install_snapshot.data.base);
    }
}
