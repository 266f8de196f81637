// Publishes the lines of standard input, each a JSON value, to a channel: publish PUSH-ENDPOINT CHANNEL
#include <cstdlib>
#include <iostream>
#include <string>
#include <zmq.hpp>

static void use_keys(zmq::socket_t &socket)
{
    const char *server = std::getenv("ZMQ_SERVER_KEY");
    const char *public_key = std::getenv("ZMQ_PUBLIC_KEY");
    const char *secret = std::getenv("ZMQ_SECRET_KEY");
    if (!server || !public_key || !secret)
        return;
    socket.set(zmq::sockopt::curve_serverkey, server);
    socket.set(zmq::sockopt::curve_publickey, public_key);
    socket.set(zmq::sockopt::curve_secretkey, secret);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        std::cerr << "usage: publish PUSH-ENDPOINT CHANNEL\n";
        return 2;
    }
    const std::string channel = argv[2];
    zmq::context_t context; // its destructor waits until all is sent
    zmq::socket_t socket(context, zmq::socket_type::push);
    use_keys(socket);
    socket.connect(argv[1]);
    for (std::string line; std::getline(std::cin, line);) {
        socket.send(zmq::buffer(channel), zmq::send_flags::sndmore);
        socket.send(zmq::buffer(line), zmq::send_flags::none);
    }
}
