/*
 * rgunicorn.h: applications for rgunicorn in C, in C++, and in whatever else can make a shared library of C functions.
 *
 * An application is a function that answers a request, and a life cycle around it. The smallest one:
 *
 *     #include <rgunicorn.h>
 *
 *     static int hello(void *self, rgunicorn_request *request, rgunicorn_response *response)
 *     {
 *         static const rgunicorn_field fields[] = {RGUNICORN_FIELD("Content-Type", "text/plain")};
 *         (void)self;
 *         (void)request;
 *         return rgunicorn_respond(response, 200, fields, 1, "Hello, World!\n", 14);
 *     }
 *
 *     static const rgunicorn_app app = RGUNICORN_HANDLER(hello);
 *     #define APPS(ENTRY) ENTRY("app", INLINE, app)
 *     RGUNICORN_EXPORT("hello-c", "0.1.0", APPS)
 *
 *     cc -std=c99 -O2 -fPIC -shared $(pkg-config --cflags rgunicorn) -o libhello_c.so hello.c
 *     rgunicorn ./libhello_c.so
 *
 * What holds for all of it:
 *
 * - Nothing is linked. The server hands over tables of functions; the functions below call through them.
 * - What is passed to a call is borrowed for that call, in both directions, unless its comment says otherwise. Each
 *   side frees what it allocated; nothing in this file is ever freed by the other side.
 * - Structs that may grow begin with `struct_size`, which their maker sets to the sizeof that it was compiled with.
 *   They grow at their end only. Before a field is used that came after 1.0, ask RGUNICORN_HAS. The structs without
 *   `struct_size` never change. What is larger than a function comes from `get_extension`, by name.
 * - Comments end with tags: the process ([probe] or [worker]), the thread ([main], [the call's], [any thread]) and what
 *   failure means. The probe is a short-lived process that tries an application before any worker runs it.
 * - A crash, an abort(3) or an exit(3) ends one worker, and the server replaces it. Nothing may be thrown, or jumped
 *   with longjmp(3), out of a function that the server called: a C++ exception that leaves ends the worker by SIGABRT.
 *
 * C99, C++17 and later. Version 1.0 of the interface, not frozen yet: rebuild together with the server until it is.
 */
#ifndef RGUNICORN_H
#define RGUNICORN_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of the interface that this header describes. Within one major version every pair of server and
 * application works together. RGUNICORN_ABI is the same as text, for the note. */
#define RGUNICORN_ABI_MAJOR 1
#define RGUNICORN_ABI_MINOR 0
#define RGUNICORN_ABI "1.0"

/* What most functions return. Zero and above is success. What reading and writing returns below zero is a fault: an
 * application that can do nothing about it returns it, and the server answers what can still be answered (400, 408,
 * 413), closes, and logs no application error. */
enum {
    RGUNICORN_OK = 0,
    /* From the application: it failed. rgunicorn_fail() and rgunicorn_refuse() say why and return this. */
    RGUNICORN_FAILED = 1,
    /* The client has closed or reset the connection. */
    RGUNICORN_CLIENT_GONE = -2,
    /* A timeout of the server ran out: the client is too slow. */
    RGUNICORN_TIMED_OUT = -3,
    /* The request body is over the server's limit. */
    RGUNICORN_TOO_LARGE = -4,
    /* The request body is malformed, or ended early. */
    RGUNICORN_MALFORMED = -5,
    /* The request is over request_timeout; the client has its 504. */
    RGUNICORN_EXPIRED = -6,
    /* The call makes no sense now, such as a second start. Nothing was sent, and the exchange goes on. */
    RGUNICORN_MISUSE = -7,
    /* A status or a field that may not be sent. Nothing was sent, and the exchange goes on. */
    RGUNICORN_INVALID = -8,
    /* The worker class or the version of HTTP does not offer this. Nothing was sent, and the exchange goes on. */
    RGUNICORN_UNSUPPORTED = -9,
    /* Another error of the operating system. */
    RGUNICORN_SYSTEM = -10
};

/* How an application answers. */
enum {
    /* It may sleep: a worker class gives it a thread. Calls come on any thread and may overlap. */
    RGUNICORN_BLOCKING = 0,
    /* It never waits: a worker class may call it on its event loop, where one that waits stops every client. */
    RGUNICORN_INLINE = 1
};

/* Bits of rgunicorn_app.flags. A server refuses an application that sets one which it does not know. */
enum {
    /* Calls of `handle` never overlap, whatever thread they come on. */
    RGUNICORN_ONE_AT_A_TIME = 1
};

/* Levels of the log. */
enum {
    RGUNICORN_LOG_OFF = 0,
    RGUNICORN_LOG_ERROR = 1,
    RGUNICORN_LOG_WARN = 2,
    RGUNICORN_LOG_INFO = 3,
    RGUNICORN_LOG_DEBUG = 4,
    RGUNICORN_LOG_TRACE = 5
};

/* rgunicorn_request.scheme: how the client reached the server. */
enum {
    RGUNICORN_HTTP = 0,
    /* Over TLS, here or at a trusted proxy. */
    RGUNICORN_HTTPS = 1
};

/* rgunicorn_address.family. */
enum {
    RGUNICORN_ADDRESS_UNKNOWN = 0,
    RGUNICORN_ADDRESS_UNIX = 1,
    RGUNICORN_ADDRESS_IPV4 = 4,
    RGUNICORN_ADDRESS_IPV6 = 6
};

/* Whether a struct of the other side's has a field: RGUNICORN_HAS(rgunicorn_request_calls, request->calls, tls). */
#define RGUNICORN_HAS(type, pointer, field)                                                                            \
    ((pointer)->struct_size >= offsetof(type, field) + sizeof((pointer)->field))

/* ---------------------------------------------------------------------------------------------------------------------
 * Values. They never change.
 */

/* Borrowed octets, without a zero at their end. `data` is NULL where a comment says "none". */
typedef struct rgunicorn_bytes {
    const char *data;
    size_t length;
} rgunicorn_bytes;

/* A header or trailer field. Received ones have the letter case of the sender, and no white space around the value. */
typedef struct rgunicorn_field {
    rgunicorn_bytes name;
    rgunicorn_bytes value;
} rgunicorn_field;

/* One end of a connection. */
typedef struct rgunicorn_address {
    /* RGUNICORN_ADDRESS_*. */
    uint32_t family;
    /* In the machine's order of octets. */
    uint32_t port;
    /* In the network's order; of IPv4 the first four. */
    uint8_t ip[16];
    /* The path of a Unix socket. None for a client, usually. */
    rgunicorn_bytes path;
} rgunicorn_address;

/* A field of two literals. */
#define RGUNICORN_FIELD(name, value) {{(name), sizeof(name) - 1}, {(value), sizeof(value) - 1}}

/* ---------------------------------------------------------------------------------------------------------------------
 * The worker: the process an application lives in. Made by the server.
 *
 * There is one object for each application and process. It stays where it is as long as the process lives, and its
 * calls may be made on [any thread].
 */

typedef struct rgunicorn_worker rgunicorn_worker;

struct rgunicorn_worker {
    size_t struct_size;
    /* The process id. These four are what they are when `create` is called, and may be others from `start` on: an
     * application that was created in a template process is forked from it. */
    uint32_t pid;
    /* 1 in a probe: the application is created, tried, and thrown away with the process. */
    uint32_t is_probe;
    /* The worker's number in order of birth, counted over the life of the master; 0 in a probe. */
    uint64_t age;
    /* The generation, counted from 1; each reload makes the next. */
    uint64_t generation;
    /* The application's settings, the table [app.NAME] of the configuration file, as a JSON object. */
    rgunicorn_bytes settings;
    /* See rgunicorn_setting(). */
    rgunicorn_bytes (*setting)(const rgunicorn_worker *worker, const char *name);
    /* See rgunicorn_server_setting(). */
    rgunicorn_bytes (*server_setting)(const rgunicorn_worker *worker, const char *name);
    /* See rgunicorn_log_level(). */
    int (*log_level)(const rgunicorn_worker *worker);
    /* See rgunicorn_log(). */
    void (*log)(const rgunicorn_worker *worker, int level, rgunicorn_bytes message);
    /* See rgunicorn_refuse(). */
    void (*refuse)(const rgunicorn_worker *worker, rgunicorn_bytes message);
    /* A table of functions by name, as long as the process lives; NULL if this server has none of that name. */
    const void *(*get_extension)(const rgunicorn_worker *worker, const char *name);
};

/* ---------------------------------------------------------------------------------------------------------------------
 * The exchange: one request and its response. Made by the server.
 *
 * Both halves, and all octets that they lead to, are valid until `handle` returns, and may be used on the thread only
 * that `handle` was called on: [worker] [the call's thread].
 */

typedef struct rgunicorn_request rgunicorn_request;
typedef struct rgunicorn_response rgunicorn_response;

/* Applications use the functions further down. */
typedef struct rgunicorn_request_calls {
    size_t struct_size;
    rgunicorn_field (*field)(rgunicorn_request *request, size_t index);
    rgunicorn_field (*trailer)(rgunicorn_request *request, size_t index);
    rgunicorn_address (*peer)(rgunicorn_request *request);
    rgunicorn_address (*local)(rgunicorn_request *request);
    rgunicorn_bytes (*tls)(rgunicorn_request *request, const char *name);
    int64_t (*body_length)(rgunicorn_request *request);
    int64_t (*read)(rgunicorn_request *request, void *buffer, size_t size);
    int (*client_gone)(rgunicorn_request *request);
    int (*expired)(rgunicorn_request *request);
    /* A table of functions by name, as long as the process lives; NULL if there is none of that name. */
    const void *(*get_extension)(rgunicorn_request *request, const char *name);
} rgunicorn_request_calls;

struct rgunicorn_request {
    size_t struct_size;
    const rgunicorn_request_calls *calls;
    /* The worker that serves it, as `start` got it. */
    const rgunicorn_worker *worker;
    /* Case-sensitive, such as GET. */
    rgunicorn_bytes method;
    /* Exactly as it was sent. rgunicorn_path() and rgunicorn_query() take it apart. */
    rgunicorn_bytes target;
    /* The prefix that the application is mounted on, without a slash at its end; empty for "/". It is still part of the
     * target. */
    rgunicorn_bytes mount;
    /* How many header fields there are. */
    size_t field_count;
    /* 10 for HTTP/1.0, 11 for HTTP/1.1. */
    uint32_t version;
    /* RGUNICORN_HTTP or RGUNICORN_HTTPS. */
    uint32_t scheme;
};

/* Applications use the functions further down. */
typedef struct rgunicorn_response_calls {
    size_t struct_size;
    int (*informational)(rgunicorn_response *response, uint32_t status, const rgunicorn_field *fields, size_t count);
    int (*start)(rgunicorn_response *response, uint32_t status, const rgunicorn_field *fields, size_t count);
    int (*write)(rgunicorn_response *response, const void *data, size_t length);
    int (*flush)(rgunicorn_response *response);
    int (*send_file)(rgunicorn_response *response, int fd, uint64_t offset, uint64_t length);
    int (*trailers)(rgunicorn_response *response, const rgunicorn_field *fields, size_t count);
    int (*end)(rgunicorn_response *response);
    int (*respond)(rgunicorn_response *response, uint32_t status, const rgunicorn_field *fields, size_t count,
                   const void *body, size_t length);
    void (*fail)(rgunicorn_response *response, rgunicorn_bytes message);
    /* A table of functions by name, as long as the process lives; NULL if there is none of that name. */
    const void *(*get_extension)(rgunicorn_response *response, const char *name);
} rgunicorn_response_calls;

struct rgunicorn_response {
    size_t struct_size;
    const rgunicorn_response_calls *calls;
};

/* ---------------------------------------------------------------------------------------------------------------------
 * The application. Made by its author, as a constant; read by the server when the library is opened.
 *
 * `self` is what `create` stored, else NULL. All but `handle` may be NULL. In the order in which they are called:
 */

typedef struct rgunicorn_app {
    /* sizeof(rgunicorn_app). */
    size_t struct_size;
    /* Of the RGUNICORN_ONE_AT_A_TIME kind. */
    uint64_t flags;
    /* Makes the application and stores what it likes to `*self`. No threads, no sockets kept: it happens in the probe
     * too, which ends without a further call, and perhaps in a process that is forked afterwards. Anything but
     * RGUNICORN_OK refuses the whole generation, and what served before serves on; nothing is destroyed that it did
     * not make. [probe] [worker] [main] once for each place where the application is mounted. */
    int (*create)(const rgunicorn_worker *worker, void **self);
    /* After the last fork: threads, pools and connections belong here. Anything but RGUNICORN_OK is a failed boot.
     * [worker] [main] once. */
    int (*start)(void *self, const rgunicorn_worker *worker);
    /* Directly before the first request. Anything but RGUNICORN_OK is a failed boot. [worker] [main] once. */
    int (*ready)(void *self, const rgunicorn_worker *worker);
    /* Answers one request. RGUNICORN_OK; a fault that the server has returned; or what rgunicorn_fail() returns, which
     * is answered with 500 if nothing was sent and by cutting the connection if something was. So is any other number.
     * [worker] [any thread] calls may overlap, unless the application is INLINE or RGUNICORN_ONE_AT_A_TIME. */
    int (*handle)(void *self, rgunicorn_request *request, rgunicorn_response *response);
    /* The worker accepts no more: what takes long should come to its end. [worker] [any thread] at most once, while
     * calls go on. */
    void (*drain)(void *self);
    /* The last exchange has ended. Not called when the worker is killed or crashes. [worker] [main] at most once. */
    void (*shutdown)(void *self);
    /* Frees `self`. [worker] [main] after `shutdown`, at most once; the last call. */
    void (*destroy)(void *self);
    /* A table of functions by name, as long as the process lives; NULL if there is none of that name. [any thread] */
    const void *(*get_extension)(const char *name);
} rgunicorn_app;

/* An application that is only a handler. */
#define RGUNICORN_HANDLER(function) {sizeof(rgunicorn_app), 0, NULL, NULL, NULL, (function), NULL, NULL, NULL, NULL}

/* One application of a library. Never changes. */
typedef struct rgunicorn_entry {
    /* What stands after the colon in FILE.so:NAME. */
    const char *name;
    const rgunicorn_app *app;
    /* RGUNICORN_BLOCKING or RGUNICORN_INLINE. */
    uint32_t execution;
    /* 0. */
    uint32_t reserved;
} rgunicorn_entry;

/* What a library exports. */
typedef struct rgunicorn_library {
    size_t struct_size;
    /* RGUNICORN_ABI_MAJOR and RGUNICORN_ABI_MINOR of the header that it was compiled with. */
    uint32_t abi_major;
    uint32_t abi_minor;
    const rgunicorn_entry *entries;
    size_t entry_count;
} rgunicorn_library;

#ifndef RGUNICORN_EXPORTED
#define RGUNICORN_EXPORTED __attribute__((visibility("default")))
#endif

/* The one symbol that the server looks up. RGUNICORN_EXPORT defines it. */
extern RGUNICORN_EXPORTED const rgunicorn_library RGUNICORN_C_APP_V1;

/*
 * Exports the applications of a library, once in one of its source files. `package` and `version` are literals that
 * `inspect` and the log show; `apps` is the name of a macro that lists the applications, each with its name, its kind
 * (BLOCKING or INLINE) and a constant of type rgunicorn_app:
 *
 *     #define APPS(ENTRY) ENTRY("app", BLOCKING, app) ENTRY("ping", INLINE, ping)
 *     RGUNICORN_EXPORT("shop", "1.2.0", APPS)
 *
 * From this one list come the exported table and the ELF note, by which the server judges the file before it runs a
 * byte of it.
 */
#define RGUNICORN_EXPORT(package, version, apps)                                                                       \
    static const rgunicorn_entry rgunicorn_entries_[] = {apps(RGUNICORN_TABLE_ENTRY_)};                                \
    const rgunicorn_library RGUNICORN_C_APP_V1 = {sizeof(rgunicorn_library), RGUNICORN_ABI_MAJOR, RGUNICORN_ABI_MINOR, \
                                                  rgunicorn_entries_,                                                  \
                                                  sizeof(rgunicorn_entries_) / sizeof(rgunicorn_entries_[0])};         \
    RGUNICORN_NOTE("kind=app\ndoor=c\nname=" package "\nversion=" version "\nabi=" RGUNICORN_ABI                       \
                   "\ncompiler=" RGUNICORN_COMPILER_ "\napps=" apps(RGUNICORN_NOTE_ENTRY_) "\n")

/*
 * The ELF note by itself: a literal of key=value lines. RGUNICORN_EXPORT writes it for C and C++; a library whose table
 * is made in another language writes table and note itself. See docs/ABI.md for the keys.
 */
#define RGUNICORN_NOTE(literal)                                                                                        \
    static const struct {                                                                                              \
        uint32_t owner_size, text_size, kind;                                                                          \
        char owner[12];                                                                                                \
        char text[(sizeof(literal) + 3) / 4 * 4];                                                                      \
    } rgunicorn_note_ __attribute__((section(".note.rgunicorn"), used, aligned(4))) = {                                \
        10, (sizeof(literal) + 3) / 4 * 4, 1, "rgunicorn", literal};

#define RGUNICORN_TABLE_ENTRY_(name, kind, app) {name, &app, RGUNICORN_##kind, 0},
#define RGUNICORN_NOTE_ENTRY_(name, kind, app) name ":" RGUNICORN_WORD_##kind##_ ","
#define RGUNICORN_WORD_BLOCKING_ "blocking"
#define RGUNICORN_WORD_INLINE_ "inline"
#if defined(__clang__) || !defined(__GNUC__)
#define RGUNICORN_COMPILER_ __VERSION__
#else
#define RGUNICORN_COMPILER_ "gcc " __VERSION__
#endif

/* ---------------------------------------------------------------------------------------------------------------------
 * Octets.
 */

/* The octets of a C string, without its zero; none for NULL. */
static inline rgunicorn_bytes rgunicorn_text(const char *text)
{
    rgunicorn_bytes bytes;
    bytes.data = text;
    bytes.length = text == NULL ? 0 : strlen(text);
    return bytes;
}

/* The field with this name and value, both borrowed as long as the field is used. */
static inline rgunicorn_field rgunicorn_field_of(const char *name, const char *value)
{
    rgunicorn_field field;
    field.name = rgunicorn_text(name);
    field.value = rgunicorn_text(value);
    return field;
}

/* Whether the octets are those of a C string. */
static inline int rgunicorn_equal(rgunicorn_bytes bytes, const char *text)
{
    size_t length = strlen(text);
    return bytes.length == length && (length == 0 || memcmp(bytes.data, text, length) == 0);
}

/* The same, with the letters of ASCII in any case. */
static inline int rgunicorn_equal_any_case(rgunicorn_bytes bytes, const char *text)
{
    size_t at;
    if (bytes.length != strlen(text)) {
        return 0;
    }
    for (at = 0; at < bytes.length; at++) {
        int one = (unsigned char)bytes.data[at];
        int other = (unsigned char)text[at];
        one += one >= 'A' && one <= 'Z' ? 'a' - 'A' : 0;
        other += other >= 'A' && other <= 'Z' ? 'a' - 'A' : 0;
        if (one != other) {
            return 0;
        }
    }
    return 1;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Asking the worker. [probe] [worker] [any thread]
 */

/* A setting of the application, of its table [app.NAME]: of a text its octets, of anything else its JSON form (12,
 * true, [1,2]). None if it is not there. Valid as long as the process. */
static inline rgunicorn_bytes rgunicorn_setting(const rgunicorn_worker *worker, const char *name)
{
    return worker->setting(worker, name);
}

/* A setting of the server as text, by its name in docs/SETTINGS.md, such as "timeout". None if there is none of that
 * name. Valid as long as the process. */
static inline rgunicorn_bytes rgunicorn_server_setting(const rgunicorn_worker *worker, const char *name)
{
    return worker->server_setting(worker, name);
}

/* The level up to which lines are logged now; it may change while the worker runs. */
static inline int rgunicorn_log_level(const rgunicorn_worker *worker)
{
    return worker->log_level(worker);
}

/* Writes a line to the server's error log. Control characters are escaped, and what is no UTF-8 is replaced. A level
 * out of range is taken as the nearest. */
static inline void rgunicorn_log(const rgunicorn_worker *worker, int level, const char *message)
{
    worker->log(worker, level, rgunicorn_text(message));
}

/* The same with the conversions of printf(3); nothing is formatted for a level that is off. What is over 1023 octets is
 * cut. */
static inline void rgunicorn_logf(const rgunicorn_worker *worker, int level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static inline void rgunicorn_logf(const rgunicorn_worker *worker, int level, const char *format, ...)
{
    if (level <= worker->log_level(worker)) {
        char line[1024];
        va_list values;
        va_start(values, format);
        vsnprintf(line, sizeof line, format, values);
        va_end(values);
        worker->log(worker, level, rgunicorn_text(line));
    }
}

/* Says why `create`, `start` or `ready` fails, in one sentence, which the server copies into its own. Returns
 * RGUNICORN_FAILED: `return rgunicorn_refuse(worker, "cannot open the database: …");`. Only within these three. */
static inline int rgunicorn_refuse(const rgunicorn_worker *worker, const char *message)
{
    worker->refuse(worker, rgunicorn_text(message));
    return RGUNICORN_FAILED;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Reading the request. [worker] [the call's thread]
 */

/* The rest of the target after scheme and authority, if it has them (RFC 9112 section 3.2.2). */
static inline rgunicorn_bytes rgunicorn_origin_(const rgunicorn_request *request)
{
    rgunicorn_bytes target = request->target, scheme;
    size_t at;
    for (at = 7; at <= 8; at++) {
        if (target.length >= at) {
            scheme.data = target.data;
            scheme.length = at;
            if (rgunicorn_equal_any_case(scheme, at == 7 ? "http://" : "https://")) {
                while (at < target.length && target.data[at] != '/' && target.data[at] != '?') {
                    at++;
                }
                target.data += at;
                target.length -= at;
                return target;
            }
        }
    }
    return target;
}

/* The path of the target: up to the first '?', without scheme and authority. Nothing is decoded. `*` and `host:port`
 * are returned as they are. */
static inline rgunicorn_bytes rgunicorn_path(const rgunicorn_request *request)
{
    rgunicorn_bytes path = rgunicorn_origin_(request);
    const void *mark = path.length == 0 ? NULL : memchr(path.data, '?', path.length);
    if (mark != NULL) {
        path.length = (size_t)((const char *)mark - path.data);
    }
    return path.length == 0 ? rgunicorn_text("/") : path;
}

/* What follows the first '?' of the target; none without one. */
static inline rgunicorn_bytes rgunicorn_query(const rgunicorn_request *request)
{
    rgunicorn_bytes query = rgunicorn_origin_(request);
    const void *mark = query.length == 0 ? NULL : memchr(query.data, '?', query.length);
    if (mark == NULL) {
        return rgunicorn_text(NULL);
    }
    query.length -= (size_t)((const char *)mark - query.data) + 1;
    query.data = (const char *)mark + 1;
    return query;
}

/* The header field with this index, below `request->field_count`, in order of arrival; repeated ones are kept apart.
 * The name is none beyond the last. */
static inline rgunicorn_field rgunicorn_request_field(rgunicorn_request *request, size_t index)
{
    return request->calls->field(request, index);
}

/* The value of the first header field with this name, in any letter case; none if there is none. */
static inline rgunicorn_bytes rgunicorn_header(rgunicorn_request *request, const char *name)
{
    size_t index;
    for (index = 0; index < request->field_count; index++) {
        rgunicorn_field field = request->calls->field(request, index);
        if (field.name.data != NULL && rgunicorn_equal_any_case(field.name, name)) {
            return field.value;
        }
    }
    return rgunicorn_text(NULL);
}

/* The declared length of the body, 0 without a body, -1 if only its end will tell (chunked). */
static inline int64_t rgunicorn_body_length(rgunicorn_request *request)
{
    return request->calls->body_length(request);
}

/* Waits for a piece of the body and returns its length; 0 is the end, below 0 a fault. After a fault what was read is
 * not the whole body: return the fault. Sends `100 Continue` first if the client waits for it. */
static inline int64_t rgunicorn_read(rgunicorn_request *request, void *buffer, size_t size)
{
    return request->calls->read(request, buffer, size);
}

/* The trailer field with this index; the name is none beyond the last, and before the body was read to its end. */
static inline rgunicorn_field rgunicorn_trailer(rgunicorn_request *request, size_t index)
{
    return request->calls->trailer(request, index);
}

/* The client's address, or that of a trusted proxy's client. */
static inline rgunicorn_address rgunicorn_peer(rgunicorn_request *request)
{
    return request->calls->peer(request);
}

/* The server's own end of the connection. */
static inline rgunicorn_address rgunicorn_local(rgunicorn_request *request)
{
    return request->calls->local(request);
}

/* A fact of the TLS session by name ("version", "cipher", "client_certificate"); none without TLS. */
static inline rgunicorn_bytes rgunicorn_tls(rgunicorn_request *request, const char *name)
{
    return request->calls->tls(request, name);
}

/* 1 if the client is known to have closed the connection. Does not wait. */
static inline int rgunicorn_client_gone(rgunicorn_request *request)
{
    return request->calls->client_gone(request);
}

/* 1 if the request is over request_timeout: further work is wasted. */
static inline int rgunicorn_expired(rgunicorn_request *request)
{
    return request->calls->expired(request);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Writing the response. [worker] [the call's thread]
 *
 * Either rgunicorn_respond() once; or rgunicorn_start(), any number of writes, rgunicorn_end(). All return RGUNICORN_OK
 * or a fault. The server owns the framing: an application declares a `Content-Length` or nothing, and writes no chunks.
 * `handle` that returns RGUNICORN_OK without a start has answered nothing, which is a 500.
 */

/* The whole answer. The server adds Content-Length, Date, Server and Connection. */
static inline int rgunicorn_respond(rgunicorn_response *response, uint32_t status, const rgunicorn_field *fields,
                                    size_t count, const void *body, size_t length)
{
    return response->calls->respond(response, status, fields, count, body, length);
}

/* An interim answer before the final one: 100 to 199, but 101. A client that speaks HTTP/1.0 is spared it. */
static inline int rgunicorn_informational(rgunicorn_response *response, uint32_t status, const rgunicorn_field *fields,
                                          size_t count)
{
    return response->calls->informational(response, status, fields, count);
}

/* Sets status and fields. Without a Content-Length among them the body is chunked, or on HTTP/1.0 ended by closing. The
 * head may wait for the first piece of the body. */
static inline int rgunicorn_start(rgunicorn_response *response, uint32_t status, const rgunicorn_field *fields,
                                  size_t count)
{
    return response->calls->start(response, status, fields, count);
}

/* Writes a piece of the body, waiting while the client is slow. A piece of no octets is allowed and is not the end. */
static inline int rgunicorn_write(rgunicorn_response *response, const void *data, size_t length)
{
    return response->calls->write(response, data, length);
}

/* Sends what was written so far to the client. */
static inline int rgunicorn_flush(rgunicorn_response *response)
{
    return response->calls->flush(response);
}

/* Writes `length` octets of a file from `offset`, by sendfile(2) where the connection allows. The descriptor stays the
 * caller's, and its position does not move. RGUNICORN_SYSTEM if the file ends early. */
static inline int rgunicorn_send_file(rgunicorn_response *response, int fd, uint64_t offset, uint64_t length)
{
    return response->calls->send_file(response, fd, offset, length);
}

/* Sets the trailer fields of a chunked body, before rgunicorn_end(). On other framings they are dropped. */
static inline int rgunicorn_trailers(rgunicorn_response *response, const rgunicorn_field *fields, size_t count)
{
    return response->calls->trailers(response, fields, count);
}

/* Ends the body. */
static inline int rgunicorn_end(rgunicorn_response *response)
{
    return response->calls->end(response);
}

/* Says why `handle` fails, in one sentence for the error log; the client is not told. Returns RGUNICORN_FAILED:
 * `return rgunicorn_fail(response, "the database is gone");`. */
static inline int rgunicorn_fail(rgunicorn_response *response, const char *message)
{
    response->calls->fail(response, rgunicorn_text(message));
    return RGUNICORN_FAILED;
}

#ifdef __cplusplus
}
#endif

#endif
