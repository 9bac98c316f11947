//! What waits beside something else and hardly ever has anything to say.
//!
//! A connection that serves requests also waits to be told to end: by the process, by its listener, by a limit. And hyper
//! asks for bytes at every turn, nine times a request, of which two bring some. Polled each time, those waits cost more than
//! routing does. Here they are asked only after somebody has rung.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{AsyncRead, ReadBuf};

use crate::forwarding::forward_writes;

/// Polls its future once, and from then on only when that has been woken.
#[derive(Debug)]
pub struct Rarely<'a, F> {
    future: Pin<&'a mut F>,
    door: Door,
}

impl<'a, F: Future> Rarely<'a, F> {
    /// Of a future that its owner has pinned.
    pub fn new(future: Pin<&'a mut F>) -> Self {
        Self { future, door: Door::default() }
    }
}

impl<F: Future> Future for Rarely<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        match this.door.rung(context) {
            Some(waker) => this.future.as_mut().poll(&mut Context::from_waker(waker)),
            None => Poll::Pending,
        }
    }
}

/// A stream that had nothing to read is asked again only when it has been woken. Its writes go on as they are.
#[derive(Debug)]
pub struct RarelyRead<S> {
    stream: S,
    /// It had nothing the last time.
    is_empty: bool,
    door: Door,
}

impl<S> RarelyRead<S> {
    /// Not asked yet.
    pub fn new(stream: S) -> Self {
        Self { stream, is_empty: false, door: Door::default() }
    }

    /// The stream inside, which may have something to read afterwards.
    pub fn inside(&mut self) -> &mut S {
        self.is_empty = false;
        &mut self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RarelyRead<S> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let waker = match this.is_empty {
            true => this.door.rung(context),
            false => Some(this.door.opened(context)),
        };
        let Some(waker) = waker else { return Poll::Pending };
        let polled = Pin::new(&mut this.stream).poll_read(&mut Context::from_waker(waker), buffer);
        this.is_empty = polled.is_pending();
        polled
    }
}

forward_writes!(RarelyRead<S>, stream, S: tokio::io::AsyncWrite);

/// Where the bell hangs. One task at a time waits behind it.
#[derive(Debug, Default)]
struct Door(Option<(Arc<Bell>, Waker)>);

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl Door {
    /// What to ask with, if somebody has rung since the last time, or another task waits than then.
    fn rung(&mut self, context: &Context<'_>) -> Option<&Waker> {
        match &self.0 {
            Some((bell, _)) if bell.task.will_wake(context.waker()) && !bell.rung.load(Ordering::Acquire) => None,
            Some(_) | None => Some(self.opened(context)),
        }
    }

    /// What to ask with, whoever has rung: who rings from now on is heard.
    fn opened(&mut self, context: &Context<'_>) -> &Waker {
        if self.0.as_ref().is_some_and(|(bell, _)| !bell.task.will_wake(context.waker())) {
            self.0 = None;
        }
        let (bell, waker) = self.0.get_or_insert_with(|| {
            let bell = Arc::new(Bell { rung: AtomicBool::new(false), task: context.waker().clone() });
            (Arc::clone(&bell), Waker::from(bell))
        });
        // Before the question: whoever rings after the answer finds it unrung, and wakes the task.
        bell.rung.store(false, Ordering::Release);
        waker
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn it_is_asked_once_and_again_only_when_somebody_has_rung() {
        let asked = Cell::new(0);
        let (tell, mut told) = oneshot::channel::<u32>();
        let waiting = pin!(poll_fn(|context| {
            asked.set(asked.get() + 1);
            Pin::new(&mut told).poll(context)
        }));
        let mut rarely = Rarely::new(waiting);
        for _ in 0..10 {
            let polled = poll_fn(|context| Poll::Ready(Pin::new(&mut rarely).poll(context))).await;
            assert!(polled.is_pending());
        }
        assert_eq!(asked.get(), 1);
        tell.send(7).expect("somebody waits");
        assert_eq!((rarely.await, asked.get()), (Ok(7), 2));
    }

    /// Counts how often it is asked.
    struct Asked<S>(S, Cell<u32>);

    impl<S: AsyncRead + Unpin> AsyncRead for Asked<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.1.set(self.1.get() + 1);
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    async fn polled<S: AsyncRead + Unpin>(stream: &mut RarelyRead<S>) -> Poll<usize> {
        let mut room = [0; 4];
        poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut room);
            let polled = Pin::new(&mut *stream).poll_read(context, &mut buffer);
            Poll::Ready(polled.map(|read| read.map(|()| buffer.filled().len()).expect("no error")))
        })
        .await
    }

    #[tokio::test]
    async fn a_stream_that_had_nothing_is_asked_again_when_something_came_or_was_given_back() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut stream = RarelyRead::new(Asked(near, Cell::new(0)));
        for _ in 0..10 {
            assert!(polled(&mut stream).await.is_pending());
        }
        assert_eq!(stream.stream.1.get(), 1);
        far.write_all(b"sixsix").await.expect("room");
        assert_eq!(polled(&mut stream).await, Poll::Ready(4));
        assert_eq!(polled(&mut stream).await, Poll::Ready(2), "what is left is asked for though nobody has rung");
        assert!(polled(&mut stream).await.is_pending());
        assert_eq!(stream.stream.1.get(), 4);
        let _ = stream.inside();
        assert!(polled(&mut stream).await.is_pending());
        assert_eq!(stream.stream.1.get(), 5);
    }

    #[tokio::test]
    async fn another_task_that_reads_is_woken_in_place_of_the_one_before() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut stream = RarelyRead::new(near);
        assert!(polled(&mut stream).await.is_pending());
        let reading = tokio::spawn(async move {
            let mut read = [0; 2];
            stream.read_exact(&mut read).await.expect("both");
            read
        });
        tokio::task::yield_now().await;
        far.write_all(b"ok").await.expect("room");
        assert_eq!(&reading.await.expect("ended"), b"ok");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_rings_from_elsewhere_wakes_the_task_that_polled_last() {
        for _ in 0..1_000 {
            let (tell, told) = oneshot::channel::<()>();
            let telling = tokio::spawn(async move { tell.send(()) });
            let told = pin!(told);
            Rarely::new(told).await.expect("told");
            telling.await.expect("ended").expect("somebody waited");
        }
    }
}
