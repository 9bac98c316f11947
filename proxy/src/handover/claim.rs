//! The new process: makes the state directory its own, or takes it over from the process that has it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::sockets::Inherited;
use super::wire::{Channel, Hello, MOST, Message, PROTOCOL, WireError};
use super::{LOCK, SOCKET, WORD_DEADLINE};
use crate::version;

/// From the hello to the last socket: another upgrade may be under way, and this one waits for its turn.
const OFFER_DEADLINE: Duration = Duration::from_secs(90);
/// New processes that wait for their turn.
const BACKLOG: i32 = 4;

/// Why this process may not start.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Somebody else has the directory.
    #[error("another proxy (process {holder}) runs with the state directory {directory}; give each a directory of its own, or take over from it with --upgrade", directory = .directory.display())]
    Held {
        /// The directory.
        directory: PathBuf,
        /// Its process, as it wrote down.
        holder: String,
    },
    /// The running one cannot be taken over from.
    #[error("cannot take over from the running proxy at {socket}; it goes on, and a restart needs it to end first", socket = .socket.display())]
    Refused {
        /// Its socket.
        socket: PathBuf,
        /// Why not.
        source: WireError,
    },
}

/// The lock of a state directory, for as long as it lives in any process.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Writes down, for people, that this process holds it; the lock itself is what counts.
    pub fn note_holder(&self) {
        let noted = self.0.set_len(0).and_then(|()| {
            // Not where the process before has stopped to write: it shares the place.
            self.0.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)
        });
        if let Err(error) = noted {
            tracing::debug!(%error, "cannot write down who holds the state directory");
        }
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What this process begins with.
#[derive(Debug, Default)]
pub struct Claim {
    /// The lock of the state directory, while it is held; `None`: there is no directory, or it cannot be locked.
    pub lock: Option<Lock>,
    /// Where the next process asks; `None`: it cannot.
    pub door: Option<OwnedFd>,
    /// What the process before has handed over.
    pub inherited: Inherited,
    /// The line to the process before, which still serves; `None`: there was none.
    pub taking: Option<Taking>,
}

/// Makes the directory this process's own; with `upgrade`, from the process that has it, if there is one. What fails for
/// want of permissions or room is said and done without, as everything in the state directory is.
pub async fn claim(directory: &Path, upgrade: bool, node: &str) -> Result<Claim, ClaimError> {
    let file = match open(directory) {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(%error, state = %directory.display(), "the state directory cannot be locked; nothing keeps two proxies apart in it, and no upgrade can take over from this one");
            return Ok(Claim::default());
        }
    };
    let lock = match file.try_lock() {
        Ok(()) => Some(Lock(file)),
        Err(TryLockError::WouldBlock) if upgrade => return take_over(directory, node).await,
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(directory.join(LOCK)).unwrap_or_default();
            return Err(ClaimError::Held { directory: directory.to_owned(), holder: holder.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%error, state = %directory.display(), "the state directory cannot be locked; nothing keeps two proxies apart in it");
            None
        }
    };
    if upgrade {
        tracing::info!("no proxy runs with this state directory: starting as without --upgrade");
    }
    if let Some(lock) = &lock {
        lock.note_holder();
    }
    let door = bind(&directory.join(SOCKET));
    let door = door.inspect_err(|error| {
        tracing::warn!(%error, state = %directory.display(), "cannot listen at {SOCKET}; no upgrade can take over from this proxy");
    });
    Ok(Claim { lock, door: door.ok(), ..Claim::default() })
}

fn open(directory: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // Not emptied: it says who holds it.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(directory.join(LOCK))
}

/// The socket for whoever comes next; what an ended process has left there is replaced, since the lock is ours.
fn bind(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = socket()?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Whoever slips in before this is asked for his user all the same.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn take_over(directory: &Path, node: &str) -> Result<Claim, ClaimError> {
    let path = directory.join(SOCKET);
    let asked = async {
        let socket = socket()?;
        // A Unix socket connects at once, or its queue is full.
        socket.connect(&SockAddr::unix(&path)?)?;
        let socket = std::os::unix::net::UnixStream::from(OwnedFd::from(socket));
        let channel = Channel::new(UnixStream::from_std(socket)?)?;
        let inherited = timeout(OFFER_DEADLINE, ask(&channel, node)).await.map_err(|_| WireError::Late)??;
        Ok((channel, inherited))
    };
    let (channel, mut inherited) =
        asked.await.map_err(|source| ClaimError::Refused { socket: path.clone(), source })?;
    tracing::info!(sockets = inherited.len(), "the running proxy has handed over its sockets and state files");
    let (lock, door) = (inherited.lock.take().map(|lock| Lock(lock.into())), inherited.door.take());
    Ok(Claim { lock, door, inherited, taking: Some(Taking { channel, has_asked: false }) })
}

/// Says hello and takes what is offered.
async fn ask(channel: &Channel, node: &str) -> Result<Inherited, WireError> {
    let (version, process) = (version::SHORT.to_owned(), std::process::id());
    let hello = Hello { protocol: PROTOCOL, version, node: node.to_owned(), process };
    channel.send(&Message::Hello(hello), &[]).await?;
    let mut inherited = Inherited::default();
    loop {
        let (parts, descriptors, last) = match channel.receive().await? {
            (Message::Sockets { parts, last }, descriptors) => (parts, descriptors, last),
            (Message::Refused(why) | Message::TakenBack(why), _) => return Err(WireError::Refused(why)),
            (message, _) => return Err(WireError::Unexpected(format!("{message:?} in place of sockets"))),
        };
        if parts.len() != descriptors.len() || inherited.len() > MOST {
            return Err(WireError::Unexpected(format!("{} sockets for {}", descriptors.len(), parts.len())));
        }
        for (part, descriptor) in parts.into_iter().zip(descriptors) {
            inherited.put(part, descriptor)?;
        }
        if last {
            return Ok(inherited);
        }
    }
}

/// The line to the process that still serves.
#[derive(Debug)]
pub struct Taking {
    channel: Channel,
    has_asked: bool,
}

/// What the process before says.
#[derive(Debug)]
pub enum Taken {
    /// This process is to serve.
    Yours,
    /// It is not: the one before goes on.
    Back(String),
    /// The one before is gone, and all is this process's.
    Orphaned,
}

impl Taking {
    /// Says, once, that this process could serve.
    pub async fn is_ready(&mut self) {
        if !std::mem::replace(&mut self.has_asked, true) {
            // Where that fails, the next look at the line says why.
            let _ = timeout(WORD_DEADLINE, self.channel.send(&Message::Ready, &[])).await;
        }
    }

    /// What the process before says next. Nothing is lost when it is given up while it waits.
    pub async fn next(&mut self) -> Taken {
        match self.channel.receive().await {
            Ok((Message::Yours, _)) if self.has_asked => Taken::Yours,
            Ok((Message::TakenBack(why), _)) => Taken::Back(why),
            Ok((message, _)) => Taken::Back(format!("it said {message:?}, which makes no sense here")),
            Err(WireError::Gone) => Taken::Orphaned,
            Err(error) => Taken::Back(error.to_string()),
        }
    }

    /// Says that this process serves, and hears whether it may: the process before closes the line when it has heard it, and
    /// takes back what it gave if it has waited for too long by then. [`Taken::Yours`], or [`Taken::Back`].
    pub async fn serves(self) -> Taken {
        // Where that fails, the line says why.
        let _ = timeout(WORD_DEADLINE, self.channel.send(&Message::Serving, &[])).await;
        match timeout(WORD_DEADLINE, self.channel.receive()).await {
            Ok(Ok((Message::TakenBack(why), _))) => Taken::Back(why),
            // It has heard it, or will never say anything again.
            Ok(Ok(_) | Err(_)) | Err(_) => Taken::Yours,
        }
    }
}
