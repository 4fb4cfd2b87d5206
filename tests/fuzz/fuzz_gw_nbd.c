/*
 * Whatever a client says: the negotiation takes it in pieces of any size, never more than there is,
 * never asks for more than its buffer has, and what it says fits. What follows are requests.
 */

#include "base/check.h"
#include "gw/nbd_proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void serve(struct nbd_negotiation *n)
{
    if (n->ask == NBD_ASK_EXPORT) {
        if (n->name[0] == 'd')
            nbd_negotiation_found(n, 1 << 20);
        else
            nbd_negotiation_not_found(n);
        return;
    }
    while (nbd_negotiation_list_name(n, "disk"))
        ;
    n->out_len = 0;
    check(nbd_negotiation_list_end(n));
}

static void requests(const uint8_t *data, size_t size)
{
    struct nbd_command cmd;

    for (; size >= NBD_REQUEST_SIZE; data += NBD_REQUEST_SIZE, size -= NBD_REQUEST_SIZE) {
        if (!nbd_command_parse(data, &cmd))
            return;
        enum nbd_error error = nbd_command_check(&cmd, 1 << 20);
        if (error == NBD_OK && cmd.type != NBD_FLUSH && cmd.type != NBD_DISC)
            check(cmd.offset + cmd.len <= 1 << 20);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nbd_negotiation n;
    size_t start = 0, end = 0, step = size > 0 ? 1 + data[size - 1] % 64u : 1;

    nbd_negotiation_init(&n);
    for (;;) {
        check(n.out_len <= NBD_OUT_MAX);
        n.out_len = 0;
        if (n.ask == NBD_ASK_EXPORT || n.ask == NBD_ASK_LIST) {
            serve(&n);
            continue;
        }
        if (n.ask != NBD_ASK_MORE)
            break;
        size_t used = nbd_negotiation_feed(&n, data + start, end - start);
        check(used <= end - start);
        start += used;
        if (used > 0 || n.ask != NBD_ASK_MORE)
            continue;
        check(end - start < NBD_OPTION_HEADER_SIZE + NBD_PAYLOAD_MAX);
        if (end == size)
            return 0;
        end = size - end < step ? size : end + step;
    }
    if (n.ask == NBD_ASK_TRANSMIT)
        requests(data + start, size - start);
    return 0;
}
