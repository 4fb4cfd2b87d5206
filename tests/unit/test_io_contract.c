/* The contract of io/loop.h, held by the back end over io_uring. */

#include "tests/unit/io_contract_real.h"

int main(void)
{
    return real_contract_run(LOOP_URING);
}
