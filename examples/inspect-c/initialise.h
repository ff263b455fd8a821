/*
 * What INSPECT_INIT makes the application do when it is created or started: `[probe-ok:][start:]MODE`.
 *
 * `probe-ok:` spares the probe, so that the fault is first met in a live worker; `start:` moves it from `create` to
 * `start`. The modes are in the README; anything else succeeds at once.
 */
#ifndef INSPECT_INITIALISE_H
#define INSPECT_INITIALISE_H

#include <rgunicorn.h>

enum moment { AT_CREATE, AT_START };

/* Does what the environment asks for at this moment; RGUNICORN_OK or a refusal. */
int initialise(enum moment moment, const rgunicorn_worker *worker);
/* Sleeps on this thread. */
void sleep_milliseconds(uint64_t milliseconds);

#endif
