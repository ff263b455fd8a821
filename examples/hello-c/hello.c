/* The smallest complete application in C: copy this. */
#include <rgunicorn.h>

static int hello(void *self, rgunicorn_request *request, rgunicorn_response *response)
{
    static const rgunicorn_field fields[] = {RGUNICORN_FIELD("Content-Type", "text/plain")};
    (void)self;
    (void)request;
    return rgunicorn_respond(response, 200, fields, 1, "Hello, World!\n", 14);
}

static const rgunicorn_app app = RGUNICORN_HANDLER(hello);
#define APPS(ENTRY) ENTRY("app", INLINE, app)
RGUNICORN_EXPORT("hello-c", "0.1.0", APPS)
