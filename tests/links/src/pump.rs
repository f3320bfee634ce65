//! Moves frames between the router and the hosts' wires, on a thread of its own.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::sockopt::{RcvBuf, SndBuf};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeSpec;

use crate::packet;
use crate::router::{Port, Router};
use crate::wires::WireError;

/// The router's end of a wire.
pub(crate) struct Wire {
    socket: OwnedFd,
    address: Ipv4Addr,
    device: [u8; 6],
}

impl Wire {
    /// Reads and writes the frames of a device; `address` and `device` are those of the host
    /// behind it.
    pub(crate) fn open(name: &str, address: Ipv4Addr, device: [u8; 6]) -> Result<Self, WireError> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthIp)?;
        setsockopt(&socket, RcvBuf, &BUFFER)?;
        setsockopt(&socket, SndBuf, &BUFFER)?;
        let mut devices = getifaddrs()?.filter(|found| found.interface_name == name);
        let link = devices.find_map(|found| found.address?.as_link_addr().copied());
        let link = link.ok_or_else(|| io::Error::other(format!("there is no device {name}")))?;
        bind(socket.as_raw_fd(), &link)?;
        Ok(Self { socket, address, device })
    }
}

/// A burst of a whole queue; what the kernel allows if that is less.
const BUFFER: usize = 4 << 20;

/// More than a frame can have.
const FRAME: usize = 2_048;

/// Frames read from one wire before the others have their turn.
const BURST: usize = 64;

/// The thread, and what it shares. Stops when dropped.
pub(crate) struct Pump {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    over: AtomicBool,
}

struct State {
    router: Router,
    lateness: Lateness,
}

/// How late frames were handed over, beyond what their way said: the bench's own error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lateness {
    /// Of all together.
    pub sum: Duration,
    /// The worst.
    pub most: Duration,
    /// Frames that the kernel did not take.
    pub refused: u64,
}

impl Pump {
    /// Starts it: port n is wire n.
    pub(crate) fn start(wires: Vec<Wire>, router: Router) -> io::Result<Self> {
        let state = Mutex::new(State { router, lateness: Lateness::default() });
        let shared = Arc::new(Shared { state, over: AtomicBool::new(false) });
        let work = {
            let shared = Arc::clone(&shared);
            move || shared.run(&wires)
        };
        let thread = std::thread::Builder::new().name("router".into()).spawn(work)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Does something with the router.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Router) -> T) -> T {
        work(&mut self.shared.lock().router)
    }

    /// How late it was.
    pub(crate) fn lateness(&self) -> Lateness {
        self.shared.lock().lateness
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How long it sleeps at most: only then it notices that it is over.
const IDLE: Duration = Duration::from_millis(50);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, wires: &[Wire]) {
        let begun = Instant::now();
        let ports = wires.iter().enumerate().map(|(port, wire)| (wire.address, port)).collect();
        let mut buffer = vec![0; FRAME];
        while !self.over.load(Ordering::Relaxed) {
            let (full, sleep) = {
                let mut state = self.lock();
                let full = take(wires, &ports, &mut state.router, begun, &mut buffer);
                state.hand_over(wires, begun);
                let due = state.router.poll_timeout();
                (full, due.map_or(IDLE, |due| due.saturating_sub(begun.elapsed()).min(IDLE)))
            };
            if full {
                continue;
            }
            let polled =
                wires.iter().map(|wire| PollFd::new(wire.socket.as_fd(), PollFlags::POLLIN));
            let _ = ppoll(&mut polled.collect::<Vec<_>>(), Some(TimeSpec::from(sleep)), None);
        }
    }
}

/// Reads what came; whether there may be more.
fn take(
    wires: &[Wire],
    ports: &BTreeMap<Ipv4Addr, Port>,
    router: &mut Router,
    begun: Instant,
    buffer: &mut [u8],
) -> bool {
    let mut full = false;
    for (from, wire) in wires.iter().enumerate() {
        let mut read = 0;
        // Other errors pass: a device whose host has just gone says so.
        while read < BURST
            && let Ok(length) = recv(wire.socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC)
        {
            read += 1;
            let frame = buffer.get(..length);
            let to = frame.and_then(packet::addresses).and_then(|(_, to)| ports.get(&to));
            // Broadcasts and multicasts have no port: they do not cross a real router either.
            if let (Some(frame), Some(&to)) = (frame, to) {
                router.handle(begun.elapsed(), (from, to), frame.to_vec());
            }
        }
        full |= read == BURST;
    }
    full
}

impl State {
    /// Hands over what has arrived.
    fn hand_over(&mut self, wires: &[Wire], begun: Instant) {
        loop {
            let due = self.router.poll_timeout();
            let now = begun.elapsed();
            let Some((to, mut frame)) = self.router.poll_output(now) else { return };
            let late = now.saturating_sub(due.unwrap_or(now));
            self.lateness.sum += late;
            self.lateness.most = self.lateness.most.max(late);
            let wire = &wires[to];
            packet::deliver_to(&mut frame, wire.device);
            match send(wire.socket.as_raw_fd(), &frame, MsgFlags::empty()) {
                Ok(_) | Err(Errno::ENXIO | Errno::ENETDOWN) => {}
                Err(_) => self.lateness.refused += 1,
            }
        }
    }
}
