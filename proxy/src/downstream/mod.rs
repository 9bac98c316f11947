//! A connection arrives.
//!
//! * [`accept`]: sockets, and which worker gets a connection.
//! * [`detect`]: HTTP/1.1 or HTTP/2, by the first bytes.
//! * [`http`]: requests one after another into [`crate::request`].
//! * [`tcp`]: bytes both ways.
//! * [`upgrade`]: a request that becomes a byte stream.
//! * [`life`]: how long a caller may keep us waiting.

pub mod accept;
mod detect;
mod http;
mod life;
mod tcp;
pub mod upgrade;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::state::snapshot::Handler;
use crate::worker::{ConnectionCount, ListenerHandle, Worker};

pub use life::Life;

/// A caller that vanished without a word is noticed after two minutes, by the kernel: that costs nothing per request,
/// unlike pings.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(20)).with_retries(3);

/// What all requests of a connection share.
#[derive(Debug)]
pub struct Connection {
    /// Its worker.
    pub worker: Rc<Worker>,
    /// The listener it came in by.
    pub listener: Rc<ListenerHandle>,
    /// Who called.
    pub peer: SocketAddr,
    /// What it called.
    pub local: SocketAddr,
    /// In which phase it is.
    pub life: Rc<Life>,
}

/// Serves one connection to its end.
pub async fn serve(
    worker: Rc<Worker>,
    listener: Rc<ListenerHandle>,
    stream: TcpStream,
    peer: SocketAddr,
    counted: ConnectionCount,
) {
    let set_up = || {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
        stream.local_addr()
    };
    let local = match set_up() {
        Ok(local) => local,
        Err(error) => {
            tracing::debug!(%peer, %error, "the caller is gone already");
            return;
        }
    };
    let is_http = matches!(listener.view().listener.handler, Handler::Http(_));
    let life = worker.watch(Rc::new(Life::new(worker.stats.clone())));
    let connection = Rc::new(Connection { worker, listener, peer, local, life });
    if is_http {
        http::serve(connection, stream).await;
    } else {
        tcp::serve(&connection, stream).await;
    }
    drop(counted);
}

/// Ready when the process or the listener drains.
async fn draining(connection: &Connection) {
    let mut process = connection.worker.drain.clone();
    let mut listener = connection.listener.closing();
    // An error means that the sender is gone, which is the end as well.
    tokio::select! {
        _ = process.wait_for(|draining| *draining) => {}
        _ = listener.wait_for(|closing| *closing) => {}
    }
}
