//! A worker's side of its logs: lines that wait to be handed over.
//!
//! A line costs the worker its bytes and nothing else: they stand in a buffer of the worker's own, without a lock, until
//! there are 32 KiB of them or 25 ms have passed. Then the buffer goes to the sink's [`Writer`] as a whole.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use leno_config::ir::LogSink;
use tokio::sync::Notify;

use super::writer::{Batch, Hub, Writer};

/// Bytes that are handed over at once.
const BATCH: usize = 32 * 1024;
/// How long a line may wait.
const PATIENCE: Duration = Duration::from_millis(25);

/// The logs of one worker.
#[derive(Debug)]
pub struct Desks {
    hub: Arc<Hub>,
    open: RefCell<HashMap<LogSink, Weak<Desk>>>,
    /// There is a line that waits.
    waiting: Rc<Notify>,
}

/// Lines of one worker for one sink.
#[derive(Debug)]
pub struct Desk {
    writer: Arc<Writer>,
    batch: RefCell<Batch>,
    waiting: Rc<Notify>,
}

impl Desks {
    /// Nothing to log yet.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub, open: RefCell::default(), waiting: Rc::default() }
    }

    /// The desk for a sink: the one that is there already, so that lines stay in order. To be asked when a configuration
    /// is put in force, not for requests.
    pub fn at(&self, sink: &LogSink) -> Rc<Desk> {
        let mut open = self.open.borrow_mut();
        if let Some(desk) = open.get(sink).and_then(Weak::upgrade) {
            return desk;
        }
        open.retain(|_, desk| desk.strong_count() > 0);
        let (writer, waiting) = (self.hub.writer(sink), Rc::clone(&self.waiting));
        let desk = Rc::new(Desk { writer, batch: RefCell::default(), waiting });
        open.insert(sink.clone(), Rc::downgrade(&desk));
        desk
    }

    /// Of the machine.
    pub fn hostname(&self) -> &str {
        self.hub.hostname()
    }

    /// Hands over what waits, for as long as the worker runs.
    pub async fn keep_handing_over(&self) {
        loop {
            self.waiting.notified().await;
            tokio::time::sleep(PATIENCE).await;
            self.hand_over();
        }
    }

    /// Hands over what waits, now.
    pub fn hand_over(&self) {
        for desk in self.open.borrow().values().filter_map(Weak::upgrade) {
            desk.hand_over();
        }
    }
}

impl Desk {
    /// Takes one line, which `write` puts behind the others.
    pub fn write(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut batch = self.batch.borrow_mut();
        if batch.bytes.is_empty() {
            self.waiting.notify_one();
        }
        write(&mut batch.bytes);
        batch.lines += 1;
        if batch.bytes.len() >= BATCH {
            self.writer.take(std::mem::take(&mut *batch));
        }
    }

    fn hand_over(&self) {
        let batch = std::mem::take(&mut *self.batch.borrow_mut());
        if batch.lines > 0 {
            self.writer.take(batch);
        }
    }
}

impl Drop for Desk {
    /// A listener that is gone takes nothing with it.
    fn drop(&mut self) {
        self.hand_over();
    }
}
