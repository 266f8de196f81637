//! Prints what comes on channels, and says where messages are missing: subscribe ENDPOINT PREFIX COUNT

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::process::ExitCode;

use raiden_zmq_example::use_keys;

const IN_FORCE: &str = "-/in-force/1";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let [endpoint, prefix, count] = env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| "usage: subscribe ENDPOINT PREFIX COUNT")?;
    let count: u64 = count.parse()?;

    let socket = zmq::Context::new().socket(zmq::SUB)?;
    use_keys(&socket)?;
    socket.connect(&endpoint)?;
    socket.set_subscribe(prefix.as_bytes())?;
    socket.set_subscribe(IN_FORCE.as_bytes())?; // comes when both hold, and again after each reconnect

    let mut last: HashMap<String, String> = HashMap::new();
    let mut gaps = false;
    let mut received = 0;
    while count == 0 || received < count {
        let frames = socket.recv_multipart(0)?;
        let [channel, payload, cursor] = frames.as_slice() else {
            return Err("a message has three frames".into());
        };
        let (channel, cursor) = (std::str::from_utf8(channel)?, std::str::from_utf8(cursor)?);
        if channel == IN_FORCE {
            println!("ready");
            continue;
        }
        // An empty cursor is of a channel without history.
        if let Some((epoch, offset)) = split(cursor) {
            if let Some(before) = last.insert(channel.to_owned(), cursor.to_owned()) {
                match split(&before) {
                    Some((same, then)) if same == epoch => {
                        if offset > then + 1 {
                            eprintln!("gap: {channel} after {before}");
                            gaps = true;
                        }
                    }
                    _ => eprintln!("new epoch: {channel}"),
                }
            }
        }
        println!("{channel}\t{cursor}\t{}", String::from_utf8_lossy(payload));
        received += 1;
    }
    Ok(ExitCode::from(gaps as u8))
}

fn split(cursor: &str) -> Option<(&str, u64)> {
    let (epoch, offset) = cursor.split_once(':')?;
    Some((epoch, offset.parse().ok()?))
}
