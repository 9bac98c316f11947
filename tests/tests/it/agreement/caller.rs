//! Who makes the requests, and keeps a count of his own.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};
use hyper::body::Frame;
use leno_tests::scripted::{Fleet, RUN, SCRIPT};
use leno_tests::{Call, Connection, PATIENCE, Protocol, Random, full, stream};

use super::kinds::{How, Order};

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What the caller saw of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    /// Which.
    pub(super) number: usize,
    /// 0: no answer's head.
    pub(super) code: u16,
    /// `grpc-status`, wherever it stood.
    pub(super) grpc: String,
    /// The letters of `x-leno-error`, which the first sidecar that had something to say wrote.
    pub(super) flag: String,
}

/// One caller: a connection of each protocol, kept as long as it is good.
pub(super) struct Caller {
    through: SocketAddr,
    fleet: Fleet,
    random: Random,
    connections: [Option<Connection>; 2],
}

impl Caller {
    pub(super) fn new(through: SocketAddr, fleet: &Fleet, random: Random) -> Self {
        Self { through, fleet: fleet.clone(), random, connections: [None, None] }
    }

    /// Makes these requests, one after the other.
    pub(super) async fn makes(mut self, orders: Vec<Order>) -> Vec<Heard> {
        let mut heard = Vec::with_capacity(orders.len());
        for order in orders {
            heard.push(self.make(order).await);
        }
        heard
    }

    async fn make(&mut self, order: Order) -> Heard {
        let protocol = match order.kind.how {
            How::Calls => Protocol::Http2,
            How::Asks | How::Tells | How::LeavesTelling | How::LeavesListening => *self.random.pick(&Protocol::ALL),
        };
        let call = request(order).over(protocol);
        let fleet = self.fleet.clone();
        let connection = self.connection(protocol).await;
        let heard = |code| Heard { number: order.number, code, grpc: String::new(), flag: String::new() };
        let heard = match order.kind.how {
            How::Asks | How::Tells | How::Calls => answered(order, connection, call).await,
            How::LeavesListening => {
                let response = connection.begin(call).await.unwrap_or_else(|why| panic!("{why}"));
                // The rest of the body is never asked for: the connection, or the stream, is given up.
                Ok(heard(response.status().as_u16()))
            }
            How::LeavesTelling => {
                leaves_telling(order, connection, call, &fleet).await;
                Err(heard(0))
            }
        };
        let broke_off = heard.is_err() || order.kind.how == How::LeavesListening;
        if protocol == Protocol::Http1 && broke_off {
            // It is about to be closed.
            self.connections[place(protocol)] = None;
        }
        heard.unwrap_or_else(|heard| heard)
    }

    async fn connection(&mut self, protocol: Protocol) -> &mut Connection {
        let slot = &mut self.connections[place(protocol)];
        if !slot.as_ref().is_some_and(Connection::is_open) {
            *slot = None;
        }
        match slot {
            Some(connection) => connection,
            None => slot.insert(Connection::open(self.through, protocol).await),
        }
    }
}

/// Where a caller keeps its connection.
fn place(protocol: Protocol) -> usize {
    usize::from(protocol == Protocol::Http2)
}

fn request(order: Order) -> Call {
    let (host, method) = match order.kind.how {
        How::Calls => ("greeter", Method::POST),
        How::Asks | How::LeavesListening => ("shop", Method::GET),
        How::Tells | How::LeavesTelling => ("shop", Method::POST),
    };
    let call = Call::new(method, &format!("http://{host}{}", order.path()));
    let call = call.header(RUN, &order.number.to_string()).header(SCRIPT, order.kind.script);
    match order.kind.how {
        How::Tells => call.body(full(vec![b'x'; 1000 + order.number % 1000])),
        How::Calls => call
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(full(&[0, 0, 0, 0, 2, 1, 2][..])),
        How::Asks | How::LeavesTelling | How::LeavesListening => call,
    }
}

/// `Err`: the answer broke off.
async fn answered(order: Order, connection: &mut Connection, call: Call) -> Result<Heard, Heard> {
    match connection.try_send(call).await {
        Ok(reply) => {
            let trailer = reply.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
            let grpc = trailer.and_then(|value| value.to_str().ok()).unwrap_or_else(|| reply.header("grpc-status"));
            Ok(Heard { number: order.number, code: reply.status, grpc: grpc.to_owned(), flag: reply.flag().to_owned() })
        }
        // `200 OK and then: …`: the head came, the body broke off.
        Err(why) => {
            let code = why.split(' ').next().and_then(|word| word.parse::<StatusCode>().ok());
            let code = code.filter(|_| why.contains("and then")).unwrap_or_else(|| panic!("{}: {why}", order.path()));
            Err(Heard { number: order.number, code: code.as_u16(), grpc: String::new(), flag: String::new() })
        }
    }
}

/// Sends half a body and goes, once the app has begun to read.
async fn leaves_telling(order: Order, connection: &mut Connection, call: Call, fleet: &Fleet) {
    let (frames, body) = stream();
    let leave = async move {
        frames.send(Ok(Frame::data("half of".into()))).await.expect("the body is read");
        has_begun(fleet, &order.number.to_string()).await;
        let _ = frames.send(Err(std::io::Error::other("the caller leaves"))).await;
    };
    let (response, ()) = tokio::join!(connection.begin(call.body(body)), leave);
    assert!(response.is_err(), "{} was answered {response:?}", order.path());
}

/// Waits until the app has the head of a request.
async fn has_begun(fleet: &Fleet, run: &str) {
    let begun = async {
        while fleet.count(run) == 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap_or_else(|_| panic!("request {run} does not reach the app"));
}
