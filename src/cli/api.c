#include "cli/api.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/un.h>

#include "base/check.h"
#include "base/pool.h"
#include "base/text.h"

enum { API_REPLY_MAX = 256 << 20 };

struct api_buffer {
    char *text;
    size_t len;
};

static size_t api_on_data(char *data, size_t size, size_t count, void *arg)
{
    struct api_buffer *b = arg;
    size_t len = size * count;
    if (b->len + len > API_REPLY_MAX)
        return 0;
    b->text = mem_realloc(b->text, b->len + len + 1);
    memcpy(b->text + b->len, data, len);
    b->len += len;
    b->text[b->len] = '\0';
    return len;
}

void api_path(char *dst, size_t dst_size, const char *noun, const char *name)
{
    size_t len = (size_t)snprintf(dst, dst_size, "%s/", noun);
    for (; *name != '\0' && len + 4 < dst_size; name++) {
        unsigned char c = (unsigned char)*name;
        if (isalnum(c) || strchr("._-", c) != NULL)
            len += (size_t)snprintf(dst + len, dst_size - len, "%c", c);
        else
            len += (size_t)snprintf(dst + len, dst_size - len, "%%%02X", c);
    }
}

static int api_unreachable(CURL *curl, CURLcode code, const char *admin_path, struct problem *p)
{
    long os_error = 0;
    curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &os_error);

    if (code == CURLE_OPERATION_TIMEDOUT) {
        problem_set(p, PROBLEM_TIMED_OUT, "timed_out", "the node at %.100s did not answer in time",
                    admin_path);
        problem_action(p, "look whether the change was made, and try again");
    } else if (os_error == EACCES || os_error == EPERM) {
        problem_set(p, PROBLEM_NOT_PERMITTED, "not_permitted", "you may not use %.100s",
                    admin_path);
        problem_why(p, "the admin socket is for root and for the user the node runs as");
        problem_action(p, "run the command as that user, or with sudo");
    } else {
        problem_set(p, PROBLEM_UNREACHABLE, "unreachable", "no node answers at %.100s", admin_path);
        problem_why(p, "%s", os_error != 0 ? strerror((int)os_error) : curl_easy_strerror(code));
        problem_action(p, "start one (skerry node --dir DIR), or name the socket of one that runs "
                          "with --admin PATH");
    }
    return -1;
}

static int api_take_reply(CURL *curl, const struct api_buffer *b, json_t **reply, struct problem *p)
{
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    json_t *body = b->text != NULL ? json_loadb(b->text, b->len, JSON_DECODE_ANY, NULL) : NULL;
    enum problem_kind kind = problem_of_http((unsigned)status);

    if (kind != PROBLEM_NONE) {
        problem_of_json(p, kind, json_object_get(body, "error"));
        json_decref(body);
        return -1;
    }
    if (body == NULL)
        return problem_set(p, PROBLEM_FAILED, "bad_answer", "the node's answer is no JSON");
    *reply = body;
    return 0;
}

static struct curl_slist *api_headers(void)
{
    uint8_t key[16];
    char hex[33], header[80];
    if (getrandom(key, sizeof(key), 0) != sizeof(key))
        return NULL; /* the node makes one then; only a repeat would not be recognised */
    hex_encode(key, sizeof(key), hex, sizeof(hex));
    snprintf(header, sizeof(header), "Idempotency-Key: %s", hex);
    return curl_slist_append(curl_slist_append(NULL, header), "Content-Type: application/json");
}

int api_call(const char *admin_path, const char *method, const char *path, json_t *body,
             uint32_t timeout_s, json_t **reply, struct problem *p)
{
    char url[1024];
    struct api_buffer buffer = {0};
    if (strlen(admin_path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
        json_decref(body);
        problem_set(p, PROBLEM_USAGE, "path_too_long",
                    "the path of an admin socket has at most 107 bytes: %.200s", admin_path);
        problem_action(p, "choose a shorter one with --admin PATH");
        return -1;
    }
    snprintf(url, sizeof(url), "http://skerry/api/v1/%s", path);

    CURL *curl = curl_easy_init();
    check(curl != NULL);
    struct curl_slist *headers = strcmp(method, "GET") != 0 ? api_headers() : NULL;
    char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);

    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, admin_path);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    if (text != NULL)
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, text);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)timeout_s);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, api_on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &buffer);

    CURLcode code = curl_easy_perform(curl);
    int result = code == CURLE_OK ? api_take_reply(curl, &buffer, reply, p)
                                  : api_unreachable(curl, code, admin_path, p);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    free(buffer.text);
    free(text);
    return result;
}

int cli_api(const struct cli *c, const char *method, const char *path, json_t *body, json_t **reply,
            struct problem *p)
{
    char admin[512];
    if (cli_admin_path(c, admin, sizeof(admin), p) < 0) {
        json_decref(body);
        return -1;
    }
    return api_call(admin, method, path, body, 30, reply, p);
}
