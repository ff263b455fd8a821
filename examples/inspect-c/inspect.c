/*
 * inspect in C: tells what the server made of a request, and misbehaves on demand.
 *
 * The routes are those of the example `inspect`, whose README is their contract; this directory's README names what C
 * cannot do. This file owns the routing and the routes; `octets` has text, parameters and the hash, `initialise` the
 * failing boots.
 *
 * Easily got wrong: a fault of the server's is returned as it is, and nothing is written after a failed read, so that
 * the server answers and never takes a short body for a whole one.
 */
#define _POSIX_C_SOURCE 200809L

#include <rgunicorn.h>

#include "initialise.h"
#include "octets.h"

#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#ifndef INSPECT_VERSION
#define INSPECT_VERSION 1
#endif
#define STRING(token) STRING_OF(token)
#define STRING_OF(token) #token

/* Lies in the library once and in one piece, so that a test can find it there. */
static const char version_text[] = "INSPECT-VERSION:" STRING(INSPECT_VERSION);

/* Most octets handed over in one write: 64 KiB, rounded down to whole alphabets. */
#define PIECE (64 * 1024 / 26 * 26)

static const rgunicorn_field TEXT = RGUNICORN_FIELD("Content-Type", "text/plain");
static const rgunicorn_field JSON = RGUNICORN_FIELD("Content-Type", "application/json");

static int out_of_memory(rgunicorn_response *response)
{
    return rgunicorn_fail(response, "inspect: out of memory");
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Answers.
 */

/* A `Content-Length`, whose digits lie in `digits`. */
static rgunicorn_field length_field(uint64_t length, char digits[24])
{
    snprintf(digits, 24, "%llu", (unsigned long long)length);
    return rgunicorn_field_of("Content-Length", digits);
}

/* The whole answer at once. The length is declared all the same: on HEAD the server does not take it from the body. */
static int respond(rgunicorn_response *response, rgunicorn_field kind, const void *body, size_t length)
{
    char digits[24];
    rgunicorn_field fields[2];
    fields[0] = kind;
    fields[1] = length_field(length, digits);
    return rgunicorn_respond(response, 200, fields, 2, body, length);
}

static int respond_text(rgunicorn_response *response, const char *body)
{
    return respond(response, TEXT, body, strlen(body));
}

static int start_declaring(rgunicorn_response *response, uint64_t length)
{
    char digits[24];
    rgunicorn_field fields[2];
    fields[0] = TEXT;
    fields[1] = length_field(length, digits);
    return rgunicorn_start(response, 200, fields, 2);
}

/* Writes `piece` again and again until `length` octets are out. */
static int write_times(rgunicorn_response *response, const char *piece, uint64_t length)
{
    int code = RGUNICORN_OK;
    while (length > 0 && code == RGUNICORN_OK) {
        size_t count = length < PIECE ? (size_t)length : PIECE;
        code = rgunicorn_write(response, piece, count);
        length -= count;
    }
    return code;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Routes.
 */

/* A body of unknown length, each piece flushed. */
static int write_stream(rgunicorn_response *response, uint64_t pieces, size_t size)
{
    int code = rgunicorn_start(response, 200, &TEXT, 1);
    char *piece = malloc(size + 1);
    if (piece == NULL) {
        return out_of_memory(response);
    }
    memset(piece, 's', size);
    while (pieces-- > 0 && code == RGUNICORN_OK) {
        code = rgunicorn_write(response, piece, size);
        if (code == RGUNICORN_OK) {
            code = rgunicorn_flush(response);
        }
    }
    free(piece);
    return code;
}

static int stream(rgunicorn_response *response, rgunicorn_bytes query)
{
    size_t size = (size_t)query_number(query, "size", SIZE_MAX - 1, 5);
    int code = write_stream(response, query_number(query, "n", UINT64_MAX, 3), size);
    return code == RGUNICORN_OK ? rgunicorn_end(response) : code;
}

/* The beginning of a stream. The server must not let it look like a whole one. */
static int panic_mid(rgunicorn_response *response, rgunicorn_bytes query)
{
    int code = write_stream(response, query_number(query, "n", UINT64_MAX, 2), 5);
    return code == RGUNICORN_OK ? rgunicorn_fail(response, "inspect: asked to panic") : code;
}

/* Offered whatever it is, with a `Content-Length` that some statuses may not have. What the interface has no number
 * for, and a number with superfluous zeros, becomes 0, which is no status either. */
static int status(rgunicorn_response *response, const char *digits, size_t length)
{
    rgunicorn_field fields[2] = {RGUNICORN_FIELD("Content-Type", "text/plain"), RGUNICORN_FIELD("Content-Length", "1")};
    uint64_t number;
    if (!decimal(digits, length, UINT16_MAX, &number) || (length > 3 && number < 1000)) {
        number = 0;
    }
    return rgunicorn_respond(response, (uint32_t)number, fields, 2, "x", 1);
}

/* Offered whatever its octets. It is the server's part to refuse it, a second length included. */
static int header(rgunicorn_response *response, rgunicorn_bytes query)
{
    text name = {NULL, 0, 0, 0}, value = {NULL, 0, 0, 0};
    rgunicorn_field fields[3] = {RGUNICORN_FIELD("Content-Length", "2")};
    size_t count = 2;
    int code;
    query_octets(query, "name", &name);
    query_octets(query, "value", &value);
    fields[1].name.data = name.octets;
    fields[1].name.length = name.length;
    fields[1].value.data = value.octets;
    fields[1].value.length = value.length;
    if (!rgunicorn_equal_any_case(fields[1].name, "content-type")) {
        fields[count++] = TEXT;
    }
    code = name.failed || value.failed ? out_of_memory(response)
                                       : rgunicorn_respond(response, 200, fields, count, "ok", 2);
    free(name.octets);
    free(value.octets);
    return code;
}

/* A known length, in pieces; or what is declared and what is written are two parameters. */
static int large(rgunicorn_response *response, uint64_t declared, uint64_t sent, int alphabet)
{
    char *piece = malloc(PIECE);
    size_t at;
    int code;
    if (piece == NULL) {
        return out_of_memory(response);
    }
    for (at = 0; at < PIECE; at++) {
        piece[at] = alphabet ? (char)('a' + at % 26) : 'w';
    }
    code = start_declaring(response, declared);
    if (code == RGUNICORN_OK) {
        code = write_times(response, piece, sent);
    }
    free(piece);
    return code == RGUNICORN_OK ? rgunicorn_end(response) : code;
}

/* A variable of the worker's environment, as octets. */
static int environment(rgunicorn_response *response, rgunicorn_bytes query)
{
    text name = {NULL, 0, 0, 0};
    const char *value = NULL;
    int code;
    query_octets(query, "name", &name);
    text_put(&name, "", 1);
    if (!name.failed) {
        value = getenv(name.octets);
    }
    code = name.failed ? out_of_memory(response) : respond_text(response, value == NULL ? "" : value);
    free(name.octets);
    return code;
}

static int busy(rgunicorn_response *response, uint64_t milliseconds)
{
    struct timespec now;
    uint64_t begun, spent;
    clock_gettime(CLOCK_MONOTONIC, &now);
    begun = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    do {
        clock_gettime(CLOCK_MONOTONIC, &now);
        spent = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 - begun;
    } while (spent < milliseconds);
    return respond_text(response, "busy");
}

/* The last memory that was kept; not static, so that no compiler takes it for garbage. */
void *volatile inspect_kept;

/* Keeps memory as long as the worker lives; written to, so that it is memory and not only addresses. */
static int grow(rgunicorn_response *response, size_t bytes)
{
    void *memory = malloc(bytes + 1);
    if (memory == NULL) {
        return out_of_memory(response);
    }
    memset(memory, 1, bytes);
    inspect_kept = memory;
    return respond_text(response, "grown");
}

static int pid(rgunicorn_response *response)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%ld", (long)getpid());
    return respond_text(response, digits);
}

/* Writes to address 0, in a way that no compiler can take for something else. */
static void segv(void)
{
    volatile char *volatile nowhere = NULL;
    *nowhere = 1;
}

/* An array of ["name","value"], in order, of header fields or of trailer fields. */
static void describe_fields(text *to, rgunicorn_request *request, rgunicorn_field (*get)(rgunicorn_request *, size_t))
{
    size_t index;
    for (index = 0;; index++) {
        rgunicorn_field field = get(request, index);
        if (field.name.data == NULL) {
            break;
        }
        text_puts(to, index == 0 ? "[" : ",[");
        text_json(to, field.name);
        text_puts(to, ",");
        text_json(to, field.value);
        text_puts(to, "]");
    }
}

/* The object that describes the request and its body, which was read to its end. */
static int describe(rgunicorn_request *request, rgunicorn_response *response, sha256 *hash)
{
    text json = {NULL, 0, 0, 0};
    uint64_t length = hash->length;
    char digest[65];
    int code;
    sha256_end(hash, digest);
    text_puts(&json, "{\"method\":");
    text_json(&json, request->method);
    text_puts(&json, ",\"target\":");
    text_json(&json, request->target);
    text_puts(&json, request->version == 10 ? ",\"version\":\"HTTP/1.0\"" : ",\"version\":\"HTTP/1.1\"");
    text_puts(&json, ",\"headers\":[");
    describe_fields(&json, request, rgunicorn_request_field);
    if (rgunicorn_trailer(request, 0).name.data != NULL) {
        text_puts(&json, "],\"trailers\":[");
        describe_fields(&json, request, rgunicorn_trailer);
    }
    text_puts(&json, "],\"body_len\":");
    text_number(&json, length);
    text_puts(&json, ",\"body_sha256\":\"");
    text_puts(&json, digest);
    text_puts(&json, "\"}");
    code = json.failed ? out_of_memory(response) : respond(response, JSON, json.octets, json.length);
    free(json.octets);
    return code;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The application.
 */

static int answer(void *self, rgunicorn_request *request, rgunicorn_response *response)
{
    rgunicorn_bytes path = rgunicorn_path(request), query = rgunicorn_query(request);
    unsigned char piece[16 * 1024];
    sha256 hash;
    int64_t count;
    (void)self;

    /* The routes that leave the body where it is. */
    if (rgunicorn_equal(path, "/noread")) {
        return respond_text(response, "ok");
    }
    if (rgunicorn_equal(path, "/abort")) {
        abort();
    }
    if (rgunicorn_equal(path, "/exit")) {
        exit((int)query_number(query, "code", INT_MAX, 0));
    }

    sha256_begin(&hash);
    while ((count = rgunicorn_read(request, piece, sizeof piece)) > 0) {
        sha256_update(&hash, piece, (size_t)count);
    }
    if (count < 0) {
        return (int)count;
    }
    if (rgunicorn_equal(path, "/stream")) {
        return stream(response, query);
    }
    if (rgunicorn_equal(path, "/sleep")) {
        sleep_milliseconds(query_number(query, "ms", UINT32_MAX, 100));
        return respond_text(response, "slept");
    }
    if (rgunicorn_equal(path, "/busy")) {
        return busy(response, query_number(query, "ms", UINT32_MAX, 100));
    }
    if (rgunicorn_equal(path, "/grow")) {
        return grow(response, (size_t)query_number(query, "bytes", SIZE_MAX - 1, 1024 * 1024));
    }
    if (rgunicorn_equal(path, "/panic")) {
        return rgunicorn_fail(response, "inspect: asked to panic");
    }
    if (rgunicorn_equal(path, "/panic-mid")) {
        return panic_mid(response, query);
    }
    if (rgunicorn_equal(path, "/segv")) {
        segv();
    }
    if (rgunicorn_equal(path, "/header")) {
        return header(response, query);
    }
    if (rgunicorn_equal(path, "/pid")) {
        return pid(response);
    }
    if (rgunicorn_equal(path, "/large")) {
        uint64_t length = query_number(query, "bytes", UINT64_MAX, 1048576);
        return large(response, length, length, 1);
    }
    if (rgunicorn_equal(path, "/wrong-length")) {
        uint64_t declared = query_number(query, "declared", UINT64_MAX, 10);
        return large(response, declared, query_number(query, "sent", UINT64_MAX, 5), 0);
    }
    if (rgunicorn_equal(path, "/version")) {
        return respond_text(response, version_text);
    }
    if (rgunicorn_equal(path, "/env")) {
        return environment(response, query);
    }
    if (path.length >= 8 && memcmp(path.data, "/status/", 8) == 0) {
        return status(response, path.data + 8, path.length - 8);
    }
    return describe(request, response, &hash);
}

static int create(const rgunicorn_worker *worker, void **self)
{
    (void)self;
    return initialise(AT_CREATE, worker);
}

static int start(void *self, const rgunicorn_worker *worker)
{
    (void)self;
    return initialise(AT_START, worker);
}

static const rgunicorn_app app = {
    .struct_size = sizeof(rgunicorn_app),
    .create = create,
    .start = start,
    .handle = answer,
};

#ifdef INSPECT_BAD_ABI
/* A note of version 2 of the interface: a server must refuse the file by what it says, without running a byte of it. */
const rgunicorn_app *const RGUNICORN_C_APP_V2 = &app;
RGUNICORN_NOTE("kind=app\ndoor=c\nname=inspect-c\nversion=0.1.0\nabi=2.0\napps=app:blocking,\n")
#else
#define APPS(ENTRY) ENTRY("app", BLOCKING, app)
RGUNICORN_EXPORT("inspect-c", "0.1.0", APPS)
#endif
