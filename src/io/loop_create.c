#include "io/loop.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/log.h"
#include "io/loop_impl.h"

/*
 * One answer for the whole process, so that connections can move between its loops. A shortage is
 * no refusal: libuv would meet it too, and whoever asked for the loop is to hear of it.
 */
static enum loop_kind auto_kind;

static bool is_refusal(int err)
{
    return err < 0 && err != -EMFILE && err != -ENFILE && err != -ENOMEM;
}

static void auto_decide(void)
{
    struct loop *l;
    int err = loop_uring_create(&l, 1);

    if (err == 0)
        loop_destroy(l);
    auto_kind = is_refusal(err) ? LOOP_UV : LOOP_URING;
    if (auto_kind == LOOP_UV)
        log_warn("io",
                 "io_uring is refused here, so I/O goes through libuv and costs more error=%s",
                 strerrorname_np(-err));
}

bool loop_kind_parse(const char *s, enum loop_kind *out)
{
    static const char *const names[] = {
        [LOOP_AUTO] = "auto", [LOOP_URING] = "uring", [LOOP_UV] = "uv"};

    for (uint32_t i = 0; i < COUNT_OF(names); i++) {
        if (strcmp(s, names[i]) == 0) {
            *out = (enum loop_kind)i;
            return true;
        }
    }
    return false;
}

int loop_create(struct loop **out, enum loop_kind kind, uint32_t entries)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    if (kind == LOOP_AUTO) {
        check(pthread_once(&once, auto_decide) == 0);
        kind = auto_kind;
    }
    return kind == LOOP_UV ? loop_uv_create(out, entries) : loop_uring_create(out, entries);
}
