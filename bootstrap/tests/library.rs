//! A bootstrap node in this process: newcomers meet through it, and get nothing else from it.

#![allow(clippy::unwrap_used, reason = "a test may panic, and its helpers are no `#[test]`")]

use std::time::Duration;

use taimatsu_bootstrap::{Config, RunError, run};
use taimatsu_network::{
    AskError, Incoming, Limits, Multiaddr, Network, NetworkConfig, OpenError, ProviderKey,
    StartError, StreamKind, start,
};
use taimatsu_protocol::{ModelId, PeerId, SwarmId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

struct Bootstrap {
    addresses: Vec<Multiaddr>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), RunError>>,
}

async fn bootstrap(seed: u8, others: Vec<Multiaddr>) -> Bootstrap {
    let (stop, stopped) = oneshot::channel();
    let (tell, told) = oneshot::channel();
    let config = Config::new([seed; 32].into(), swarm())
        .listening(vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()])
        .knowing(others);
    let task = tokio::spawn(run(config, |addresses| drop(tell.send(addresses.to_vec())), async {
        drop(stopped.await)
    }));
    let addresses = timeout(LIMIT, told).await.unwrap().unwrap();
    Bootstrap { addresses, stop, task }
}

impl Bootstrap {
    fn peer(&self) -> PeerId {
        let text = self.addresses[0].to_string();
        text.rsplit_once("/p2p/").unwrap().1.parse().unwrap()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(LIMIT, self.task).await.unwrap().unwrap().unwrap();
    }
}

async fn node(seed: u8, bootstrap: Vec<Multiaddr>) -> (Network, mpsc::Receiver<Incoming>) {
    let config = NetworkConfig {
        secret: [seed; 32],
        swarm: swarm(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        bootstrap,
        remembered: Vec::new(),
        mdns: false,
        dht_server: true,
        limits: Limits::default(),
        tap: None,
    };
    start(config).await.unwrap()
}

fn swarm() -> SwarmId {
    SwarmId::named("bootstrap tests")
}

#[tokio::test]
async fn newcomers_meet_through_it_alone() {
    let first = bootstrap(1, Vec::new()).await;
    // The two are one DHT: the host knows one of them, the client the other.
    let second = bootstrap(2, first.addresses.clone()).await;
    let (host, mut arrivals) = node(3, first.addresses.clone()).await;
    host.joined().await.unwrap();
    let key = ProviderKey::for_group(swarm(), ModelId::of(b"m"), 0);
    host.provide(key).await.unwrap();

    let (client, _nothing) = node(4, second.addresses.clone()).await;
    client.joined().await.unwrap();
    let found = async {
        loop {
            let found = client.providers(key).await.unwrap();
            if !found.is_empty() {
                return found;
            }
            // The second may not have met the first yet, and says nothing when it has.
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(timeout(LIMIT, found).await.unwrap(), [host.peer_id()]);
    let (_reader, mut writer) = client.open(host.peer_id(), StreamKind::Link).await.unwrap();
    writer.write(b"met".to_vec()).await.unwrap();
    let arrival = timeout(LIMIT, arrivals.recv()).await.unwrap().unwrap();
    let Incoming::Stream { peer, mut reader, .. } = arrival else { panic!("{arrival:?}") };
    assert_eq!(peer, client.peer_id());
    assert_eq!(reader.read().await.unwrap().unwrap(), &b"met"[..]);
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn it_says_nothing_and_ends_when_told() {
    let bootstrap = bootstrap(5, Vec::new()).await;
    let (node, _nothing) = node(6, bootstrap.addresses.clone()).await;
    node.joined().await.unwrap();
    let peer = bootstrap.peer();
    // More than may wait, to see that none does.
    for _ in 0..2 * Limits::default().waiting {
        let refused = timeout(LIMIT, node.ask(peer, b"what have you".to_vec())).await.unwrap();
        assert!(matches!(
            refused,
            Err(AskError::NoAnswer { .. } | AskError::Peer(OpenError::Lost))
        ));
    }
    let (mut reader, _writer) = node.open(peer, StreamKind::Control).await.unwrap();
    let end = timeout(LIMIT, reader.read()).await.unwrap();
    assert!(matches!(end, Ok(None) | Err(_)), "{end:?}");
    bootstrap.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let bootstrap = bootstrap(7, Vec::new()).await;
    let mut taken = bootstrap.addresses[0].clone();
    taken.pop();
    let config = Config::new([8; 32].into(), swarm()).listening(vec![taken.clone()]);
    let error = run(config, |_| panic!("it listens"), std::future::pending()).await.unwrap_err();
    assert!(
        matches!(&error, RunError::Start(StartError::AddressInUse { address }) if *address == taken)
    );
    bootstrap.stop().await;
}
