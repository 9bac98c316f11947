//! The running process: hears who wants to take over, and hands over step by step.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::time::{Instant, timeout, timeout_at};

use super::wire::{Channel, Hello, Message, PROTOCOL, Part, WireError};
use super::{READY_DEADLINE, WORD_DEADLINE};
use crate::version;

/// After an error of the socket, so that it does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// The running process's end.
#[derive(Debug)]
pub struct Giver {
    /// Where it is asked; `None`: it cannot be, or has handed over.
    door: Option<UnixListener>,
    /// With whom it talks: one at a time, the others wait.
    talk: Option<Talk>,
    /// For an answer that takes no work.
    pub(super) word: Duration,
    /// From the offer to `ready`.
    pub(super) ready: Duration,
}

#[derive(Debug)]
struct Talk {
    channel: Channel,
    step: Step,
    /// When it is over unless something is heard.
    deadline: Instant,
}

/// What is heard next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Hello,
    Ready,
    Serving,
}

/// What the new process wants.
#[derive(Debug)]
pub enum Asked {
    /// To take over: [`Giver::offer`] or [`Giver::refuse`].
    ToTakeOver(Hello),
    /// To serve: [`Giver::yields`].
    ToServe,
    /// Nothing more: it serves.
    Nothing,
    /// It is gone, late or mad; what it was offered is taken back.
    Back(String),
}

impl Giver {
    /// At the socket of the state directory, if there is one.
    pub fn new(door: Option<OwnedFd>) -> io::Result<Self> {
        let door = door.map(|door| UnixListener::from_std(door.into())).transpose()?;
        Ok(Self { door, talk: None, word: WORD_DEADLINE, ready: READY_DEADLINE })
    }

    /// What is asked next; never ready where nobody can ask. Nothing is lost when it is given up while it waits.
    pub async fn next(&mut self) -> Asked {
        loop {
            let Some(talk) = &mut self.talk else {
                let channel = accept(self.door.as_ref()).await;
                self.talk = Some(Talk { channel, step: Step::Hello, deadline: Instant::now() + self.word });
                continue;
            };
            let heard = timeout_at(talk.deadline, talk.channel.receive()).await.unwrap_or(Err(WireError::Late));
            match (talk.step, heard) {
                (Step::Hello, Ok((Message::Hello(hello), _))) => return Asked::ToTakeOver(hello),
                (Step::Ready, Ok((Message::Ready, _))) => return Asked::ToServe,
                (Step::Serving, Ok((Message::Serving, _))) => return Asked::Nothing,
                (Step::Hello, Ok(_)) => self.talk = None,
                (Step::Hello, Err(error)) => {
                    tracing::debug!(%error, "somebody has asked for nothing at the handover socket");
                    self.talk = None;
                }
                (Step::Ready | Step::Serving, Ok((message, _))) => {
                    return Asked::Back(format!("it said {message:?}, which makes no sense here"));
                }
                (Step::Ready | Step::Serving, Err(WireError::Late)) => {
                    return Asked::Back("it was not ready in time".to_owned());
                }
                (Step::Ready | Step::Serving, Err(error)) => return Asked::Back(error.to_string()),
            }
        }
    }

    /// Why a process may not take over from the proxy of `node`, if so.
    pub fn objection(hello: &Hello, node: &str) -> Option<String> {
        if hello.protocol != PROTOCOL {
            return Some(format!(
                "version {} speaks handover protocol {}, this one ({}) speaks {PROTOCOL}; restart instead of upgrading",
                hello.version,
                hello.protocol,
                version::SHORT
            ));
        }
        let is_other = hello.node != node;
        is_other.then(|| {
            format!("it is the proxy of node `{node}`, not of `{}`; each has a state directory of its own", hello.node)
        })
    }

    /// Says no.
    pub async fn refuse(&mut self, why: String) {
        if let Some(talk) = self.talk.take() {
            // Who does not listen needs no answer.
            let _ = timeout(self.word, talk.channel.send(&Message::Refused(why), &[])).await;
        }
    }

    /// Hands over descriptors, and the door itself with them.
    pub async fn offer(&mut self, mut sockets: Vec<(Part, OwnedFd)>) -> Result<(), WireError> {
        let (Some(talk), Some(door)) = (&mut self.talk, &self.door) else { return Err(WireError::Gone) };
        sockets.push((Part::Door, door.as_fd().try_clone_to_owned()?));
        timeout(self.word, talk.channel.send_sockets(&sockets)).await.map_err(|_| WireError::Late)??;
        (talk.step, talk.deadline) = (Step::Ready, Instant::now() + self.ready);
        Ok(())
    }

    /// Lets the new process serve.
    pub async fn yields(&mut self) -> Result<(), WireError> {
        let Some(talk) = &mut self.talk else { return Err(WireError::Gone) };
        timeout(self.word, talk.channel.send(&Message::Yours, &[])).await.map_err(|_| WireError::Late)??;
        (talk.step, talk.deadline) = (Step::Serving, Instant::now() + self.word);
        Ok(())
    }

    /// Says that this process goes on by itself.
    pub async fn takes_back(&mut self, why: &str) {
        if let Some(talk) = self.talk.take() {
            // Who is gone needs no answer.
            let _ = timeout(self.word, talk.channel.send(&Message::TakenBack(why.to_owned()), &[])).await;
        }
    }

    /// There is nothing left to give.
    pub fn is_done(&mut self) {
        (self.door, self.talk) = (None, None);
    }
}

async fn accept(door: Option<&UnixListener>) -> Channel {
    let Some(door) = door else { return std::future::pending().await };
    loop {
        match door.accept().await.map_err(WireError::Io).and_then(|(socket, _)| Channel::new(socket)) {
            Ok(channel) => return channel,
            Err(error) => {
                tracing::warn!(%error, "somebody at the handover socket is not listened to");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
