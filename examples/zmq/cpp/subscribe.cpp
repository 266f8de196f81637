// Prints what comes on channels, and says where messages are missing: subscribe ENDPOINT PREFIX COUNT
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <vector>
#include <zmq_addon.hpp>

const std::string IN_FORCE = "-/in-force/1";

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
    if (argc != 4) {
        std::cerr << "usage: subscribe ENDPOINT PREFIX COUNT\n";
        return 2;
    }
    const long count = std::stol(argv[3]);
    zmq::context_t context;
    zmq::socket_t socket(context, zmq::socket_type::sub);
    use_keys(socket);
    socket.connect(argv[1]);
    socket.set(zmq::sockopt::subscribe, argv[2]);
    socket.set(zmq::sockopt::subscribe, IN_FORCE); // comes when both hold, and again after each reconnect

    std::map<std::string, std::string> last;
    bool gaps = false;
    for (long received = 0; !count || received < count;) {
        std::vector<zmq::message_t> frames;
        (void)zmq::recv_multipart(socket, std::back_inserter(frames));
        const std::string channel = frames.at(0).to_string(), payload = frames.at(1).to_string();
        const std::string cursor = frames.at(2).to_string();
        if (channel == IN_FORCE) {
            std::cout << "ready" << std::endl;
            continue;
        }
        if (!cursor.empty()) { // the channel keeps a history
            const auto [known, is_new] = last.try_emplace(channel, cursor);
            const auto colon = cursor.find(':');
            if (cursor.substr(0, colon) != known->second.substr(0, known->second.find(':'))) {
                std::cerr << "new epoch: " << channel << '\n';
            } else if (!is_new && std::stoll(cursor.substr(colon + 1)) > std::stoll(known->second.substr(colon + 1)) + 1) {
                std::cerr << "gap: " << channel << " after " << known->second << '\n';
                gaps = true;
            }
            known->second = cursor;
        }
        std::cout << channel << '\t' << cursor << '\t' << payload << std::endl;
        received++;
    }
    return gaps ? 1 : 0;
}
