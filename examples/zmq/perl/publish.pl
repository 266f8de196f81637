# Publishes the lines of standard input, each a JSON value, to a channel: publish.pl PUSH-ENDPOINT CHANNEL
use v5.20;
use warnings;
use ZMQ::FFI;
use ZMQ::FFI::Constants qw(ZMQ_PUSH ZMQ_CURVE_SERVERKEY ZMQ_CURVE_PUBLICKEY ZMQ_CURVE_SECRETKEY);

@ARGV == 2 or die "usage: publish.pl PUSH-ENDPOINT CHANNEL\n";
my ($endpoint, $channel) = @ARGV;

my $context = ZMQ::FFI->new;
my $socket = $context->socket(ZMQ_PUSH);
if (my $server_key = $ENV{ZMQ_SERVER_KEY}) {
    $socket->set(ZMQ_CURVE_SERVERKEY, string => $server_key);
    $socket->set(ZMQ_CURVE_PUBLICKEY, string => $ENV{ZMQ_PUBLIC_KEY});
    $socket->set(ZMQ_CURVE_SECRETKEY, string => $ENV{ZMQ_SECRET_KEY});
}
$socket->set_linger(-1);    # the library's default is 0: what is queued would be lost at the end
$socket->connect($endpoint);
while (my $line = <STDIN>) {
    chomp $line;
    $socket->send_multipart([$channel, $line]);
}
$socket->close;
$context->destroy;    # waits until all is sent
