//! Streams as queues: a task writes what a session gives it, another reads what the peer sends.

use bytes::Bytes;
use taimatsu_network::{FrameReader, FrameWriter};
use tokio::sync::mpsc;

/// Frames that may wait to be written to one stream. More than a lane's window of single steps
/// (512) and an answer's verdicts: whoever lets this much pile up does not read.
const WAITING_FRAMES: usize = 640;

/// The sending side of a stream, for a task that must never wait.
#[derive(Debug, Clone)]
pub(crate) struct FrameQueue(mpsc::Sender<Vec<u8>>);

/// The other side does not read, or is gone.
#[derive(Debug)]
pub(crate) struct NotRead;

impl FrameQueue {
    /// Writes queued frames until the queue's last clone is dropped or the stream breaks.
    pub(crate) fn over(mut writer: FrameWriter) -> Self {
        let (sender, mut frames) = mpsc::channel::<Vec<u8>>(WAITING_FRAMES);
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if writer.write(frame).await.is_err() {
                    return;
                }
            }
            let _ = writer.close().await;
        });
        Self(sender)
    }

    /// Queues a frame.
    pub(crate) fn send(&self, frame: Vec<u8>) -> Result<(), NotRead> {
        self.0.try_send(frame).map_err(|_| NotRead)
    }
}

/// Sends every frame of a stream, and then `None`, as events of a session. Stops when the session
/// does.
pub(crate) fn pump<E: Send + 'static>(
    mut reader: FrameReader,
    events: mpsc::Sender<E>,
    wrap: impl Fn(Option<Bytes>) -> E + Send + 'static,
) {
    tokio::spawn(async move {
        loop {
            // A reader that waits for ever would outlive its session.
            let frame = tokio::select! {
                frame = reader.read() => frame.ok().flatten(),
                () = events.closed() => return,
            };
            let last = frame.is_none();
            if events.send(wrap(frame)).await.is_err() || last {
                return;
            }
        }
    });
}
