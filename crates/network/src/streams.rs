//! Opening and accepting streams of frames, as a libp2p behaviour.
//!
//! libp2p-stream does the like, but drops an incoming stream when two come at once (its acceptor's
//! channel holds one), loses a dial when two are asked for at once, and picks a connection at
//! random. Here incoming streams go from the connection's own task straight into the bounded
//! [`Incoming`] queue, the event loop dials, and streams stay on a peer's first connection.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandler, ConnectionHandlerEvent, DialUpgradeError,
    FullyNegotiatedInbound, FullyNegotiatedOutbound, StreamUpgradeError, SubstreamProtocol,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, Stream, StreamProtocol};
use taimatsu_protocol::PeerId;
use tokio::sync::{mpsc, oneshot};

use crate::addresses::ours;
use crate::errors::OpenError;
use crate::event_loop::Incoming;
use crate::frames::{FrameReader, FrameTap, FrameWriter, StreamKind, Wire, split};
use crate::pace::Pace;

/// What an opening comes to.
pub(crate) type Opened = Result<(FrameReader, FrameWriter), OpenError>;

/// One stream to be opened, and who waits for it.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) kind: StreamKind,
    pub(crate) reply: oneshot::Sender<Opened>,
}

/// The behaviour: knows each peer's connections, and orders streams on them.
pub(crate) struct Streams {
    shared: Shared,
    connections: HashMap<libp2p::PeerId, Vec<ConnectionId>>,
    orders: VecDeque<(libp2p::PeerId, ConnectionId, Order)>,
}

impl Streams {
    pub(crate) fn new(
        protocol: impl Fn(StreamKind) -> StreamProtocol,
        incoming: mpsc::Sender<Incoming>,
        pace: Pace,
        tap: Option<Arc<dyn FrameTap>>,
    ) -> Self {
        let names = [StreamKind::Control, StreamKind::Link]
            .map(|kind| Name { kind, protocol: protocol(kind) });
        let shared = Shared { names, incoming, pace, tap };
        Self { shared, connections: HashMap::new(), orders: VecDeque::new() }
    }

    /// Opens a stream to a connected peer. The swarm is polled after every call of the event loop,
    /// so no waker is kept.
    pub(crate) fn open(&mut self, peer: libp2p::PeerId, order: Order) {
        if order.reply.is_closed() {
            return;
        }
        let connection = self.connections.get(&peer).and_then(|all| all.first());
        let refusal = match connection {
            None => OpenError::Lost,
            Some(_) if self.orders.len() >= MAX_ORDERS => OpenError::Busy,
            Some(connection) => return self.orders.push_back((peer, *connection, order)),
        };
        let _ = order.reply.send(Err(refusal));
    }

    fn handler(&self, peer: libp2p::PeerId) -> Result<Handler, ConnectionDenied> {
        let peer = ours(peer).ok_or_else(|| ConnectionDenied::new(ForeignKey))?;
        Ok(Handler { peer, shared: self.shared.clone(), orders: VecDeque::new() })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the peer's key is not ed25519, so it is no node of ours")]
struct ForeignKey;

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: libp2p::PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: libp2p::PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(new) => {
                self.connections.entry(new.peer_id).or_default().push(new.connection_id);
            }
            FromSwarm::ConnectionClosed(old) => {
                let Some(all) = self.connections.get_mut(&old.peer_id) else { return };
                all.retain(|connection| *connection != old.connection_id);
                if all.is_empty() {
                    self.connections.remove(&old.peer_id);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: libp2p::PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let Some((peer_id, connection, event)) = self.orders.pop_front() else {
            return Poll::Pending;
        };
        Poll::Ready(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection),
            event,
        })
    }
}

#[derive(Clone)]
struct Shared {
    names: [Name; 2],
    incoming: mpsc::Sender<Incoming>,
    pace: Pace,
    tap: Option<Arc<dyn FrameTap>>,
}

/// The streams of one connection.
pub(crate) struct Handler {
    peer: PeerId,
    shared: Shared,
    orders: VecDeque<Order>,
}

impl Handler {
    fn halves(&self, stream: Stream, kind: StreamKind) -> (FrameReader, FrameWriter) {
        let (pace, tap) = (self.shared.pace.clone(), self.shared.tap.clone());
        split(stream, pace, Wire { peer: self.peer, kind, tap })
    }

    fn accept(&self, stream: Stream, kind: StreamKind) {
        let (reader, writer) = self.halves(stream, kind);
        let reader = Box::new(reader);
        let incoming = Incoming::Stream { peer: self.peer, kind, reader, writer };
        if self.shared.incoming.try_send(incoming).is_err() {
            tracing::warn!(peer = %self.peer, ?kind, "too many streams wait; dropped the newest");
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Order;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = oneshot::Sender<Opened>;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(Offer(self.shared.names.to_vec()), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Offer, Self::OutboundOpenInfo, Infallible>> {
        // An order wakes the connection's task, which polls this after it.
        let Some(Order { kind, reply }) = self.orders.pop_front() else { return Poll::Pending };
        let names = self.shared.names.iter().filter(|name| name.kind == kind);
        let protocol = SubstreamProtocol::new(Offer(names.cloned().collect()), reply);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_behaviour_event(&mut self, order: Order) {
        if self.orders.len() < MAX_ORDERS {
            self.orders.push_back(order);
        } else {
            let _ = order.reply.send(Err(OpenError::Busy));
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Offer, Offer, (), Self::OutboundOpenInfo>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, kind),
                ..
            }) => self.accept(stream, kind),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, kind),
                info: reply,
            }) => {
                let _ = reply.send(Ok(self.halves(stream, kind)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info: reply }) => {
                let _ = reply.send(Err(match error {
                    StreamUpgradeError::Timeout => OpenError::Late,
                    StreamUpgradeError::NegotiationFailed => OpenError::NotSpoken,
                    StreamUpgradeError::Io(_) => OpenError::Lost,
                    StreamUpgradeError::Apply(never) => match never {},
                }));
            }
            _ => {}
        }
    }
}

/// The names that a substream may take.
pub(crate) struct Offer(Vec<Name>);

/// One of them, and what it stands for.
#[derive(Clone)]
pub(crate) struct Name {
    kind: StreamKind,
    protocol: StreamProtocol,
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.protocol.as_ref()
    }
}

impl UpgradeInfo for Offer {
    type Info = Name;
    type InfoIter = std::vec::IntoIter<Name>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamKind);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: Name) -> Self::Future {
        ready(Ok((stream, name.kind)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamKind);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: Name) -> Self::Future {
        ready(Ok((stream, name.kind)))
    }
}

/// Streams that wait to be opened, in the behaviour and on one connection. More are refused.
const MAX_ORDERS: usize = 256;
