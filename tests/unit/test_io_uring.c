/* Threads, unix sockets and odd files over io_uring. */

#include "tests/unit/io_real.h"

int main(void)
{
    return real_run(LOOP_URING);
}
