use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use super::wire::{AT_ONCE, Message, PROTOCOL};
use super::*;

/// A running process's end in a directory, and what it would hand over.
async fn running(directory: &std::path::Path) -> (Giver, Claim) {
    let mut claimed = claim(directory, false, "shop").await.expect("nobody else has it");
    let giver = Giver::new(claimed.door.take()).expect("a socket");
    (giver, claimed)
}

fn listening() -> (std::net::SocketAddr, std::os::fd::OwnedFd) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    (socket.local_addr().expect("an address"), socket.into())
}

#[tokio::test]
async fn a_directory_has_one_owner_and_the_socket_is_the_owners_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_giver, _claimed) = running(directory.path()).await;
    let refused = claim(directory.path(), false, "shop").await.expect_err("it has an owner").to_string();
    assert!(refused.contains(&format!("process {}", std::process::id())) && refused.contains("--upgrade"), "{refused}");
    let mode = std::fs::metadata(directory.path().join(SOCKET)).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn what_an_ended_process_left_behind_is_no_owner() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(running(directory.path()).await);
    let claimed = claim(directory.path(), true, "shop").await.expect("it has no owner");
    assert!(claimed.taking.is_none() && claimed.door.is_some());
}

#[tokio::test]
async fn all_sockets_arrive_however_many_and_whoever_waits_in_one_is_served() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut giver, claimed) = running(directory.path()).await;
    let (mut parts, mut addresses) = (Vec::new(), Vec::new());
    for number in 0..2 * AT_ONCE + 3 {
        let (address, socket) = listening();
        addresses.push(address);
        parts.push((Part::Listener { name: Arc::from(format!("listener-{number}")), asked: address }, socket));
    }
    let waiting = std::net::TcpStream::connect(addresses[5]).expect("the queue takes it");
    parts.push((Part::Lock, claimed.lock.as_ref().expect("it is ours").as_fd().try_clone_to_owned().expect("a copy")));
    let gives = async {
        let Asked::ToTakeOver(hello) = giver.next().await else { panic!("a hello") };
        assert_eq!((hello.protocol, hello.node.as_str(), hello.process), (PROTOCOL, "shop", std::process::id()));
        assert_eq!(Giver::objection(&hello, "shop"), None);
        giver.offer(parts).await.expect("offered");
        assert!(matches!(giver.next().await, Asked::ToServe));
        giver.yields().await.expect("yielded");
        assert!(matches!(giver.next().await, Asked::Nothing));
        giver.is_done();
    };
    let takes = async {
        let mut taken = claim(directory.path(), true, "shop").await.expect("handed over");
        let mut line = taken.taking.take().expect("somebody serves");
        line.is_ready().await;
        assert!(matches!(line.next().await, Taken::Yours));
        assert!(matches!(line.serves().await, Taken::Yours));
        taken
    };
    let ((), mut taken) = tokio::join!(gives, takes);
    for (number, address) in addresses.iter().enumerate() {
        let socket = taken.inherited.take_listener(&(Arc::from(format!("listener-{number}")), *address));
        let socket = socket.expect("each arrives");
        assert_eq!(socket.local_addr().expect("an address"), *address);
        if number == 5 {
            assert_eq!(socket.accept().expect("it waited").1, waiting.local_addr().expect("an address"));
        }
    }
    drop((giver, claimed));
    let refused = claim(directory.path(), false, "shop").await.expect_err("the lock has gone over");
    assert!(matches!(refused, ClaimError::Held { .. }), "{refused}");
    assert!(taken.door.is_some(), "and the socket for the next one");
}

#[tokio::test]
async fn a_new_process_that_serves_too_late_hears_that_all_was_taken_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut giver, _claimed) = running(directory.path()).await;
    let gives = async {
        assert!(matches!(giver.next().await, Asked::ToTakeOver(_)));
        giver.offer(Vec::new()).await.expect("offered");
        assert!(matches!(giver.next().await, Asked::ToServe));
        giver.yields().await.expect("yielded");
        giver.takes_back("it has waited for ten seconds").await;
    };
    let takes = async {
        let mut line =
            claim(directory.path(), true, "shop").await.expect("handed over").taking.expect("somebody serves");
        line.is_ready().await;
        assert!(matches!(line.next().await, Taken::Yours));
        line
    };
    let ((), line) = tokio::join!(gives, takes);
    let Taken::Back(why) = line.serves().await else { panic!("two processes would serve") };
    assert!(why.contains("ten seconds"), "{why}");
}

#[tokio::test]
async fn another_protocol_or_node_is_refused_in_words() {
    let hello = |protocol, node: &str| Hello { protocol, version: "9.9".to_owned(), node: node.to_owned(), process: 1 };
    let rows = [
        (hello(PROTOCOL, "shop"), None),
        (hello(PROTOCOL + 1, "shop"), Some("restart instead of upgrading")),
        (hello(PROTOCOL, "cart"), Some("a state directory of its own")),
    ];
    for (hello, words) in rows {
        let objection = Giver::objection(&hello, "shop");
        assert_eq!(objection.is_some(), words.is_some(), "{hello:?}");
        assert!(objection.unwrap_or_default().contains(words.unwrap_or_default()), "{hello:?}");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (mut giver, _claimed) = running(directory.path()).await;
    let refuses = async {
        assert!(matches!(giver.next().await, Asked::ToTakeOver(_)));
        giver.refuse("it rains".to_owned()).await;
    };
    let ((), refused) = tokio::join!(refuses, claim(directory.path(), true, "shop"));
    let refused = refused.expect_err("refused");
    let ClaimError::Refused { source, .. } = &refused else { panic!("{refused}") };
    assert!(source.to_string().contains("it rains"), "{source}");
}

#[tokio::test]
async fn a_new_process_that_ends_before_it_serves_leaves_everything_where_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut giver, claimed) = running(directory.path()).await;
    for says_ready in [false, true] {
        let gives = async {
            assert!(matches!(giver.next().await, Asked::ToTakeOver(_)));
            giver.offer(Vec::new()).await.expect("offered");
            if says_ready {
                assert!(matches!(giver.next().await, Asked::ToServe));
                // The other end may be gone already.
                let _ = giver.yields().await;
            }
            let Asked::Back(why) = giver.next().await else { panic!("it is gone") };
            assert!(why.contains("has ended"), "{why}");
            giver.takes_back(&why).await;
        };
        let takes = async {
            let mut taken = claim(directory.path(), true, "shop").await.expect("handed over");
            if says_ready {
                taken.taking.as_mut().expect("somebody serves").is_ready().await;
            }
        };
        tokio::join!(gives, takes);
    }
    drop(claimed);
}

#[tokio::test]
async fn who_says_nothing_or_nonsense_or_is_late_holds_nobody_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut giver, _claimed) = running(directory.path()).await;
    (giver.word, giver.ready) = (Duration::from_millis(50), Duration::from_millis(50));
    let connect = || {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None).expect("a socket");
        let path = socket2::SockAddr::unix(directory.path().join(SOCKET)).expect("a path");
        socket.connect(&path).expect("it listens");
        socket
    };
    let (silent, mad, hasty) = (connect(), connect(), connect());
    mad.send(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    hasty.send(br#""ready""#).expect("sent");
    let gives = async {
        let Asked::ToTakeOver(_) = giver.next().await else { panic!("a hello") };
        giver.offer(Vec::new()).await.expect("offered");
        let Asked::Back(why) = giver.next().await else { panic!("it is late") };
        giver.takes_back(&why).await;
        why
    };
    let takes = async {
        let mut taken = claim(directory.path(), true, "shop").await.expect("its turn comes");
        taken.taking.as_mut().expect("somebody serves").next().await
    };
    let (why, told) = tokio::join!(gives, takes);
    assert!(why.contains("not ready in time"), "{why}");
    assert!(matches!(told, Taken::Back(_)), "{told:?}");
    drop((silent, mad, hasty));
}

#[tokio::test]
async fn when_the_running_process_dies_the_new_one_has_everything() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut giver, claimed) = running(directory.path()).await;
    let (address, socket) = listening();
    let gives = async {
        assert!(matches!(giver.next().await, Asked::ToTakeOver(_)));
        giver.offer(vec![(Part::Own { name: "admin".to_owned(), asked: address }, socket)]).await.expect("offered");
        drop((giver, claimed));
    };
    let ((), taken) = tokio::join!(gives, claim(directory.path(), true, "shop"));
    let mut taken = taken.expect("handed over");
    assert!(matches!(taken.taking.as_mut().expect("there was one").next().await, Taken::Orphaned));
    let (_open, gate) = tokio::sync::watch::channel(Gate::Open);
    let own = OwnSockets::new(&mut taken.inherited, gate);
    let admin = own.open("admin", address).await.expect("it came along");
    assert_eq!(admin.local_addr().expect("an address"), address);
    assert_eq!(own.lend().expect("copies").len(), 1);
}

#[test]
fn packets_of_other_versions_are_told_apart_from_noise() {
    let newer = r#"{"hello":{"protocol":7,"version":"x","node":"n","process":1,"more":true}}"#;
    let newer: Message = serde_json::from_str(newer).expect("a hello may grow");
    assert!(matches!(newer, Message::Hello(Hello { protocol: 7, .. })));
    for noise in ["", "{}", r#"{"sockets":{"parts":[{"lock":1}],"last":true}}"#, r#""yes""#] {
        assert!(serde_json::from_str::<Message>(noise).is_err(), "{noise}");
    }
}
