/* What is made of a device's folder in sysfs: of one that is whole, of a partition, of one that
 * lacks files or holds nonsense. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <ftw.h>
#include <sys/stat.h>

#include "io/os.h"

static char root[64];

static void make_dir(const char *name)
{
    char path[160];

    snprintf(path, sizeof(path), "%s/%s", root, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

/* As in sysfs: a line. */
static void make_file(const char *name, const char *text)
{
    char path[160];

    snprintf(path, sizeof(path), "%s/%s", root, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "%s\n", text);
    fclose(f);
}

static struct loop_file_info info_of(const char *device)
{
    char path[160];
    struct loop_file_info info;

    memset(&info, 0xff, sizeof(info));
    snprintf(path, sizeof(path), "%s/%s", root, device);
    os_device_info(path, &info);
    return info;
}

static int setup(void **state)
{
    (void)state;
    strcpy(root, "./io_info.XXXXXX");
    assert_non_null(mkdtemp(root));
    make_dir("vda");
    make_dir("vda/queue");
    make_file("vda/queue/write_cache", "write back");
    make_file("vda/queue/fua", "1");
    make_file("vda/queue/discard_max_bytes", "1073741824");
    make_file("vda/queue/discard_granularity", "65536");
    make_file("vda/queue/logical_block_size", "512");
    make_dir("vda/vda1");
    make_dir("nothing");
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static int teardown(void **state)
{
    (void)state;
    return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void check_vda(struct loop_file_info info)
{
    assert_true(info.is_volatile);
    assert_true(info.has_fua);
    assert_true(info.can_discard);
    assert_false(info.is_sparse);
    assert_int_equal(info.io_align, 512);
    assert_int_equal(info.discard_align, 65536);
}

static void a_device_and_its_partition_have_the_same_queue(void **state)
{
    (void)state;
    check_vda(info_of("vda"));
    check_vda(info_of("vda/vda1"));
}

static void what_cannot_be_read_is_volatile_without_fua_and_without_discard(void **state)
{
    (void)state;
    struct loop_file_info info = info_of("nothing");

    assert_true(info.is_volatile);
    assert_false(info.has_fua);
    assert_false(info.can_discard);
    assert_int_equal(info.discard_align, 0);
    assert_int_equal(info.io_align, 4096);
    info = info_of("not/there");
    assert_true(info.is_volatile && !info.has_fua && !info.can_discard);
}

static void only_the_words_write_through_mean_that(void **state)
{
    static const char *const others[] = {
        "write back", "", "write", "write through?", "Write Through", " write through"};

    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(others); i++) {
        make_file("vda/queue/write_cache", others[i]);
        assert_true(info_of("vda").is_volatile);
    }
    make_file("vda/queue/write_cache", "write through");
    assert_false(info_of("vda").is_volatile);
    assert_false(info_of("vda/vda1").is_volatile);
}

static void numbers_that_are_none_count_for_nothing(void **state)
{
    (void)state;
    make_file("vda/queue/fua", "yes");
    assert_false(info_of("vda").has_fua);
    make_file("vda/queue/fua", "0");
    assert_false(info_of("vda").has_fua);

    make_file("vda/queue/discard_max_bytes", "0");
    assert_false(info_of("vda").can_discard);
    assert_int_equal(info_of("vda").discard_align, 0);
    make_file("vda/queue/discard_max_bytes", "-1");
    assert_false(info_of("vda").can_discard);
    make_file("vda/queue/discard_max_bytes", "4096");
    make_file("vda/queue/discard_granularity", "0");
    assert_false(info_of("vda").can_discard);

    make_file("vda/queue/logical_block_size", "16384");
    assert_int_equal(info_of("vda").io_align, 16384);
    make_file("vda/queue/logical_block_size", "99999999999999999999999999999999999999999");
    assert_int_equal(info_of("vda").io_align, 4096);
    make_file("vda/queue/logical_block_size", "4294967296");
    assert_int_equal(info_of("vda").io_align, 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_device_and_its_partition_have_the_same_queue, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            what_cannot_be_read_is_volatile_without_fua_and_without_discard, setup, teardown),
        cmocka_unit_test_setup_teardown(only_the_words_write_through_mean_that, setup, teardown),
        cmocka_unit_test_setup_teardown(numbers_that_are_none_count_for_nothing, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
