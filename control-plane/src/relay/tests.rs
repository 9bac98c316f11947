//! Lines and the switchboard, with a proxy played by the test.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use leno_config::ir::Locality;
use leno_config::node::{Interception, Node};
use leno_proxy::relay::wire::{self, Ask, Cancel, Chunk, Command, End, Head, More, Report, Said, Told};

use super::line::{AskError, Line};
use super::switchboard::{NotFound, Switchboard};

fn node(name: &str, namespace: &str) -> Node {
    Node {
        name: name.to_owned(),
        ip: [10, 0, 0, 1].into(),
        namespace: namespace.to_owned(),
        service_account: "default".to_owned(),
        workload: name.to_owned(),
        labels: [].into(),
        locality: Locality::default(),
        interception: Interception::None,
    }
}

/// For a proxy that does not answer.
const SHORT: Duration = Duration::from_millis(500);

fn says(line: &Line, said: Said) {
    line.on_report(Report::from(said)).expect("it keeps to the rules");
}

/// Everything that is to be told now.
fn told(line: &Line) -> Vec<Told> {
    std::iter::from_fn(|| line.next_command()).filter_map(|Command { told }| told).collect()
}

fn head(id: u64) -> Said {
    Said::Head(Head { id, status: 200, content_type: "text/plain".to_owned() })
}

/// Asks, and lets the proxy answer with a head.
async fn begin(line: &Arc<Line>) -> (u64, super::answer::Answer) {
    let asking = line.ask("GET", "/stats?a=b");
    let answering = async {
        line.woken().await;
        match told(line).as_slice() {
            [Told::Ask(Ask { id, method, path_and_query })] if method == "GET" && path_and_query == "/stats?a=b" => {
                says(line, head(*id));
                *id
            }
            other => panic!("{other:?}"),
        }
    };
    let (answer, id) = tokio::join!(asking, answering);
    (id, answer.expect("a head").1)
}

#[tokio::test]
async fn an_answer_is_read_as_it_comes() {
    let line = Line::new(node("a", "n"));
    let (id, mut answer) = begin(&line).await;
    for data in ["one", "two"] {
        says(&line, Said::Chunk(Chunk { id, data: Bytes::from(data) }));
        let frame = answer.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), data);
    }
    says(&line, Said::End(End { id, error: String::new() }));
    assert!(answer.frame().await.is_none());
    drop(answer);
    assert!(told(&line).is_empty(), "what has ended is not cancelled");
}

#[tokio::test]
async fn what_was_read_is_given_back_and_what_was_not_is_not() {
    let line = Line::new(node("a", "n"));
    let (id, mut answer) = begin(&line).await;
    let data = Bytes::from(vec![0; wire::LARGEST_CHUNK]);
    let cost = wire::cost(data.len());
    let chunk = || Report::from(Said::Chunk(Chunk { id, data: data.clone() }));
    let fitting = wire::WINDOW / cost;
    for _ in 0..fitting {
        line.on_report(chunk()).expect("it fits");
    }
    let refused = line.on_report(chunk()).expect_err("more than a window");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let mut read = 0;
    while told(&line).is_empty() {
        assert!(answer.frame().await.is_some_and(|frame| frame.is_ok()));
        read += 1;
        assert!(read <= fitting);
        if read * cost >= wire::WINDOW / 2 {
            assert_eq!(told(&line), [Told::More(More { id, cost: read * cost })]);
            break;
        }
    }
    line.on_report(chunk()).expect("there is room again");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_any_more_is_cancelled() {
    let line = Line::new(node("a", "n"));
    let (id, answer) = begin(&line).await;
    drop(answer);
    assert_eq!(told(&line), [Told::Cancel(Cancel { id })]);
    says(&line, Said::Chunk(Chunk { id, data: Bytes::from("late") }));
    says(&line, Said::End(End { id, error: String::new() }));
}

#[tokio::test]
async fn a_stream_that_ends_ends_its_answers_with_an_error() {
    let switchboard = Arc::new(Switchboard::default());
    let connected = switchboard.connect(node("a", "n")).expect("room");
    let line = Arc::clone(&connected.line);
    let (_, mut answer) = begin(&line).await;
    drop(connected);
    assert!(answer.frame().await.expect("a frame").is_err());
    assert_eq!(line.ask("GET", "/").await.expect_err("gone"), AskError::Gone);
    assert!(switchboard.all().is_empty());
}

#[tokio::test]
async fn a_silent_proxy_costs_a_place_for_the_deadline_only() {
    let line = Line::new(node("a", "n"));
    let asks = (0..wire::CONCURRENT).map(|_| {
        let line = Arc::clone(&line);
        tokio::spawn(async move { line.ask_within(SHORT, "GET", "/").await.map(|_| ()) })
    });
    let asks = asks.collect::<Vec<_>>();
    tokio::task::yield_now().await;
    assert_eq!(line.ask("GET", "/").await.expect_err("full"), AskError::Busy);
    assert_eq!(told(&line).len(), wire::CONCURRENT);
    for ask in asks {
        assert_eq!(ask.await.expect("no panic"), Err(AskError::Silent));
    }
    assert_eq!(told(&line).len(), wire::CONCURRENT, "all are cancelled");
    begin(&line).await;
}

#[test]
fn a_proxy_that_comes_back_takes_its_own_place() {
    let switchboard = Arc::new(Switchboard::default());
    let old = switchboard.connect(node("a", "n")).expect("room");
    let new = switchboard.connect(node("a", "n")).expect("room");
    drop(old);
    let found = switchboard.find("a", &[]).expect("it is there");
    assert!(Arc::ptr_eq(&found, &new.line));
}

#[test]
fn a_proxy_is_found_by_its_names() {
    let switchboard = Arc::new(Switchboard::default());
    let nodes = [("cart-1", "shop"), ("cart-2", "shop"), ("cart-1", "bank"), ("a.b", "shop")];
    let _connected = nodes.map(|(name, namespace)| switchboard.connect(node(name, namespace)).expect("room"));
    for (name, expected) in [
        ("cart-2", Ok("cart-2.shop")),
        ("cart-1.bank", Ok("cart-1.bank")),
        ("a.b", Ok("a.b.shop")),
        ("a.b.shop", Ok("a.b.shop")),
        ("sidecar~10.0.0.1~cart-1.shop~shop.svc.cluster.local", Ok("cart-1.shop")),
        ("cart-1", Err("several proxies are called `cart-1`: cart-1.bank, cart-1.shop; write one of these")),
        ("catr-2.shop", Err("no connected proxy is called `catr-2.shop`; did you mean cart-2.shop or cart-1.shop?")),
        ("zzz", Err("no connected proxy is called `zzz`; `leno status` lists those that are connected")),
    ] {
        let found = switchboard.find(name, &[]).map(|line| super::switchboard::full_name(&line.node));
        let found = found.map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{name}");
    }
    let foreign = [node("envoy", "shop")];
    assert_eq!(switchboard.find("envoy.shop", &foreign).unwrap_err(), NotFound::NoStream("envoy.shop".to_owned()));
}
