//! Real swarms on loopback: every node here is what a process would run.

#![allow(clippy::unwrap_used, reason = "a test may panic, and its helpers are no `#[test]`")]

use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use taimatsu_network::{
    AskError, Direction, DiscoveryError, FrameError, FrameReader, FrameTap, FrameWriter, Incoming,
    Limits, Multiaddr, Network, NetworkConfig, OpenError, ProviderKey, StartError, StreamKind,
    start,
};
use taimatsu_protocol::{ModelId, PeerId, SwarmId};
use tokio::sync::mpsc::Receiver;

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

fn node(secret: u8, listen: &str, bootstrap: Vec<Multiaddr>) -> NetworkConfig {
    NetworkConfig {
        secret: [secret; 32],
        swarm: SwarmId::named("loopback"),
        listen: vec![listen.parse().unwrap()],
        bootstrap,
        remembered: Vec::new(),
        mdns: false,
        dht_server: true,
        limits: Limits::default(),
        tap: None,
    }
}

/// Everything here happens within a second; the bound only ends a test that hangs.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it hangs")
}

async fn stream(
    incoming: &mut Receiver<Incoming>,
) -> (PeerId, StreamKind, FrameReader, FrameWriter) {
    match soon(incoming.recv()).await.unwrap() {
        Incoming::Stream { peer, kind, reader, writer } => (peer, kind, *reader, writer),
        Incoming::Query { .. } => panic!("a stream was to come"),
    }
}

/// A host, and a client that knows the host as its bootstrap node.
async fn pair(listen: &str) -> (Network, Receiver<Incoming>, Network) {
    let (host, incoming) = start(node(1, listen, vec![])).await.unwrap();
    let (client, _) = start(node(2, listen, host.addresses().await)).await.unwrap();
    soon(client.joined()).await.unwrap();
    (host, incoming, client)
}

async fn exchange_over(listen: &str) {
    let (host, mut incoming, client) = pair(listen).await;
    for kind in [StreamKind::Control, StreamKind::Link] {
        let (mut reader, mut writer) = soon(client.open(host.peer_id(), kind)).await.unwrap();
        let writing = tokio::spawn(async move {
            writer.write(b"question").await.unwrap();
            writer.write(vec![3; kind.max_frame()]).await.unwrap();
            writer
        });
        let (peer, seen, mut theirs, mut back) = stream(&mut incoming).await;
        assert_eq!((peer, seen), (client.peer_id(), kind));
        assert_eq!(soon(theirs.read()).await.unwrap().unwrap(), &b"question"[..]);
        assert_eq!(soon(theirs.read()).await.unwrap().unwrap().len(), kind.max_frame());
        let _writer = soon(writing).await.unwrap();
        back.write(b"").await.unwrap();
        back.close().await.unwrap();
        assert_eq!(soon(reader.read()).await.unwrap().unwrap(), &b""[..]);
        assert!(soon(reader.read()).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn frames_travel_over_tcp() {
    exchange_over(TCP).await;
}

#[tokio::test]
async fn frames_travel_over_quic() {
    exchange_over(QUIC).await;
}

#[tokio::test]
async fn strangers_meet_through_a_bootstrap_node_alone() {
    let swarm = SwarmId::named("loopback");
    let (bootstrap, _) = start(node(1, TCP, vec![])).await.unwrap();
    let entry = bootstrap.addresses().await;
    let (host, mut incoming) = start(node(2, TCP, entry.clone())).await.unwrap();
    let mut asks_only = node(3, TCP, entry);
    asks_only.dht_server = false;
    let (client, _) = start(asks_only).await.unwrap();
    soon(host.joined()).await.unwrap();
    soon(client.joined()).await.unwrap();

    let key = ProviderKey::for_group(swarm, ModelId::of(b"a model"), 0);
    assert!(soon(client.providers(key)).await.unwrap().is_empty());
    soon(host.provide(key)).await.unwrap();
    assert_eq!(soon(client.providers(key)).await.unwrap(), [host.peer_id()]);
    assert!(soon(client.providers(ProviderKey::directory(swarm))).await.unwrap().is_empty());

    // No address of the host was ever given to the client.
    let (_reader, mut writer) =
        soon(client.open(host.peer_id(), StreamKind::Control)).await.unwrap();
    writer.write(b"hello").await.unwrap();
    let (peer, _, mut reader, _writer) = stream(&mut incoming).await;
    assert_eq!(peer, client.peer_id());
    assert_eq!(soon(reader.read()).await.unwrap().unwrap(), &b"hello"[..]);

    let status = bootstrap.status().await;
    assert_eq!(status.kept_records, 1);
    let status = client.status().await;
    assert!(status.bootstrap_reached && status.dht_peers >= 1);
    assert!(status.peers.iter().any(|status| status.peer == host.peer_id()));
}

#[tokio::test]
async fn a_peer_is_found_by_its_id_alone() {
    let (bootstrap, _) = start(node(1, TCP, vec![])).await.unwrap();
    let entry = bootstrap.addresses().await;
    let (host, _incoming) = start(node(2, TCP, entry.clone())).await.unwrap();
    let (client, _) = start(node(3, TCP, entry)).await.unwrap();
    soon(host.joined()).await.unwrap();
    soon(client.joined()).await.unwrap();
    // The host knows the bootstrap node; it may still have to hear of the host.
    let known = async { while bootstrap.status().await.dht_peers < 2 {} };
    soon(known).await;
    soon(client.open(host.peer_id(), StreamKind::Link)).await.unwrap();
}

#[tokio::test]
async fn a_host_may_start_before_its_bootstrap_node() {
    let (earlier, _) = start(node(1, TCP, vec![])).await.unwrap();
    let entry = earlier.addresses().await;
    earlier.shutdown().await;

    let key = ProviderKey::directory(SwarmId::named("loopback"));
    let (host, _incoming) = start(node(2, TCP, entry.clone())).await.unwrap();
    host.provide(key).await.unwrap();
    assert_eq!(host.providers(key).await, Err(DiscoveryError::Alone));

    let (bootstrap, _) = start(node(1, &without_peer(&entry[0]), vec![])).await.unwrap();
    soon(host.joined()).await.unwrap();
    let told = async {
        while bootstrap.providers(key).await.unwrap_or_default() != [host.peer_id()] {
            tokio::task::yield_now().await;
        }
    };
    soon(told).await;
}

#[tokio::test]
async fn what_is_announced_in_a_rush_is_announced_when_it_is_over() {
    let (host, _incoming, client) = pair(TCP).await;
    let swarm = SwarmId::named("loopback");
    let key = |group| ProviderKey::for_group(swarm, ModelId::of(b"a model"), group);
    // All are sent before any is awaited, so that the last finds the others under way.
    let rush = (0..400).map(|group| client.providers(key(group)));
    let (rush, refused) =
        soon(async { tokio::join!(futures::future::join_all(rush), client.provide(key(999))) })
            .await;
    assert!(rush.iter().any(Result::is_ok));
    assert_eq!(refused, Err(DiscoveryError::Busy));
    let told = async {
        while host.providers(key(999)).await.unwrap_or_default() != [client.peer_id()] {
            tokio::task::yield_now().await;
        }
    };
    soon(told).await;
}

fn without_peer(address: &Multiaddr) -> String {
    let text = address.to_string();
    text.split("/p2p/").next().unwrap().to_owned()
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    for listen in [TCP, QUIC] {
        let (first, _incoming) = start(node(1, listen, vec![])).await.unwrap();
        let taken = without_peer(&first.addresses().await[0]);
        match start(node(2, &taken, vec![])).await {
            Err(StartError::AddressInUse { address }) => assert_eq!(address.to_string(), taken),
            other => panic!("{taken} was to be in use: {:?}", other.map(|(network, _)| network)),
        }
    }
}

#[tokio::test]
async fn an_address_of_another_machine_is_refused() {
    let refused = start(node(1, "/ip4/192.0.2.1/tcp/7000", vec![])).await;
    assert!(matches!(refused, Err(StartError::Listen { .. })));
    let refused = start(node(1, "/memory/7", vec![])).await;
    assert!(matches!(refused, Err(StartError::Listen { .. })));
}

#[tokio::test]
async fn another_swarm_is_not_talked_to() {
    let (host, _incoming) = start(node(1, TCP, vec![])).await.unwrap();
    let mut foreign = node(2, TCP, host.addresses().await);
    foreign.swarm = SwarmId::named("elsewhere");
    let (client, _) = start(foreign).await.unwrap();

    // Whether the foreign peer is told so or cut off first is a race; it never gets a stream.
    let refused = soon(client.open(host.peer_id(), StreamKind::Control)).await.unwrap_err();
    assert!(!matches!(refused, OpenError::Myself | OpenError::Closed), "{refused}");
    assert!(soon(client.ask(host.peer_id(), vec![1])).await.is_err());
    assert!(!client.status().await.bootstrap_reached);
    assert_eq!((client.status().await.dht_peers, host.status().await.dht_peers), (0, 0));
}

/// Records what goes out, and flips the first bit of frames that begin with `flip`.
#[derive(Default)]
struct Ear(Mutex<Vec<Heard>>);

type Heard = (Direction, PeerId, StreamKind, Vec<u8>);

impl FrameTap for Ear {
    fn frame(&self, direction: Direction, peer: PeerId, kind: StreamKind, frame: &mut Vec<u8>) {
        self.0.lock().unwrap().push((direction, peer, kind, frame.clone()));
        if direction == Direction::Out && frame.starts_with(b"flip") {
            frame[0] ^= 1;
        }
        if frame.starts_with(b"swell") {
            frame.resize(kind.max_frame() + 1, 0);
        }
    }
}

#[tokio::test]
async fn a_tap_hears_every_frame_and_may_alter_it() {
    let (host, mut incoming) = start(node(1, TCP, vec![])).await.unwrap();
    let ear = Arc::new(Ear::default());
    let mut tapped = node(2, TCP, host.addresses().await);
    tapped.tap = Some(ear.clone());
    let (client, _) = start(tapped).await.unwrap();
    soon(client.joined()).await.unwrap();

    let (mut reader, mut writer) =
        soon(client.open(host.peer_id(), StreamKind::Link)).await.unwrap();
    writer.write(b"as it is").await.unwrap();
    writer.write(b"flip me").await.unwrap();
    let (_, _, mut theirs, mut back) = stream(&mut incoming).await;
    assert_eq!(soon(theirs.read()).await.unwrap().unwrap(), &b"as it is"[..]);
    assert_eq!(soon(theirs.read()).await.unwrap().unwrap(), &b"glip me"[..]);
    back.write(b"and back").await.unwrap();
    soon(reader.read()).await.unwrap().unwrap();

    let swollen = writer.write(b"swell").await.unwrap_err();
    assert!(matches!(swollen, FrameError::TooLong { limit, .. } if limit == 8 << 20));

    let heard: Vec<_> = ear.0.lock().unwrap().iter().map(|h| (h.0, h.3.clone())).collect();
    assert_eq!(heard[0], (Direction::Out, b"as it is".to_vec()));
    assert_eq!(heard[1], (Direction::Out, b"flip me".to_vec()));
    assert_eq!(heard[2], (Direction::In, b"and back".to_vec()));
    assert_eq!(ear.0.lock().unwrap()[0].1, host.peer_id());
}

#[tokio::test]
async fn questions_are_answered_or_refused() {
    let (host, mut incoming, client) = pair(TCP).await;
    let answering = tokio::spawn(async move {
        while let Some(Incoming::Query { bytes, reply, .. }) = incoming.recv().await {
            match bytes.as_slice() {
                b"refuse" => drop(reply),
                b"large" => reply.send(vec![5; 32 << 20]).unwrap(),
                b"too large" => reply.send(vec![5; (32 << 20) + 1]).unwrap(),
                other => reply.send(other.to_vec()).unwrap(),
            }
        }
    });
    let ask = |query: &[u8]| soon(client.ask(host.peer_id(), query.to_vec()));
    assert_eq!(ask(b"echo").await.unwrap(), b"echo");
    assert_eq!(ask(&[9; 4096]).await.unwrap(), [9; 4096]);
    assert_eq!(ask(b"large").await.unwrap().len(), 32 << 20);
    assert!(matches!(ask(&[9; 4097]).await, Err(AskError::TooLong { limit: 4096, .. })));
    assert!(matches!(ask(b"refuse").await, Err(AskError::NoAnswer { .. })));
    assert!(matches!(ask(b"too large").await, Err(AskError::NoAnswer { .. })));
    assert_eq!(ask(b"still there").await.unwrap(), b"still there");
    let myself = client.ask(client.peer_id(), vec![]).await;
    assert_eq!(myself, Err(AskError::Peer(OpenError::Myself)));
    assert!(matches!(
        client.open(client.peer_id(), StreamKind::Link).await,
        Err(OpenError::Myself)
    ));
    answering.abort();
}

#[tokio::test]
async fn nobody_at_an_id_is_unreachable() {
    let (_host, _incoming, client) = pair(TCP).await;
    let nobody = PeerId::from_public_key([9; 32]);
    let refused = soon(client.open(nobody, StreamKind::Link)).await;
    assert!(matches!(refused, Err(OpenError::Unreachable { .. })), "{refused:?}");
}

#[test]
fn a_host_that_dies_is_noticed() {
    // A runtime of its own: dropping it is what a killed process looks like from outside.
    let process = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (host, mut incoming) = process.block_on(start(node(1, TCP, vec![]))).unwrap();
    let entry = process.block_on(host.addresses());
    let watcher = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    watcher.block_on(async {
        let (client, _) = start(node(2, TCP, entry)).await.unwrap();
        let (mut reader, mut writer) =
            soon(client.open(host.peer_id(), StreamKind::Link)).await.unwrap();
        writer.write(b"x").await.unwrap();
        let theirs = stream(&mut incoming).await;
        process.shutdown_background();
        drop(theirs);
        assert!(matches!(soon(reader.read()).await, Ok(None) | Err(_)));
        let broken = async { while writer.write(b"x").await.is_ok() {} };
        soon(broken).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_at_once_do_not_lock_up() {
    const FRAMES: usize = 20;
    let (host, mut incoming, client) = pair(TCP).await;
    let (reader, writer) = soon(client.open(host.peer_id(), StreamKind::Link)).await.unwrap();
    let (_, _, theirs, back) = stream(&mut incoming).await;
    let send = |mut writer: FrameWriter| async move {
        for _ in 0..FRAMES {
            writer.write(vec![7; 1 << 20]).await.unwrap();
        }
        writer
    };
    let receive = |mut reader: FrameReader| async move {
        for _ in 0..FRAMES {
            assert_eq!(reader.read().await.unwrap().unwrap().len(), 1 << 20);
        }
        reader
    };
    let sides = [tokio::spawn(send(writer)), tokio::spawn(send(back))];
    let ends = [tokio::spawn(receive(reader)), tokio::spawn(receive(theirs))];
    for end in ends {
        soon(end).await.unwrap();
    }
    for side in sides {
        soon(side).await.unwrap();
    }
}

#[tokio::test]
async fn streams_that_come_at_once_all_arrive() {
    const MANY: usize = 40;
    let (host, mut incoming, client) = pair(TCP).await;
    let opens = (0..MANY).map(|_| client.open(host.peer_id(), StreamKind::Control));
    let opened = soon(futures::future::join_all(opens)).await;
    assert!(opened.iter().all(Result::is_ok));
    for _ in 0..MANY {
        stream(&mut incoming).await;
    }
}

#[tokio::test]
async fn a_full_queue_drops_the_newest() {
    let mut busy = node(1, TCP, vec![]);
    busy.limits.waiting = 2;
    let (host, mut incoming) = start(busy).await.unwrap();
    let (client, _) = start(node(2, TCP, host.addresses().await)).await.unwrap();
    let mut streams = Vec::new();
    for n in 0..3_u8 {
        let (reader, mut writer) =
            soon(client.open(host.peer_id(), StreamKind::Control)).await.unwrap();
        let _ = writer.write([n]).await;
        streams.push((reader, writer));
    }
    let (mut dropped, _) = streams.pop().unwrap();
    assert!(matches!(soon(dropped.read()).await, Ok(None) | Err(_)));
    for n in 0..2_u8 {
        let (_, _, mut reader, _writer) = stream(&mut incoming).await;
        assert_eq!(soon(reader.read()).await.unwrap().unwrap(), [n][..]);
    }
}

#[tokio::test]
async fn a_network_ends_with_its_last_handle_or_by_word() {
    let (first, mut incoming) = start(node(1, TCP, vec![])).await.unwrap();
    drop(first);
    assert!(soon(incoming.recv()).await.is_none());

    let (second, mut incoming) = start(node(2, TCP, vec![])).await.unwrap();
    let other = second.clone();
    soon(second.shutdown()).await;
    assert!(soon(incoming.recv()).await.is_none());
    let peer = PeerId::from_public_key([9; 32]);
    assert!(matches!(other.open(peer, StreamKind::Link).await, Err(OpenError::Closed)));
    assert_eq!(other.joined().await, Err(DiscoveryError::Closed));
    assert!(other.addresses().await.is_empty());
}

#[tokio::test]
async fn an_unspecified_address_shows_as_those_of_the_interfaces() {
    let (node, _incoming) = start(node(1, "/ip4/0.0.0.0/tcp/0", vec![])).await.unwrap();
    let addresses = node.addresses().await;
    assert!(!addresses.is_empty());
    for address in addresses {
        let text = address.to_string();
        assert!(!text.contains("0.0.0.0") && text.ends_with(&node.peer_id().to_string()), "{text}");
    }
}

#[tokio::test]
async fn what_was_announced_is_told_by_others() {
    let (host, _incoming, client) = pair(TCP).await;
    soon(host.joined()).await.unwrap();
    let key = ProviderKey::trial(SwarmId::named("loopback"), [1; 32]);
    soon(client.provide(key)).await.unwrap();
    // From now on only the host knows of it.
    client.stop_providing(key).await;
    let config = NetworkConfig { dht_server: false, listen: vec![], ..node(3, TCP, vec![]) };
    let (asker, _) =
        start(NetworkConfig { bootstrap: client.addresses().await, ..config }).await.unwrap();
    soon(asker.joined()).await.unwrap();
    assert_eq!(soon(asker.providers(key)).await.unwrap(), [client.peer_id()]);
}

#[tokio::test]
async fn who_was_good_before_is_found_again_without_a_bootstrap_node() {
    let (host, _incoming, client) = pair(TCP).await;
    let known = loop {
        let status = client.status().await;
        let known = status.peers.iter().find(|peer| !peer.dialable.is_empty());
        if let Some(known) = known {
            break known.dialable.clone();
        }
        tokio::task::yield_now().await;
    };
    assert!(known[0].to_string().ends_with(&host.peer_id().to_string()), "{known:?}");
    client.shutdown().await;
    let nobody: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let config =
        NetworkConfig { remembered: [vec![nobody], known].concat(), ..node(2, TCP, vec![]) };
    let (client, _) = start(config).await.unwrap();
    soon(client.joined()).await.unwrap();
    let status = client.status().await;
    assert_eq!((status.bootstrap_addresses, status.bootstrap_reached), (0, false));
}

#[tokio::test]
async fn a_limited_writer_gives_all_that_it_has() {
    let (host, _) = start(node(1, TCP, vec![])).await.unwrap();
    let limits = Limits { upload_per_second: Some(256 << 10), ..Limits::default() };
    let config = NetworkConfig { limits, ..node(2, TCP, host.addresses().await) };
    let (client, mut incoming) = start(config).await.unwrap();
    soon(client.joined()).await.unwrap();
    soon(async {
        while host.status().await.peers.is_empty() {
            tokio::task::yield_now().await
        }
    })
    .await;
    let (mut reader, _writer) = soon(host.open(client.peer_id(), StreamKind::Link)).await.unwrap();
    let (_, _, _, mut writer) = stream(&mut incoming).await;
    let frame: Vec<u8> = (0..200_000_u32).map(|i| (i >> 3) as u8).collect();
    let sent = frame.clone();
    let writing = tokio::spawn(async move {
        for frame in [&sent[..], b"beat", &sent[..]] {
            writer.write(frame).await.unwrap();
        }
        writer
    });
    for expected in [&frame[..], b"beat", &frame[..]] {
        assert_eq!(soon(reader.read()).await.unwrap().unwrap(), expected);
    }
    drop(writing.await.unwrap());
    let status = client.status().await;
    assert!(status.uploaded >= 400_000, "{}", status.uploaded);
    assert!(status.upload_waits > 0, "the limit was felt");
    assert_eq!(host.status().await.upload_waits, 0);
}

/// Whether a datagram to a group comes back to this machine, over the interface that leads out of
/// it. Where it does not, nobody can be found by multicast.
fn multicast_works() -> bool {
    use std::net::{Ipv4Addr, UdpSocket};
    let group = Ipv4Addr::new(224, 0, 0, 252);
    let heard = || -> std::io::Result<bool> {
        let ear = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        ear.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?;
        ear.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mouth = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        mouth.send_to(b"anybody?", (group, ear.local_addr()?.port()))?;
        let (_, from) = ear.recv_from(&mut [0; 16])?;
        Ok(!from.ip().is_loopback())
    };
    heard().unwrap_or(false)
}

#[tokio::test]
async fn nodes_of_one_network_find_each_other_by_multicast() {
    let everywhere = "/ip4/0.0.0.0/tcp/0";
    let nearby = |secret| NetworkConfig { mdns: true, ..node(secret, everywhere, vec![]) };
    let (first, _) = start(nearby(1)).await.unwrap();
    let (second, _) = start(nearby(2)).await.unwrap();
    if multicast_works() {
        soon(second.joined()).await.unwrap();
        soon(first.joined()).await.unwrap();
    } else {
        // Then it is enough that they run.
        assert!(!first.addresses().await.is_empty());
    }
    first.shutdown().await;
    second.shutdown().await;
}
