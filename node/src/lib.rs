//! The program taimatsu: CLI, HTTP API, and the driver that performs the peer's outputs.
