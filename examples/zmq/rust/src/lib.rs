//! What both programs share.

use std::env;
use std::error::Error;

/// Encrypts the socket's connections if the environment has keys.
pub fn use_keys(socket: &zmq::Socket) -> Result<(), Box<dyn Error>> {
    if let Ok(key) = env::var("ZMQ_SERVER_KEY") {
        socket.set_curve_serverkey(&zmq::z85_decode(&key)?)?;
        socket.set_curve_publickey(&zmq::z85_decode(&env::var("ZMQ_PUBLIC_KEY")?)?)?;
        socket.set_curve_secretkey(&zmq::z85_decode(&env::var("ZMQ_SECRET_KEY")?)?)?;
    }
    Ok(())
}
