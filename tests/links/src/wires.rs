//! Network namespaces, and the devices that lead out of them.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, new_connection};

/// Why a namespace has no device, or is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The kernel refused it.
    #[error(transparent)]
    System(#[from] nix::Error),
    /// A file, socket or thread is not to be had.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The kernel does not take a device's setting.
    #[error("the kernel refuses a device (are there veth pairs?)")]
    Netlink(#[from] rtnetlink::Error),
}

/// A network namespace. It lives as long as this value and the processes in it.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// A new one, with loopback.
    pub(crate) fn new() -> Result<Self, WireError> {
        apart(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            lift_loopback()?;
            Ok(Self(File::open("/proc/thread-self/ns/net")?))
        })
    }

    /// Does something in it, on a thread. Sockets and processes stay where they were made.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, WireError> {
        apart(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
    }

    /// Lays a wire from it to the namespace of this thread. Returns the name of its end here.
    pub(crate) fn wire(&self, number: u8) -> Result<String, WireError> {
        let (here, there) = (format!("port{number}"), format!("wan{number}"));
        talk(async |links| {
            links.link().add(LinkVeth::new(&here, &there).build()).execute().await?;
            let near = LinkUnspec::new_with_index(if_nametoindex(here.as_str())?).up();
            links.link().set(near.build()).execute().await?;
            let far = LinkUnspec::new_with_index(if_nametoindex(there.as_str())?);
            let far = far.setns_by_fd(self.0.as_raw_fd()).build();
            Ok(links.link().set(far).execute().await?)
        })?;
        self.within(|| talk(async |links| lift(&links, &there, number).await))??;
        Ok(here)
    }
}

/// The address of a host.
pub(crate) const fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

/// The device address of a host.
pub(crate) const fn device(number: u8) -> [u8; 6] {
    [0x02, 0, 0, 77, 0, number]
}

/// Every address but the loopback's is behind this one wire.
const PREFIX: u8 = 24;

async fn lift(links: &Handle, name: &str, number: u8) -> Result<(), WireError> {
    let index = if_nametoindex(name)?;
    // Nobody asks who has an address: the router knows. And each packet is a frame of its own, so
    // that each has its own fate.
    let set = LinkUnspec::new_with_index(index).address(device(number).to_vec()).arp(false);
    let set = set.append_extra_attribute(LinkAttribute::GsoMaxSegs(1)).build();
    links.link().set(set).execute().await?;
    links.address().add(index, address(number).into(), PREFIX).execute().await?;
    Ok(links.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?)
}

/// Lifts the loopback of this thread's namespace.
pub(crate) fn lift_loopback() -> Result<(), WireError> {
    talk(async |links| {
        let loopback = LinkUnspec::new_with_index(if_nametoindex("lo")?).up().build();
        Ok(links.link().set(loopback).execute().await?)
    })
}

/// Talks to the kernel about the devices of this thread's namespace.
fn talk<T>(work: impl AsyncFnOnce(Handle) -> Result<T, WireError>) -> Result<T, WireError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        work(handle).await
    })
}

/// On a thread of its own, which no namespace of this one's is lost to.
fn apart<T: Send>(work: impl FnOnce() -> Result<T, WireError> + Send) -> Result<T, WireError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
