/* sign: how a request to the HTTP API of a Pusher server is signed, with the libcrypto that is installed. */
#ifndef SIGN_H
#define SIGN_H
#include "wire.h"

/* Read KEY:SECRET of an app, or end with a message. */
void sign_by(const char *app);

/* Append the query of a POST with this body; `request` ends with the path, which begins at `path`. */
void append_signature(struct buffer *request, size_t path, const struct buffer *body);

#endif
