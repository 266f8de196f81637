//! Publishes the lines of standard input, each a JSON value, to a channel: publish PUSH-ENDPOINT CHANNEL

use std::env;
use std::error::Error;
use std::io;

use raiden_zmq_example::use_keys;

fn main() -> Result<(), Box<dyn Error>> {
    let [endpoint, channel] = env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| "usage: publish PUSH-ENDPOINT CHANNEL")?;

    let context = zmq::Context::new(); // when it is dropped, it waits until all is sent
    let socket = context.socket(zmq::PUSH)?;
    use_keys(&socket)?;
    socket.connect(&endpoint)?;
    for line in io::stdin().lines() {
        socket.send_multipart([channel.as_str(), line?.as_str()], 0)?;
    }
    Ok(())
}
