//! The program `taimatsu-bootstrap`: prints where it can be dialled, an address a line on stdout,
//! and runs until it is told to stop.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use taimatsu_bootstrap::{Config, RunError, run};
use taimatsu_network::{Multiaddr, StartError};
use taimatsu_protocol::SwarmId;
use tracing_subscriber::EnvFilter;

mod key;

/// A bootstrap node of a Taimatsu swarm: discovery, no models, no say.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where to listen; may be given several times
    #[arg(
        long,
        value_name = "ADDR",
        env = "TAIMATSU_LISTEN",
        value_delimiter = ',',
        default_values = ["/ip4/0.0.0.0/tcp/4800", "/ip4/0.0.0.0/udp/4800/quic-v1"],
    )]
    listen: Vec<Multiaddr>,
    /// The node's key; drawn and written (mode 0600) where there is none
    #[arg(long, value_name = "FILE", env = "TAIMATSU_KEY", default_value = "bootstrap.key")]
    key: PathBuf,
    /// The swarm's name
    #[arg(long, value_name = "NAME", env = "TAIMATSU_SWARM", default_value = "public")]
    swarm: String,
    /// Another bootstrap node of the same swarm; may be given several times
    #[arg(long, value_name = "ADDR", env = "TAIMATSU_BOOTSTRAP", value_delimiter = ',')]
    bootstrap: Vec<Multiaddr>,
}

fn main() -> ExitCode {
    let log = EnvFilter::try_from_env("TAIMATSU_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(log)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    match serve(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit_code(&error)
        }
    }
}

fn serve(args: Args) -> anyhow::Result<()> {
    let secret = key::load_or_create(&args.key)?;
    let config = Config::new(secret, SwarmId::named(&args.swarm))
        .listening(args.listen)
        .knowing(args.bootstrap);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start; free some threads or memory")?;
    runtime.block_on(async { Ok(run(config, print, stop()?).await?) })
}

/// A reader that has gone is no reason to stop.
fn print(addresses: &[Multiaddr]) {
    let mut out = io::stdout().lock();
    for address in addresses {
        let _ = writeln!(out, "{address}");
    }
    let _ = out.flush();
}

/// Completes at Ctrl-C, and at SIGTERM where there is one; from now on neither kills.
fn stop() -> anyhow::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot hear Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot hear SIGTERM")?;
        Ok(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}

/// The exit codes of the program `taimatsu`: a port in use is a lack of resources.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref() {
        Some(RunError::Start(StartError::AddressInUse { .. })) => ExitCode::from(7),
        _ => ExitCode::FAILURE,
    }
}

/// Kademlia warns of knowing nobody, which is how every first node begins.
const LOG: &str = "warn,libp2p_kad=error";
