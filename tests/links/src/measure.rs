//! What two hosts find the way between them to be, by sockets of their own.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::bench::Host;

/// What echoes said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Echo {
    /// The middle one of the round trips.
    pub median: Duration,
    /// 95 of 100 were no longer.
    pub p95: Duration,
    /// Share of echoes that never came.
    pub lost: f64,
}

/// Sends so many datagrams, this far apart, and waits for their echoes.
///
/// # Errors
/// A socket is not to be had, or no echo came.
pub fn echo(from: Host<'_>, to: Host<'_>, count: u32, apart: Duration) -> io::Result<Echo> {
    let here = from.within(|| UdpSocket::bind((from.address(), 0)))?;
    let there = to.within(|| UdpSocket::bind((to.address(), 0)))?;
    let ports = (here.local_addr()?, there.local_addr()?);
    there.set_read_timeout(Some(PATIENCE))?;
    here.set_read_timeout(Some(PATIENCE))?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while let Ok((length, back)) = there.recv_from(&mut buffer)
                && there.send_to(&buffer[..length], back).is_ok()
            {}
        });
        scope.spawn(|| {
            for number in 0..count {
                let due = apart * number;
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
                let sent = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let _ = here.send_to(&sent.to_be_bytes(), ports.1);
            }
        });
        let (mut round_trips, mut buffer) = (Vec::new(), [0; 8]);
        while round_trips.len() < count as usize && here.recv(&mut buffer).is_ok() {
            let sent = Duration::from_nanos(u64::from_be_bytes(buffer));
            round_trips.push(begun.elapsed().saturating_sub(sent));
        }
        summed_up(round_trips, count)
    })
}

/// More than any way here takes, waiting in queues included.
const PATIENCE: Duration = Duration::from_secs(1);

fn summed_up(mut round_trips: Vec<Duration>, sent: u32) -> io::Result<Echo> {
    round_trips.sort();
    let at = |percent: usize| round_trips.get(round_trips.len() * percent / 100).copied();
    let (Some(median), Some(p95)) = (at(50), at(95)) else {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no echo came"));
    };
    let lost = 1.0 - round_trips.len() as f64 / f64::from(sent);
    Ok(Echo { median, p95, lost })
}

/// Bits a second of payload that one TCP connection brings over in this time, its start included.
///
/// # Errors
/// There is no connection.
pub fn throughput(from: Host<'_>, to: Host<'_>, time: Duration) -> io::Result<f64> {
    let listener = to.within(|| TcpListener::bind((to.address(), 0)))?;
    let address: SocketAddr = listener.local_addr()?;
    let mut out = from.within(|| TcpStream::connect_timeout(&address, CONNECTS))?;
    let (mut into, _) = listener.accept()?;
    into.set_read_timeout(Some(CONNECTS))?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let block = vec![0x5a; 1 << 16];
            let _ = out.set_write_timeout(Some(CONNECTS));
            while begun.elapsed() < time && out.write_all(&block).is_ok() {}
        });
        let (mut bytes, mut buffer) = (0_u64, vec![0; 1 << 16]);
        let mut last = begun;
        while let Ok(length) = into.read(&mut buffer)
            && length > 0
        {
            bytes += length as u64;
            last = Instant::now();
        }
        Ok(bytes as f64 * 8.0 / (last - begun).as_secs_f64())
    })
}

/// A connection over the longest way, first packets lost, comes within this time.
const CONNECTS: Duration = Duration::from_secs(10);
