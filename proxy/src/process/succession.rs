//! From one process to the next: what [`crate::handover`] agrees on is done here, on either side.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::downstream::accept::{self, AcceptorCommand, Door};
use crate::handover::{
    Asked, Claim, Gate, Giver, Hello, Inherited, Lock, OwnSockets, Ownership, Part, Taken, Taking, WireError,
};
use crate::stage::Stage;
use crate::xds::Pause;

use super::Proxy;
use super::ending::{Ending, QUIET};

/// For the newest state to reach the disk, and for the acceptor to copy its sockets.
const REST: Duration = Duration::from_secs(10);

/// What a process has of the one before, and keeps for the one after.
#[derive(Debug)]
pub(super) struct Succession {
    /// Whether connections are accepted.
    gate: watch::Sender<Gate>,
    /// The sockets for operators.
    pub(super) own: Rc<OwnSockets>,
    /// The sockets of listeners that are still to come.
    inherited: Inherited,
    /// Held for as long as the state directory is this process's.
    lock: Option<Lock>,
    /// Whether files are written there.
    pub(super) ownership: Ownership,
    giver: Giver,
    /// The line to the process before, until this one serves.
    taking: Option<Taking>,
    pauses: mpsc::Sender<Pause>,
    /// Lets the stream to the control plane go on when it is dropped.
    paused: Option<oneshot::Sender<()>>,
    /// Whether the next process serves.
    is_over: bool,
}

/// What was heard of the other process.
#[derive(Debug)]
pub(super) enum Heard {
    OfNext(Asked),
    OfBefore(Taken),
}

impl Succession {
    /// Begins with what was claimed; `pauses` lets the stream to the control plane rest.
    pub(super) fn new(claim: Claim, pauses: mpsc::Sender<Pause>) -> std::io::Result<Self> {
        let Claim { lock, door, mut inherited, taking } = claim;
        let gate = watch::Sender::new(if taking.is_some() { Gate::Shut } else { Gate::Open });
        let own = Rc::new(OwnSockets::new(&mut inherited, gate.subscribe()));
        let (ownership, giver) = (Ownership::default(), Giver::new(door)?);
        Ok(Self { gate, own, inherited, lock, ownership, giver, taking, pauses, paused: None, is_over: false })
    }

    pub(super) fn gate(&self) -> watch::Receiver<Gate> {
        self.gate.subscribe()
    }

    /// Whether the addresses of this process are the ones that count.
    pub(super) fn is_in_charge(&self) -> bool {
        *self.gate.borrow() == Gate::Open && self.ownership.is_ours()
    }

    /// Whether the next process serves.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether the process before still serves.
    pub(super) fn is_to_come(&self) -> bool {
        self.taking.is_some()
    }

    /// The socket of a listener: the one from the process before, else a new one.
    pub(super) fn socket(&mut self, door: &Door) -> std::io::Result<(SocketAddr, std::net::TcpListener)> {
        let socket = match self.inherited.take_listener(door) {
            Some(socket) => socket,
            None => accept::bind(door.1)?,
        };
        Ok((socket.local_addr()?, socket))
    }

    /// What is heard next; nothing is lost when it is given up while it waits.
    pub(super) async fn heard(&mut self) -> Heard {
        match &mut self.taking {
            Some(taking) => Heard::OfBefore(taking.next().await),
            None => Heard::OfNext(self.giver.next().await),
        }
    }

    /// Ends the stream to the control plane, and waits until what it brought is on disk.
    async fn pause(&mut self) {
        let ((rests, resting), (resume, resumed)) = (oneshot::channel(), oneshot::channel());
        // An error means that the rules come from files.
        if self.pauses.send(Pause { rests, resumed }).await.is_ok() {
            if timeout(REST, resting).await.is_err() {
                tracing::warn!("the newest state is not on disk in time; the new process begins with an older one");
            }
            self.paused = Some(resume);
        }
    }
}

impl Proxy {
    /// Does what the other process said; an error where this process has no reason to go on.
    pub(super) async fn succeed(&mut self, heard: Heard) -> anyhow::Result<()> {
        match heard {
            Heard::OfNext(Asked::ToTakeOver(hello)) => self.hand_over(hello).await,
            Heard::OfNext(Asked::ToServe) => {
                if let Err(error) = self.succession.giver.yields().await {
                    self.take_back(&error.to_string()).await;
                }
            }
            Heard::OfNext(Asked::Nothing) => self.leave().await,
            Heard::OfNext(Asked::Back(why)) => self.take_back(&why).await,
            Heard::OfBefore(Taken::Yours) => match self.succession.taking.take() {
                Some(taking) => match taking.serves().await {
                    Taken::Yours | Taken::Orphaned => self.serve_from_now_on(),
                    Taken::Back(why) => return Err(self.is_not_to_serve(&why)),
                },
                None => self.serve_from_now_on(),
            },
            Heard::OfBefore(Taken::Orphaned) => {
                tracing::warn!("the proxy before has ended without a word: all is this process's");
                self.succession.taking = None;
                self.serve_from_now_on();
            }
            Heard::OfBefore(Taken::Back(why)) => return Err(self.is_not_to_serve(&why)),
        }
        Ok(())
    }

    fn is_not_to_serve(&self, why: &str) -> anyhow::Error {
        let state = self.shared.why_not_ready().unwrap_or_else(|| "ready".to_owned());
        anyhow::anyhow!("the upgrade has failed, and the running proxy goes on: {why} (this process: {state})")
    }

    /// Offers everything to a new process, and rests: its stream, its files. Connections are accepted as before.
    async fn hand_over(&mut self, hello: Hello) {
        let objection = Giver::objection(&hello, &self.bootstrap.node.id());
        let ends = self.ending.is_some().then(|| "it is draining already".to_owned());
        if let Some(why) = ends.or(objection) {
            tracing::warn!(process = hello.process, "a new process may not take over: {why}");
            return self.succession.giver.refuse(why).await;
        }
        tracing::info!(process = hello.process, version = hello.version, "handing over to a new process");
        self.succession.pause().await;
        self.succession.ownership.set(false);
        let offered = match self.lend().await {
            Ok(sockets) => self.succession.giver.offer(sockets).await,
            Err(error) => Err(error),
        };
        if let Err(error) = offered {
            self.take_back(&error.to_string()).await;
        }
    }

    /// Copies of all descriptors that go over.
    async fn lend(&self) -> Result<Vec<(Part, OwnedFd)>, WireError> {
        let (lend, lent) = oneshot::channel();
        // An error means that the acceptor's thread has ended, which the process does not outlive.
        let _ = self.acceptor.send(AcceptorCommand::Lend(lend)).await;
        let lent = timeout(REST, lent).await.map_err(|_| WireError::Late)?.unwrap_or_default();
        let listeners = lent.into_iter().map(|((name, asked), socket)| (Part::Listener { name, asked }, socket));
        let mut sockets: Vec<_> = listeners.chain(self.succession.own.lend()?).collect();
        if let Some(lock) = &self.succession.lock {
            sockets.push((Part::Lock, lock.as_fd().try_clone_to_owned()?));
        }
        Ok(sockets)
    }

    /// The new process has failed: everything is as before.
    async fn take_back(&mut self, why: &str) {
        tracing::warn!("the upgrade has failed, and this process goes on: {why}");
        self.shared.telemetry.upgrade_failed();
        self.succession.giver.takes_back(why).await;
        self.succession.ownership.set(true);
        self.succession.paused = None;
        self.write_ports();
    }

    /// The new process serves: this one accepts no more, and ends when what it has is done.
    async fn leave(&mut self) {
        tracing::info!(limit = ?self.bootstrap.drain_after_upgrade, "the new process serves; draining");
        self.succession.is_over = true;
        self.succession.giver.is_done();
        self.succession.gate.send_replace(Gate::Gone);
        self.succession.own.forget();
        let doors: Vec<Door> = self.bound.drain().map(|(door, _)| door).collect();
        for door in doors {
            self.close(door).await;
        }
        // The new process holds it.
        self.succession.lock = None;
        self.shared.telemetry.drains();
        self.stage.send_replace(Stage::Draining);
        // Who was told to end meanwhile has no more time than it was given then.
        let told = self.ending.as_ref().map(|ending| ending.latest);
        let mut ending = Ending::new(Instant::now(), self.bootstrap.drain_after_upgrade, QUIET);
        ending.latest = told.map_or(ending.latest, |told| told.min(ending.latest));
        self.ending = Some(ending);
        self.looks = Some(tokio::time::Instant::now());
    }

    /// Tells the process before, if there is one, once this one could serve.
    pub(super) async fn tell_that_it_could_serve(&mut self) {
        if let Some(taking) = &mut self.succession.taking
            && self.shared.is_ready()
            && self.shared.keyring.why_not_ready().is_none()
        {
            taking.is_ready().await;
        }
    }

    fn serve_from_now_on(&mut self) {
        self.succession.gate.send_replace(Gate::Open);
        self.succession.inherited.clear();
        if let Some(lock) = &self.succession.lock {
            lock.note_holder();
        }
        self.write_ports();
        tracing::info!(process = std::process::id(), "took over: this process serves");
    }
}
