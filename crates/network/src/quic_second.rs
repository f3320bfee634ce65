//! QUIC behind TCP: where both reach a peer, TCP wins.
//!
//! A loss on QUIC costs far more than on TCP with the kernel's congestion control, and QUIC sends
//! no reset when a process dies. So its dials wait a little, in the manner of happy eyeballs, and
//! are of use where TCP is blocked.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};

/// A transport whose dials begin [`HEAD_START`] late.
pub(crate) struct QuicSecond<T>(pub(crate) T);

impl<T> Transport for QuicSecond<T>
where
    T: Transport + Unpin,
    T::Dial: Send + 'static,
    T::Output: 'static,
    T::Error: 'static,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<T::Output, T::Error>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.0.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        // The inner future sends nothing before its first poll.
        let dial = self.0.dial(address, options)?;
        Ok(Box::pin(async move {
            tokio::time::sleep(HEAD_START).await;
            dial.await
        }))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// TCP's head start: two round trips of a middling path.
const HEAD_START: Duration = Duration::from_millis(200);
