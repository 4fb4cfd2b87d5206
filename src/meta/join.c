#include <errno.h>

#include "base/check.h"
#include "meta/meta_join.h"
#include "meta/pack.h"

static void put_addr(struct pack *p, const struct loop_addr *a)
{
    pack_bin(p, a->ip, sizeof(a->ip));
    pack_u64(p, a->port);
}

static void get_addr(struct unpack *u, struct loop_addr *a)
{
    unpack_bin_exact(u, a->ip, sizeof(a->ip));
    a->port = (uint16_t)unpack_u64(u, UINT16_MAX);
}

size_t meta_join_request_put(void *buf, size_t size, const struct meta_join_request *r)
{
    struct pack p;

    pack_init(&p, buf, size);
    pack_array(&p, 5);
    pack_str(&p, r->name);
    pack_str(&p, r->location);
    put_addr(&p, &r->addr);
    pack_bin(&p, r->join_id, sizeof(r->join_id));
    return p.failed ? 0 : p.len;
}

int meta_join_request_get(struct slice body, struct meta_join_request *out)
{
    struct unpack u;

    memset(out, 0, sizeof(*out));
    unpack_init(&u, body);
    unpack_array_exact(&u, 5);
    unpack_text(&u, out->name, sizeof(out->name));
    unpack_text(&u, out->location, sizeof(out->location));
    get_addr(&u, &out->addr);
    unpack_bin_exact(&u, out->join_id, sizeof(out->join_id));
    return u.failed || unpack_left(&u) > 0 ? -EPROTO : 0;
}

size_t meta_join_answer_put(void *buf, size_t size, const struct meta_join_answer *a)
{
    struct pack p;

    check(a->code <= 0);
    check(a->contacts_count <= META_JOIN_CONTACTS_MAX);
    pack_init(&p, buf, size);
    pack_array(&p, 5);
    pack_u64(&p, (uint64_t)-a->code);
    pack_str(&p, a->message);
    pack_u64(&p, a->node);
    pack_bin(&p, a->cluster, sizeof(a->cluster));
    pack_array(&p, a->contacts_count);
    for (uint32_t i = 0; i < a->contacts_count; i++) {
        pack_array(&p, 3);
        pack_u64(&p, a->contacts[i].node);
        put_addr(&p, &a->contacts[i].addr);
    }
    return p.failed ? 0 : p.len;
}

int meta_join_answer_get(struct slice body, struct meta_join_answer *out)
{
    struct unpack u;

    memset(out, 0, sizeof(*out));
    unpack_init(&u, body);
    unpack_array_exact(&u, 5);
    out->code = -(int)unpack_u64(&u, 4095);
    unpack_text(&u, out->message, sizeof(out->message));
    out->node = unpack_u32(&u);
    unpack_bin_exact(&u, out->cluster, sizeof(out->cluster));
    out->contacts_count = unpack_array(&u, META_JOIN_CONTACTS_MAX);
    for (uint32_t i = 0; i < out->contacts_count; i++) {
        unpack_array_exact(&u, 3);
        out->contacts[i].node = unpack_u32(&u);
        get_addr(&u, &out->contacts[i].addr);
    }
    return u.failed || unpack_left(&u) > 0 ? -EPROTO : 0;
}
