//! A future that waits beside another one and hardly ever has anything to say.
//!
//! A connection that serves requests also waits to be told to end: by the process, by its listener, by a limit. Polled
//! beside it, those waits are asked again whenever a byte moves, which costs more than routing does. [`Rarely`] asks only
//! after somebody has rung.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Polls its future once, and from then on only when that has been woken.
#[derive(Debug)]
pub struct Rarely<'a, F> {
    future: Pin<&'a mut F>,
    bell: Arc<Bell>,
    waker: Waker,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<'a, F: Future> Rarely<'a, F> {
    /// Of a future that its owner has pinned.
    pub fn new(future: Pin<&'a mut F>) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { future, waker: Waker::from(Arc::clone(&bell)), bell }
    }
}

impl<F: Future> Future for Rarely<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // In this order: who rings in between finds the task and wakes it.
        self.bell.task.register(context.waker());
        if !self.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.bell.rung.store(false, Ordering::Release);
        let this = &mut *self;
        this.future.as_mut().poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::pin;

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
