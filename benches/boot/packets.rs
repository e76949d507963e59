//! As much of GDB's remote protocol as is needed to time a packet without GDB: ask, and hear the answer.

use crate::Failure;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// A connection to a server, without acknowledgements.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects to HOST:PORT.
    pub fn open(address: &str) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut connection = Connection {
            stream: BufReader::new(stream),
        };
        connection.ask("qSupported:multiprocess+;swbreak+;hwbreak+")?;
        match connection.ask("QStartNoAckMode")?.as_str() {
            "OK" => {
                connection.stream.get_mut().write_all(b"+")?;
                Ok(connection)
            }
            other => Err(format!("QStartNoAckMode is answered with {other:?}").into()),
        }
    }

    /// Sends a packet and gives the answer.
    pub fn ask(&mut self, packet: &str) -> Result<String, Failure> {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        let framed = format!("${packet}#{sum:02x}");
        self.stream.get_mut().write_all(framed.as_bytes())?;
        // Acknowledgements may come before it.
        self.stream.skip_until(b'$')?;
        let mut answer = Vec::new();
        self.stream.read_until(b'#', &mut answer)?;
        if answer.pop() != Some(b'#') {
            return Err("the server has closed the connection".into());
        }
        self.stream.read_exact(&mut [0; 2])?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}
