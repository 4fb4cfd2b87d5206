/* Fragments from peers, in any order: {u8 peer, u24 length, body} repeated. */

#include <stdint.h>

#include "io/sim.h"
#include "raft/message.h"
#include "raft/transport.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_message(void *arg, struct raft_message *m)
{
    (void)arg;
    raft_message_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sim *sim;
    static struct loop *loop;
    struct raft_transport t;

    if (sim == NULL) {
        sim = sim_create(&(struct sim_config){.seed = 1});
        loop = sim_loop_create(sim_host_create(sim, 1));
    }
    raft_transport_init(&t, loop, NULL);
    t.received = on_message;
    while (size >= 4) {
        size_t len = data[1] | (size_t)data[2] << 8 | (size_t)data[3] << 16;
        if (len > size - 4)
            len = size - 4;
        (void)raft_transport_receive(&t, data[0], (struct slice){data + 4, len});
        data += 4 + len;
        size -= 4 + len;
    }
    sim_run_until(sim, sim_now(sim));
    raft_transport_deinit(&t);
    return 0;
}
