/* Publishes the lines of standard input, each a JSON value, to a channel: publish PUSH-ENDPOINT CHANNEL */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "%s: %s\n", what, zmq_strerror(zmq_errno()));
        exit(2);
    }
}

static void use_keys(void *socket)
{
    const char *server = getenv("ZMQ_SERVER_KEY"), *public = getenv("ZMQ_PUBLIC_KEY"), *secret = getenv("ZMQ_SECRET_KEY");
    if (!server || !public || !secret)
        return;
    check(!zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, server, strlen(server)), "ZMQ_SERVER_KEY");
    check(!zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, public, strlen(public)), "ZMQ_PUBLIC_KEY");
    check(!zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret, strlen(secret)), "ZMQ_SECRET_KEY");
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: publish PUSH-ENDPOINT CHANNEL\n");
        return 2;
    }
    void *context = zmq_ctx_new();
    void *socket = zmq_socket(context, ZMQ_PUSH);
    use_keys(socket);
    check(!zmq_connect(socket, argv[1]), argv[1]);
    char *line = NULL;
    size_t size = 0;
    ssize_t length;
    while ((length = getline(&line, &size, stdin)) > 0) {
        if (line[length - 1] == '\n')
            length--;
        check(zmq_send(socket, argv[2], strlen(argv[2]), ZMQ_SNDMORE) >= 0, "send");
        check(zmq_send(socket, line, length, 0) >= 0, "send");
    }
    free(line);
    zmq_close(socket);
    zmq_ctx_term(context); /* waits until all is sent */
    return 0;
}
