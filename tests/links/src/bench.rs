//! Hosts in namespaces of their own, and the ways between them.

use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use taimatsu_tests::program::command;
use taimatsu_tests::swarm::{self, Member};

use crate::path::Link;
use crate::pump::{Lateness, Pump, Wire};
use crate::router::{Counts, Port, Router};
use crate::setting::Setting;
use crate::wires::{Namespace, WireError, address, device};

/// Why there is no bench.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The router has no namespace.
    #[error("the router has no namespace")]
    Middle(#[source] WireError),
    /// A host has no wire.
    #[error("host {host} has no wire")]
    Wire {
        /// Which.
        host: String,
        /// Why.
        source: WireError,
    },
    /// There are more than addresses.
    #[error("{0} hosts; {MOST_HOSTS} are possible")]
    TooMany(usize),
    /// The router cannot start.
    #[error("the router cannot start")]
    Router(#[source] io::Error),
}

/// Host numbers are the last byte of addresses.
const MOST_HOSTS: usize = 200;

/// Hosts, and the router between them. All of it ends with this value.
pub struct Bench {
    pump: Pump,
    hosts: Vec<Place>,
    root: PathBuf,
}

struct Place {
    name: String,
    namespace: Namespace,
    number: u8,
}

/// One of the hosts.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    bench: &'a Bench,
    place: &'a Place,
}

impl Bench {
    /// These hosts, as far from each other as the setting says. The process has come in by
    /// [`crate::enter`]; `root` is [`crate::Inside::root`].
    ///
    /// # Errors
    /// The kernel gives no namespace or no device.
    pub fn start(setting: Setting, hosts: &[&str], root: &Path) -> Result<Self, BenchError> {
        if hosts.len() > MOST_HOSTS {
            return Err(BenchError::TooMany(hosts.len()));
        }
        let (mut places, mut wires) = (Vec::new(), Vec::new());
        // The router's own: the kernel is in no hurry to remove the devices of another bench.
        let middle = Namespace::new().map_err(BenchError::Middle)?;
        for (&name, number) in hosts.iter().zip(1..) {
            let settled = middle.within(|| settle(name, number)).flatten();
            let (place, wire) =
                settled.map_err(|source| BenchError::Wire { host: name.to_owned(), source })?;
            places.push(place);
            wires.push(wire);
        }
        let all = 0..hosts.len();
        let ways = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
        let ways = ways.filter(|(from, to)| from != to);
        let ways = ways.map(|(from, to)| ((from, to), setting.way(hosts[from], hosts[to])));
        let pump = Pump::start(wires, Router::new(ways, SEED)).map_err(BenchError::Router)?;
        Ok(Self { pump, hosts: places, root: root.to_owned() })
    }

    /// A host by its name.
    ///
    /// # Panics
    /// There is none of this name.
    #[must_use]
    pub fn host(&self, name: &str) -> Host<'_> {
        Host { bench: self, place: &self.hosts[self.port(name)] }
    }

    /// Cuts the way between two hosts, both directions. What is under way is lost.
    pub fn cut(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Cuts one direction alone: a half-open link.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        self.path(from, to, |path| path.cut(true));
    }

    /// Heals both directions.
    pub fn heal(&self, one: &str, other: &str) {
        self.path(one, other, |path| path.cut(false));
        self.path(other, one, |path| path.cut(false));
    }

    /// Both directions behave so from now on.
    pub fn change(&self, one: &str, other: &str, link: Link) {
        self.path(one, other, |path| path.change(link));
        self.path(other, one, |path| path.change(link));
    }

    /// How one direction behaves.
    #[must_use]
    pub fn way(&self, from: &str, to: &str) -> Link {
        self.path(from, to, |path| path.link())
    }

    /// What became of frames.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.pump.with(|router| router.counts())
    }

    /// How late the router was.
    #[must_use]
    pub fn lateness(&self) -> Lateness {
        self.pump.lateness()
    }

    fn port(&self, name: &str) -> Port {
        let port = self.hosts.iter().position(|place| place.name == name);
        port.unwrap_or_else(|| panic!("there is no host {name}"))
    }

    fn path<T>(&self, from: &str, to: &str, work: impl FnOnce(&mut crate::path::Path) -> T) -> T {
        let way = (self.port(from), self.port(to));
        let done = self.pump.with(|router| router.path(way).map(work));
        done.unwrap_or_else(|| panic!("there is no way from {from} to {to}"))
    }
}

/// One seed for all: a run differs from another by its timing only.
const SEED: u64 = 7;

fn settle(name: &str, number: u8) -> Result<(Place, Wire), WireError> {
    let namespace = Namespace::new()?;
    let end = namespace.wire(number)?;
    let wire = Wire::open(&end, address(number), device(number))?;
    Ok((Place { name: name.to_owned(), namespace, number }, wire))
}

impl Host<'_> {
    /// Its address.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        address(self.place.number)
    }

    /// Does something in its namespace, on a thread. Sockets and processes stay where they were
    /// made, so a socket can be used anywhere afterwards.
    ///
    /// # Panics
    /// The namespace cannot be entered, or `work` panics.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = self.place.namespace.within(work);
        done.unwrap_or_else(|error| panic!("within {}: {error}", self.place.name))
    }

    /// Starts a node of the demo's kind on it, with these arguments besides its address and home;
    /// returns when it is ready. Ask its API with [`Host::get`] and
    /// [`Host::post`]: only its own machine reaches it.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn member(&self, program: &Path, args: &[&str]) -> Member {
        let mut command = command(program);
        let address = self.address();
        command.args(["demo-node", "--offline", "--swarm", "links", "--api", "127.0.0.1:0"]);
        command.arg("--listen").arg(format!("/ip4/{address}/tcp/4801"));
        command.arg("--listen").arg(format!("/ip4/{address}/udp/4801/quic-v1"));
        command.arg("--home").arg(self.bench.root.join(&self.place.name)).args(args);
        self.within(move || Member::start(command))
    }

    /// Asks the API of a node that was started here for a page: the status, and the JSON that came.
    ///
    /// # Panics
    /// There is no answer, or it is not JSON.
    #[must_use]
    pub fn get(&self, node: &Member, path: &str) -> (u16, Value) {
        let api = node.api.as_str();
        self.within(|| swarm::get(api, path))
    }

    /// Sends a request to the API of a node that was started here; the reply is read as it comes.
    ///
    /// # Panics
    /// There is no answer.
    #[must_use]
    pub fn post(&self, node: &Member, path: &str, body: &Value) -> impl Read + use<> {
        let api = node.api.as_str();
        self.within(|| swarm::post(api, path, body.to_string()))
    }
}
