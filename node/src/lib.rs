//! The program taimatsu: CLI, HTTP API, and the driver that performs the peer's outputs.
//!
//! `cli` reads the command line; `node` puts a running node together: `driver` performs what
//! [`taimatsu_peer`] and its sessions decide, `swarm_engine` answers questions through it,
//! `api` offers these answers in OpenAI's shapes. A command that finds no node computes by
//! `local_engine`. Both engines turn a `question` into a `run` and an `answering` task; what an
//! asker sees is [`engine`]'s events, whoever computes.

mod answering;
mod api;
mod api_keys;
mod cli;
mod config;
mod demo;
mod doctor;
mod driver;
pub mod engine;
mod entropy;
pub mod failure;
mod good_peers;
mod home;
mod hub;
mod kept;
mod ledger;
mod library;
mod local;
mod local_engine;
mod logging;
mod memory;
pub mod node;
mod node_client;
mod ports;
mod question;
mod remembered;
mod run;
mod signals;
mod solo;
mod stages;
mod stderr;
mod stdout;
mod stopping;
mod swarm_engine;
mod swarm_map;
mod swarm_source;
mod text;
mod worker;

pub use cli::{main, main_with};
