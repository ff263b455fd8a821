// An application in C++17 whose exceptions end at the border: what may throw goes through `guarded`.
//
// An exception that left such a function would end the worker. Here the one from a handler becomes a 500 and a line in
// the log, and the one from the constructor refuses the deployment.
#include <rgunicorn.h>

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace {

std::string_view view(rgunicorn_bytes octets)
{
    return octets.data == nullptr ? std::string_view() : std::string_view(octets.data, octets.length);
}

// A fault that the server returned, on its way back to it.
struct Fault {
    int code;
};

void check(int code)
{
    if (code != RGUNICORN_OK) {
        throw Fault{code};
    }
}

class Greeter {
public:
    explicit Greeter(const rgunicorn_worker *worker) : greeting(view(rgunicorn_setting(worker, "greeting")))
    {
        if (greeting.empty()) {
            greeting = "Hello";
        }
        if (greeting.size() > 100) {
            throw std::invalid_argument("the setting 'greeting' has more than 100 octets; shorten it");
        }
    }

    void answer(rgunicorn_request *request, rgunicorn_response *response) const
    {
        auto path = view(rgunicorn_path(request));
        if (path == "/throw") {
            throw std::runtime_error("hello-cpp: asked to throw");
        }
        if (path == "/throw-number") {
            throw 42;
        }
        auto body = greeting + " from " + std::string(path) + "\n";
        static const rgunicorn_field fields[] = {RGUNICORN_FIELD("Content-Type", "text/plain")};
        check(rgunicorn_respond(response, 200, fields, 1, body.data(), body.size()));
    }

private:
    std::string greeting;
};

// Runs `call`; what it throws is given to `fail` as a sentence, or is the server's own fault and returned.
template <typename Call, typename Fail> int guarded(Call call, Fail fail) noexcept
{
    try {
        call();
        return RGUNICORN_OK;
    } catch (const Fault &fault) {
        return fault.code;
    } catch (const std::exception &error) {
        return fail(error.what());
    } catch (...) {
        return fail("an exception that is no std::exception");
    }
}

int create(const rgunicorn_worker *worker, void **self)
{
    return guarded([&] { *self = std::make_unique<Greeter>(worker).release(); },
                   [&](const char *why) { return rgunicorn_refuse(worker, why); });
}

int handle(void *self, rgunicorn_request *request, rgunicorn_response *response)
{
    return guarded([&] { static_cast<const Greeter *>(self)->answer(request, response); },
                   [&](const char *why) { return rgunicorn_fail(response, why); });
}

void destroy(void *self)
{
    delete static_cast<Greeter *>(self);
}

const rgunicorn_app app = {sizeof(rgunicorn_app), 0,       create,  nullptr, nullptr, handle,
                           nullptr,               nullptr, destroy, nullptr};

} // namespace

#define APPS(ENTRY) ENTRY("app", BLOCKING, app)
RGUNICORN_EXPORT("hello-cpp", "0.1.0", APPS)
