# Prints what comes on channels, and says where messages are missing: subscribe.pl ENDPOINT PREFIX COUNT
use v5.20;
use warnings;
use ZMQ::FFI;
use ZMQ::FFI::Constants qw(ZMQ_SUB ZMQ_CURVE_SERVERKEY ZMQ_CURVE_PUBLICKEY ZMQ_CURVE_SECRETKEY);

use constant IN_FORCE => '-/in-force/1';

@ARGV == 3 or die "usage: subscribe.pl ENDPOINT PREFIX COUNT\n";
my ($endpoint, $prefix, $count) = @ARGV;
STDOUT->autoflush(1);

my $context = ZMQ::FFI->new;    # its sockets are closed when it goes out of scope
my $socket = $context->socket(ZMQ_SUB);
if (my $server_key = $ENV{ZMQ_SERVER_KEY}) {
    $socket->set(ZMQ_CURVE_SERVERKEY, string => $server_key);
    $socket->set(ZMQ_CURVE_PUBLICKEY, string => $ENV{ZMQ_PUBLIC_KEY});
    $socket->set(ZMQ_CURVE_SECRETKEY, string => $ENV{ZMQ_SECRET_KEY});
}
$socket->connect($endpoint);
$socket->subscribe($prefix);
$socket->subscribe(IN_FORCE);    # comes when both subscriptions hold, and again after each reconnect

my (%last, $gaps);
my $received = 0;
while (!$count || $received < $count) {
    my ($channel, $payload, $cursor) = $socket->recv_multipart;
    if ($channel eq IN_FORCE) {
        say 'ready';
        next;
    }
    if (length $cursor) {    # the channel keeps a history
        my ($epoch, $offset) = split /:/, $cursor;
        my ($last_epoch, $last_offset) = split /:/, $last{$channel} // $cursor;
        if ($epoch ne $last_epoch) {
            warn "new epoch: $channel\n";
        } elsif ($offset > $last_offset + 1) {
            warn "gap: $channel after $last{$channel}\n";
            $gaps = 1;
        }
        $last{$channel} = $cursor;
    }
    say join "\t", $channel, $cursor, $payload;
    $received++;
}
exit($gaps ? 1 : 0);
