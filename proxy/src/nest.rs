//! The futures of one HTTP/2 connection, in one task.
//!
//! hyper wants an executor for the streams of a connection, and for the connection itself where it is a client. Handing
//! each to the runtime makes many tasks of one connection, and nobody can end them together. Here one task is one
//! connection: it polls its streams right after it has read them, and who ends it (a revoked peer) ends all of it. A
//! request costs the same either way, within what can be measured.
//!
//! ```text
//!  connection (slot 0) ──spawns──▶ streams (slots 1…)          one queue of slots that have been woken,
//!        ▲                              │                      emptied before the task yields
//!        └────────wakes to write────────┘
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

type Child = Pin<Box<dyn Future<Output = ()>>>;

/// Polls in one turn; then other tasks have theirs.
const TURN: usize = 512;

/// Where hyper spawns the futures of one connection. Cheap to clone.
#[derive(Clone, Default)]
pub struct Nest {
    /// Not polled yet.
    fresh: Rc<RefCell<VecDeque<Child>>>,
    /// Which stream is polled; 0: the connection.
    turn: Rc<Cell<u64>>,
}

impl Nest {
    /// Tells, while a stream is polled, which it is: a number for [`Nested::end`] that no other stream ever gets.
    pub fn turn(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.turn)
    }
}

impl std::fmt::Debug for Nest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nest").field("fresh", &self.fresh.borrow().len()).finish()
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Nest {
    fn execute(&self, future: F) {
        self.fresh.borrow_mut().push_back(Box::pin(future));
    }
}

/// A connection together with what it spawned.
pub struct Nested<C: Future> {
    nest: Nest,
    connection: Option<Pin<Box<C>>>,
    output: Option<C::Output>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// How many streams there have been.
    streams: u64,
    queue: Arc<Queue>,
    /// Streams outlive the connection's own future: a client's does not wait for answers.
    outlived: Cell<bool>,
}

struct Slot {
    child: Option<Child>,
    /// Which stream it is; 0: the connection.
    stream: u64,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Slots that have been woken, each once.
#[derive(Default)]
struct Queue {
    woken: Mutex<Vec<usize>>,
    task: AtomicWaker,
    /// The task is emptying the queue: nobody needs to wake it.
    busy: AtomicBool,
}

/// Wakes one slot.
struct Bell {
    queue: Arc<Queue>,
    slot: usize,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.queue.push(self.slot);
            if !self.queue.busy.load(Ordering::SeqCst) {
                self.queue.task.wake();
            }
        }
    }
}

impl Queue {
    fn push(&self, slot: usize) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
    }

    /// Takes all that have been woken, in order, into `taken`, which is empty.
    fn take(&self, taken: &mut Vec<usize>) {
        std::mem::swap(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner), taken);
    }
}

impl Slot {
    fn new(queue: &Arc<Queue>, slot: usize) -> Self {
        let bell = Arc::new(Bell { queue: Arc::clone(queue), slot, rung: AtomicBool::new(false) });
        Self { child: None, stream: 0, waker: Waker::from(Arc::clone(&bell)), bell }
    }
}

impl<C: Future> Nested<C> {
    /// Ends with the connection's own future; streams that are left are dropped.
    pub fn server(nest: Nest, connection: C) -> Self {
        Self::new(nest, connection, false)
    }

    /// Ends when the connection's own future and all that it spawned have ended.
    pub fn client(nest: Nest, connection: C) -> Self {
        Self::new(nest, connection, true)
    }

    fn new(nest: Nest, connection: C, outlived: bool) -> Self {
        let queue = Arc::new(Queue::default());
        let slots = vec![Slot::new(&queue, 0)];
        queue.push(0);
        let (connection, outlived) = (Some(Box::pin(connection)), Cell::new(outlived));
        Self { nest, connection, output: None, slots, free: Vec::new(), streams: 0, queue, outlived }
    }

    /// Does something to the connection, and has it polled.
    pub fn with(&mut self, change: impl FnOnce(Pin<&mut C>)) {
        if let Some(connection) = &mut self.connection {
            change(connection.as_mut());
            if let Some(own) = self.slots.first() {
                own.waker.wake_by_ref();
            }
        }
    }

    /// Ends one of the streams, if it has not ended: what it holds is dropped, and its peer hears a reset.
    pub fn end(&mut self, stream: u64) {
        let Some(index) = self.slots.iter().position(|slot| slot.stream == stream && slot.child.is_some()) else {
            return;
        };
        let child = self.slots.get_mut(index).and_then(|slot| slot.child.take());
        drop(child);
        self.free.push(index);
        self.with(|_| ());
    }

    fn poll_slot(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.bell.rung.store(false, Ordering::Release);
        self.nest.turn.set(slot.stream);
        let mut context = Context::from_waker(&slot.waker);
        if index > 0 {
            if slot.child.as_mut().is_some_and(|child| child.as_mut().poll(&mut context).is_ready()) {
                slot.child = None;
                self.free.push(index);
            }
        } else if let Some(connection) = &mut self.connection
            && let Poll::Ready(output) = connection.as_mut().poll(&mut context)
        {
            self.output = Some(output);
            self.connection = None;
        }
    }

    /// Gives what was spawned a slot and its first turn.
    fn settle(&mut self) {
        loop {
            let Some(child) = self.nest.fresh.borrow_mut().pop_front() else { return };
            let index = self.free.pop().unwrap_or_else(|| {
                self.slots.push(Slot::new(&self.queue, self.slots.len()));
                self.slots.len() - 1
            });
            if let Some(slot) = self.slots.get_mut(index) {
                self.streams += 1;
                (slot.child, slot.stream) = (Some(child), self.streams);
                // A bell that the last tenant's friends ring costs one poll.
                slot.bell.rung.store(true, Ordering::Release);
            }
            self.poll_slot(index);
        }
    }

    fn is_over(&self) -> bool {
        self.connection.is_none() && (!self.outlived.get() || self.free.len() + 1 == self.slots.len())
    }
}

impl<C: Future> Future for Nested<C>
where
    C::Output: Unpin,
{
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        this.queue.task.register(context.waker());
        this.queue.busy.store(true, Ordering::SeqCst);
        let mut woken = Vec::new();
        let mut polls = 0;
        loop {
            this.settle();
            this.queue.take(&mut woken);
            if woken.is_empty() {
                this.queue.busy.store(false, Ordering::SeqCst);
                // Somebody may have rung between the look and the store, and trusted that we are busy.
                this.queue.take(&mut woken);
                if woken.is_empty() {
                    break;
                }
                this.queue.busy.store(true, Ordering::SeqCst);
            }
            polls += woken.len();
            for index in woken.drain(..) {
                this.poll_slot(index);
                this.settle();
            }
            if this.is_over() {
                break;
            }
            if polls >= TURN {
                this.queue.busy.store(false, Ordering::SeqCst);
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        match this.is_over() {
            true => this.output.take().map_or(Poll::Pending, Poll::Ready),
            false => Poll::Pending,
        }
    }
}

impl<C: Future> Unpin for Nested<C> {}

impl<C: Future> std::fmt::Debug for Nested<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nested").field("streams", &(self.slots.len() - 1 - self.free.len())).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper::rt::Executor;
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// When to answer, and where to.
    type Work = (oneshot::Receiver<u32>, Rc<RefCell<Vec<u32>>>);

    /// A connection that spawns one child per message, which answers when it is told to.
    async fn connection(nest: Nest, mut work: mpsc::Receiver<Work>) {
        while let Some((told, answers)) = work.recv().await {
            nest.execute(async move {
                if let Ok(answer) = told.await {
                    answers.borrow_mut().push(answer);
                }
            });
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn children_run_in_the_task_of_their_connection_and_slots_are_used_again() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let answers = Rc::new(RefCell::new(Vec::new()));
                let (work, inbox) = mpsc::channel(16_384);
                let nest = Nest::default();
                let task = tokio::task::spawn_local(Nested::client(nest.clone(), connection(nest, inbox)));
                for round in 0..3_u32 {
                    let mut tellers = Vec::new();
                    for _ in 0..10 {
                        let (tell, told) = oneshot::channel();
                        assert!(work.try_send((told, Rc::clone(&answers))).is_ok());
                        tellers.push(tell);
                    }
                    tokio::task::yield_now().await;
                    for (number, tell) in (0..).zip(tellers) {
                        assert!(tell.send(round * 10 + number).is_ok());
                    }
                    while answers.borrow().len() < 10 * (round as usize + 1) {
                        tokio::task::yield_now().await;
                    }
                }
                drop(work);
                task.await.expect("ended");
                assert_eq!(answers.borrow().len(), 30);
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_clients_children_outlive_its_connection_and_a_servers_do_not() {
        let (tell, told) = oneshot::channel::<()>();
        let ended = Rc::new(Cell::new(false));
        let (nest, flag) = (Nest::default(), Rc::clone(&ended));
        nest.execute(async move {
            let _ = told.await;
            flag.set(true);
        });
        let mut client = Nested::client(nest, std::future::ready(()));
        poll_fn(|context| {
            assert!(Pin::new(&mut client).poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        assert!(tell.send(()).is_ok());
        client.await;
        assert!(ended.get());
        let nest = Nest::default();
        nest.execute(std::future::pending());
        Nested::server(nest, std::future::ready(())).await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_has_ended_is_not_mistaken_for_who_came_after() {
        let (nest, seen) = (Nest::default(), Rc::new(RefCell::new(Vec::new())));
        let stays = |nest: &Nest| {
            let (turn, seen) = (nest.turn(), Rc::clone(&seen));
            nest.execute(async move {
                seen.borrow_mut().push(turn.get());
                std::future::pending::<()>().await;
            });
        };
        let mut nested = Nested::client(nest.clone(), std::future::ready(()));
        let poll = async |nested: &mut Nested<_>| {
            poll_fn(|context| Poll::Ready(Pin::new(&mut *nested).poll(context).is_ready())).await
        };
        stays(&nest);
        assert!(!poll(&mut nested).await);
        nested.end(1);
        stays(&nest);
        // It has the slot of the one before.
        nested.slots.iter_mut().for_each(|slot| slot.waker.wake_by_ref());
        nested.settle();
        assert_eq!((seen.borrow().clone(), nested.slots.len()), (vec![1, 2], 2));
        nested.end(1);
        assert!(nested.slots[1].child.is_some(), "the first has ended long ago");
        nested.end(2);
        assert!(poll(&mut nested).await);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_child_that_never_rests_lets_others_have_their_turn() {
        let nest = Nest::default();
        nest.execute(async {
            loop {
                tokio::task::yield_now().await;
                poll_fn(|context| {
                    context.waker().wake_by_ref();
                    Poll::Ready(())
                })
                .await;
            }
        });
        let connection = async { tokio::time::sleep(std::time::Duration::from_millis(5)).await };
        Nested::server(nest, connection).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_from_another_thread_is_lost() {
        let rings = 10_000;
        let counting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async move {
                let (send, mut receive) = mpsc::channel(16_384);
                let ringing =
                    std::thread::spawn(move || (0..rings).for_each(|ring| assert!(send.try_send(ring).is_ok())));
                let nest = Nest::default();
                let counted = Rc::new(Cell::new(0));
                let count = Rc::clone(&counted);
                nest.execute(async move {
                    while receive.recv().await.is_some() {
                        count.set(count.get() + 1);
                    }
                });
                Nested::client(nest, std::future::ready(())).await;
                ringing.join().expect("rang");
                counted.get()
            })
        });
        assert_eq!(tokio::task::spawn_blocking(|| counting.join()).await.expect("joined").expect("counted"), rings);
    }
}
