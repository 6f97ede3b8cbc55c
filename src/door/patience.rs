//! How long a client may take to read what it asked for. Knows nothing of requests.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How long a client may take for each [`WRITE_BYTES_MIN`] while more is there for it than it has read.
pub const WRITE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Bytes that a client must take within [`WRITE_WAIT_MAX`] while more is there for it: some 2 KiB a second, less than
/// any network that an agent is asked over gives. A client that has all that there is, as one that waits for a change
/// has, or a reader of events while there are none, owes nothing.
pub const WRITE_BYTES_MIN: u64 = 64 * 1024;

/// A stream that breaks once what is written stays where it is: a client that does not read, or reads so little that
/// it never ends, would hold its connection, and what is in its buffers, for ever.
pub(super) struct Impatient<S> {
    stream: S,
    /// Counts those that were let go.
    slow: Arc<AtomicU64>,
    /// From when a write had to wait until all is written.
    behind: Option<Behind>,
}

/// A client that has not read all yet.
struct Behind {
    until: Pin<Box<Sleep>>,
    /// Bytes that it took since this was last set.
    taken: u64,
}

impl<S> Impatient<S> {
    pub(super) fn new(stream: S, slow: Arc<AtomicU64>) -> Self {
        Self { stream, slow, behind: None }
    }

    /// What a write came to, or that its client is too slow.
    fn within(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = written {
            if let (Ok(bytes), Some(behind)) = (&result, &mut self.behind) {
                behind.taken += *bytes as u64;
            }
            return Poll::Ready(result);
        }
        let behind = self.behind.get_or_insert_with(|| Behind { until: Box::pin(sleep(WRITE_WAIT_MAX)), taken: 0 });
        loop {
            ready!(behind.until.as_mut().poll(context));
            if behind.taken < WRITE_BYTES_MIN {
                break;
            }
            behind.taken = 0;
            behind.until.as_mut().reset(Instant::now() + WRITE_WAIT_MAX);
        }
        self.slow.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.within(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.within(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // hyper and rustls flush only what they have written whole: the client is behind no more.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.behind = None;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
