//! A bench of real links: real `taimatsu` processes as hosts with addresses of their own in network
//! namespaces, joined by one virtual router that gives each way between two of them a delay,
//! jitter, loss and rate, which can change while they run.
//!
//! ```no_run
//! use taimatsu_links::{Bench, Setting, enter};
//!
//! // First of all in `main`, before any thread: from here on this process is alone in namespaces
//! // of its own, which end with it, and with them whatever it started.
//! let inside = enter()?;
//! let program = std::path::Path::new("target/debug/taimatsu-under-test");
//! let mut bench = Bench::start(Setting::ThreeContinents, &["a", "b"], inside.root())?;
//! let host = bench.host("a").member(program, &["--serve", "smollm2:135m"]);
//! bench.cut("a", "b");
//! bench.heal("a", "b");
//! # drop(host);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What decides is pure: [`path`] (the fate of one packet), [`router`] (all packets under way),
//! [`packet`] (where a frame goes), [`setting`] (how far hosts are from each other). Around it,
//! `inside` makes the namespaces, `wires` the devices, `pump` moves frames, and [`Bench`] joins
//! them. The hosts' devices are veth pairs whose other ends the router reads through packet
//! sockets: other than TUN they need no device file, and so no right that an ordinary user in a
//! user namespace of his own has not got.

pub mod packet;
pub mod path;
pub mod router;
pub mod setting;

#[cfg(target_os = "linux")]
mod bench;
#[cfg(target_os = "linux")]
mod inside;
#[cfg(target_os = "linux")]
pub mod measure;
#[cfg(target_os = "linux")]
mod pump;
#[cfg(target_os = "linux")]
pub mod tasks;
#[cfg(target_os = "linux")]
mod wires;

#[cfg(target_os = "linux")]
pub use bench::{Bench, BenchError, Host};
#[cfg(target_os = "linux")]
pub use inside::{Inside, InsideError, enter};
pub use path::Link;
pub use setting::Setting;
