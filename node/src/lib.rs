//! The program taimatsu: CLI, HTTP API, and the driver that performs the peer's outputs.
// Only what the API needs, until the branches meet.
#![allow(dead_code)]

mod api;
pub mod engine;
pub mod failure;
