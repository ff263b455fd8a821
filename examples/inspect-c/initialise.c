#define _POSIX_C_SOURCE 200809L

#include "initialise.h"

#include "octets.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

void sleep_milliseconds(uint64_t milliseconds)
{
    struct timespec left;
    left.tv_sec = (time_t)(milliseconds / 1000);
    left.tv_nsec = (long)(milliseconds % 1000) * 1000000;
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

/* What follows a prefix; NULL without it. */
static const char *after(const char *value, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(value, prefix, length) == 0 ? value + length : NULL;
}

int initialise(enum moment moment, const rgunicorn_worker *worker)
{
    const char *mode = getenv("INSPECT_INIT"), *rest;
    int spare_probe = 0;
    enum moment asked = AT_CREATE;
    uint64_t number;
    if (mode == NULL) {
        return RGUNICORN_OK;
    }
    for (;;) {
        if ((rest = after(mode, "probe-ok:")) != NULL) {
            spare_probe = 1;
        } else if ((rest = after(mode, "start:")) != NULL) {
            asked = AT_START;
        } else {
            break;
        }
        mode = rest;
    }
    if (asked != moment || (spare_probe && worker->is_probe)) {
        return RGUNICORN_OK;
    }
    if (strcmp(mode, "fail") == 0) {
        return rgunicorn_refuse(worker, "inspect: asked to fail");
    }
    if (strcmp(mode, "panic") == 0) {
        /* There is no panic in C: what cannot go on says so, or aborts. */
        return rgunicorn_refuse(worker, "inspect: asked to panic");
    }
    if (strcmp(mode, "abort") == 0) {
        abort();
    }
    if (strcmp(mode, "exit") == 0) {
        exit(7);
    }
    if ((rest = after(mode, "exit:")) != NULL && decimal(rest, strlen(rest), INT_MAX, &number)) {
        exit((int)number);
    }
    while (strcmp(mode, "hang") == 0) {
        pause();
    }
    if ((rest = after(mode, "sleep:")) != NULL && decimal(rest, strlen(rest), UINT32_MAX, &number)) {
        sleep_milliseconds(number);
    }
    return RGUNICORN_OK;
}
